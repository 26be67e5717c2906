"""The study: what a notebook opens, which runs it needs, and a whole run from the text to the evidence."""

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from xltlib import StudyError, notebooks
from xltlib.claims import pooling
from xltlib.claims.evidence import HALF_BITS, claim_runs, evidence, stage_specs
from xltlib.claims.ledger import DESIGN, Design, load_ledger, read_yaml
from xltlib.params import Params, load, to_dict
from xltlib.plan import Costs, Slice, slices
from xltlib.pool import Tell, compute, compute_all, job_count, missing, tell_user
from xltlib.runs import STAGES, Runs, closure, describe
from xltlib.store import (
    MANIFEST,
    RUNS,
    Result,
    Spec,
    Store,
    canonical,
    commit,
    file_problems,
    gpus,
    publish,
    read_json,
    read_published,
    sha256_file,
    system_errors,
    write_json,
)

DONE = ".done"  # ending of the file that stands for a finished slice
NOTEBOOK = 10.0  # seconds that one takes, where none was executed yet
# On another processor sums round otherwise, and training carries that on: a run's mean scores then differ as
# they do between two trainings.
NEARBY = 0.1  # largest difference of a run's mean score over its settings


@dataclass(frozen=True)
class Session:
    """What a notebook works with: the parameters, the store of runs, and the folder of its figures.

    `fresh` passes over published evidence; `jobs` is the number of processes that compute runs.
    """

    params: Params
    root: Path
    figures: Path
    jobs: int
    fresh: bool
    _specs: dict[str, list[Spec]] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def store(self) -> Store:
        """Runs under runs/, and behind them those that are published, by the profile before others."""
        folders = sorted(file.parent for file in self.published.parent.glob(f"[!.]*/{RUNS}"))
        others = [folder for folder in folders if folder != self.published]
        return Store(self.root / "runs", [] if self.fresh else [self.published, *others])

    @cached_property
    def runs(self) -> Runs:
        """The specs of all runs of the study."""
        return Runs(self.params)

    @property
    def published(self) -> Path:
        """The folder of the profile's published evidence."""
        return self.root / "figures" / self.params.profile

    @property
    def computed(self) -> Path:
        """The folder of the evidence that a run of the whole profile leaves, as `xlt publish` takes it."""
        return self.root / "runs" / "evidence" / self.params.profile

    @property
    def ledger(self) -> Path:
        """The file of statements and their tests."""
        return self.root / "params" / "claims.yaml"

    @cached_property
    def costs(self) -> Costs:
        """What runs of this study take, by those that are finished or published."""
        return Costs(self.store, self.root / "figures", self.params)

    def specs(self, stage: str) -> list[Spec]:
        """The runs whose results a notebook shows, those that statements and questions ask for included."""
        if stage not in self._specs:
            self._specs[stage] = stage_specs(self.runs, self.ledger, stage)
        return self._specs[stage]

    def all_specs(self) -> list[Spec]:
        """The runs of all notebooks, and what they build on, each once."""
        return closure(spec for stage in STAGES for spec in self.specs(stage))

    def results(self, stage: str) -> list[Result]:
        """The results of the runs that a notebook needs, in the order of `specs`; computed where missing."""
        require_downloads(self.params)
        width = 0

        def tell(text: str) -> None:  # one line, overwritten, and gone when all is done
            nonlocal width
            print("\r" + text.ljust(width), end="", flush=True)
            width = len(text)

        try:
            specs = self.specs(stage)
            return compute_all(specs, self.store, self.jobs, tell, self.costs.seconds)
        finally:
            if width:
                print("\r" + " " * width, end="\r", flush=True)

    def own(self, *specs: Spec) -> list[Result]:
        """The results of runs that train by a function of the notebook's own, computed in this process.

        No other process can call such a function. Its text is part of the run: a changed one makes another.
        Nothing else is trained here: where the encoder to go on from was published without its weights, or is
        a large published model, there are no results, which is told.
        """
        import torch

        todo = missing(specs, self.store)
        others = [spec for spec in todo if not any("code" in one.params for one in closure([spec]))]
        if others or self.params.model:
            lacking = describe(others[0]) if others else self.params.model
            print(f"Not trained in a notebook: {lacking}. `xlt run --fresh` leaves encoders to go on from.")
            return []
        torch.set_num_threads(1)  # as in the processes of the pool, whose numbers these are compared with
        return [compute(spec, self.store) for spec in specs]

    def claims(self) -> dict[str, tuple[list[Spec], list[str]]]:
        """For each statement the runs that its tests need, and the names of those that cannot be made."""
        ledger = load_ledger(self.ledger)
        return {claim.id: claim_runs(ledger, self.runs, claim.id) for claim in ledger.claims}

    def available(self, specs: Iterable[Spec]) -> list[Result]:
        """The results of those runs that need not be computed."""
        return [self.store.result(s) for s in specs if self.store.status(s) in ("done", "published")]


def find_root() -> Path:
    """The study's folder: XLT_ROOT, or the nearest with params/claims.yaml above here or above this code."""
    if named := os.environ.get("XLT_ROOT"):
        root = Path(named).resolve()
        if not (root / "params").is_dir():
            raise StudyError(f"XLT_ROOT={named}: not the folder of a study: it has no folder params")
        return root
    here = Path.cwd()
    # a notebook may be opened from any folder: an installed checkout knows where it is
    for start in (here, Path(__file__).resolve().parent):
        for folder in (start, *start.parents):
            if (folder / "params" / "claims.yaml").is_file() and (folder / "pyproject.toml").is_file():
                return folder
    raise StudyError(f"{here} is not inside the study: change to its folder, or name it in XLT_ROOT")


def default_jobs(device: str = "cpu") -> int:
    """Processes that compute runs: XLT_JOBS; or one for each GPU; or two where there are as many cores."""
    if text := os.environ.get("XLT_JOBS"):
        try:
            return job_count(text)
        except StudyError as error:
            raise StudyError(f"XLT_JOBS={error}") from None
    return max(1, len(gpus())) if device == "cuda" else min(2, os.cpu_count() or 1)


def open(params: Params, *, jobs: int | None = None, fresh: bool | None = None) -> Session:
    """Where the study with these parameters finds its runs and puts its figures.

    The environment may say more: XLT_ROOT, XLT_JOBS, XLT_FIGURES, XLT_FRESH=1 (pass over published evidence).
    StudyError where they name no such place, and where the runs of the confirmation would be judged by rules
    that are not the frozen ones.
    """
    root = find_root()
    restore(root / "figures")
    figures = root / "runs" / "figures" / params.profile
    if named := os.environ.get("XLT_FIGURES"):
        figures = Path(named)
        if not figures.is_dir() and (figures.exists() or not figures.parent.is_dir()):
            what = "not a folder" if figures.exists() else f"there is no folder {figures.parent}"
            raise StudyError(f"XLT_FIGURES={named}: {what}: name a folder for figures, or one to be made")
    fresh = os.environ.get("XLT_FRESH") == "1" if fresh is None else fresh
    design = root / "params" / DESIGN
    if design.is_file() and read_yaml(design)["confirmation"]["profile"] == params.profile:
        load_ledger(design.with_name("claims.yaml")).design.require_frozen(params.profile)
    return Session(params, root, figures, jobs or default_jobs(params.device), fresh)


def require_downloads(params: Params, tell: Tell | None = None) -> None:
    """Fetch what real languages need, or name all that is missing; synthetic ones need nothing."""
    if params.data == "real":
        from xltlib.data import downloads

        downloads.require(params, tell)


# A whole study


def stages(only: Sequence[str]) -> tuple[str, ...]:
    """The notebooks meant by words such as `03` or `03_finetuning`; without any, all of them."""
    asked = set()
    for word in only:
        found = [name for name in STAGES if name.startswith(Path(word).stem)] if word else []
        if len(found) != 1:
            raise StudyError(f"--only {word}: expected one of {', '.join(STAGES)}, or its number")
        asked.add(found[0])
    return tuple(name for name in STAGES if name in asked or not asked)


def run(
    params_path: str | Path,
    only: Sequence[str] = (),
    overrides: Mapping[str, str] | None = None,
    jobs: int | None = None,
    fresh: bool = False,
    tell: Tell = tell_user,
) -> Session:
    """Compute what is missing, execute the notebooks, and compare the evidence with what is published.

    All that it makes lies in runs/ and site/; `publish_computed` alone writes into figures/.

    Parameters
    ----------
    params_path : the profile's file, named as the profile
    only : notebooks, by name or number; then no evidence is put together
    overrides : name -> YAML text that wins over the file; then none is put together either
    jobs : processes that compute runs
    fresh : compute what the store lacks even where it is published

    Raises StudyError for parameters that cannot be used, before any work; for a run or a notebook that fails.
    """
    params = load(params_path, overrides)
    require_downloads(params, tell)
    asked, changed = stages(only), params != load(params_path)
    if Path(params_path).stem != params.profile:
        difference = f"the profile is {params.profile}, the file {Path(params_path).name}"
        raise StudyError(f"{params_path}: {difference}: a profile's file has its name")
    session = open(params, jobs=jobs, fresh=fresh)
    for stage in asked:  # a wrong parameters cell is told before the work
        notebooks.declared(session.root / "notebooks" / f"{stage}.ipynb")
    specs = [spec for stage in asked for spec in session.specs(stage)]
    times = _earlier(session).get("notebook_seconds", {})
    drawing = sum(times.get(stage, NOTEBOOK) for stage in asked) / min(session.jobs, notebooks.AT_ONCE)
    compute_all(specs, session.store, session.jobs, tell, session.costs.seconds, drawing)
    folder = _output(session, "notebooks", changed)
    with system_errors(session.root / "runs"):
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / ".lock"):
            todo = [job(session, stage, changed) for stage in asked]  # now that their runs are there
            notebooks.execute(todo, session.jobs, _environment(session), tell)
            if only or changed:
                why = "only some notebooks ran" if only else "parameters were changed"
                where = f"{folder} and {_output(session, 'figures', changed)}"
                tell(f"no evidence is put together, because {why}: see {where}")
            else:
                if _assemble(session, todo):
                    _page(session, tell)
                tell(Comparison.of(session.computed, session.published).sentence())
    return session


def job(session: Session, stage: str, changed: bool = False) -> notebooks.Job:
    """A notebook with the session's parameters, and the digest of all that its executed copy depends on.

    It is passed those parameters that its own cell, or else the default, has otherwise.
    """
    source = session.root / "notebooks" / f"{stage}.ipynb"
    values, own = to_dict(session.params), to_dict(Params()) | notebooks.declared(source)
    passed = {name: value for name, value in values.items() if own[name] != value}
    runs = [(spec.digest, session.store.status(spec)) for spec in session.specs(stage)]
    ledger = [session.ledger, session.ledger.with_name("reports.yaml"), session.ledger.with_name(DESIGN)]
    files = {p.name: sha256_file(p) for p in [source, *filter(Path.is_file, ledger)]}
    digest = sha256(canonical({"params": values, "runs": runs, "files": _code() | files})).hexdigest()
    copy = _output(session, "notebooks", changed) / source.name
    return notebooks.Job(source, copy, _output(session, "figures", changed) / stage, passed, digest)


@cache
def _code() -> dict[str, str]:
    """The digests of the files of this package, which notebooks depend on."""
    package = Path(__file__).parent
    paths = [path for path in package.rglob("*.*") if path.suffix in (".py", ".json", ".yaml")]
    return {str(path.relative_to(package)): sha256_file(path) for path in sorted(paths)}


def _output(session: Session, kind: str, changed: bool) -> Path:
    """A folder for what is made; changed parameters have their own, so that a profile's is never mixed."""
    digest = sha256(canonical(to_dict(session.params))).hexdigest()[:8]
    return session.root / "runs" / kind / (session.params.profile + (f"-{digest}" if changed else ""))


def _environment(session: Session) -> dict[str, str]:
    """What a kernel needs to work in the same study, with the same code, beside another one."""
    path = [str(Path(__file__).resolve().parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        "XLT_ROOT": str(session.root), "XLT_JOBS": str(session.jobs), "XLT_FRESH": str(int(session.fresh)),
        "PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1",
    }  # fmt: skip


# Evidence


def _assemble(session: Session, jobs: Sequence[notebooks.Job]) -> bool:
    """Put figures, verdicts, runs with their scores and the manifest together; whether that was needed."""
    folder, stamp = session.computed, session.computed.with_name(f".{session.params.profile}.json")
    inputs = {job.source.stem: read_json(job.stamp) for job in jobs}
    if stamp.is_file() and read_json(stamp) == inputs and not damaged(folder):
        return False
    stamp.unlink(missing_ok=True)
    results = session.available(session.all_specs())
    with _replaced(folder) as aside:
        publish(results, aside)
        write_json(aside / "claims.json", evidence(session.params, session.store, session.ledger))
        for path in [path for job in jobs for path in job.drawn()]:
            if (aside / path.name).exists() or path.name == MANIFEST:
                raise StudyError(f"{path}: {path.name} is there already: give this figure another name")
            shutil.copyfile(path, aside / path.name)
        files = {path.name: sha256_file(path) for path in sorted(aside.iterdir())}
        write_json(aside / MANIFEST, manifest(session, results, jobs) | {"files": files})
    write_json(stamp, inputs)
    return True


def damaged(folder: Path) -> list[str]:
    """What is wrong with the files of an evidence folder, by its manifest."""
    path = folder / MANIFEST
    if not path.is_file():
        return [f"{path}: there is no such file"]
    return list(file_problems(folder, read_json(path)["files"], MANIFEST))


def _earlier(session: Session) -> dict[str, Any]:
    """The manifest of what the profile has published; empty without one."""
    path = session.published / MANIFEST
    return read_json(path) if path.is_file() else {}


def manifest(session: Session, results: Sequence[Result], jobs: Sequence[notebooks.Job]) -> dict[str, Any]:
    """Where the evidence comes from: parameters, ledger, machines, and what each kind of run cost.

    Memory and machine of a run that was taken from published evidence are those of the published manifest.
    """
    earlier = _earlier(session)
    known = [r.record["environment"] for r in results if "environment" in r.record]
    if len(known) < len(results):
        known = [*earlier.get("environments", []), *known]
    machines = [m for i, m in enumerate(known) if m not in known[:i]]
    costs = {}
    for kind in dict.fromkeys(r.kind for r in results):
        own = [r for r in results if r.kind == kind]
        memory = [r.record["memory_mb"]["cpu"] for r in own if "memory_mb" in r.record]
        if len(memory) < len(own):
            memory.append(earlier.get("runs", {}).get(kind, {}).get("peak_memory_mb") or 0)
        seconds = round(sum(r.seconds for r in own), 1)
        costs[kind] = {"runs": len(own), "seconds": seconds, "peak_memory_mb": max(memory)}
    times = {job.source.stem: job.seconds() for job in jobs}
    total = sum(cost["seconds"] for cost in costs.values()) + sum(times.values())
    ledger = load_ledger(session.ledger)
    return _rules(ledger.design, session) | {
        "parameters": to_dict(session.params), "ledger_digest": ledger.digest,
        "environments": machines, "runs": costs, "number_of_runs": len(results), "notebook_seconds": times,
        "total_seconds": round(total, 1),
    }  # fmt: skip


def _rules(design: Design, session: Session) -> dict[str, Any]:
    """The rules that confirmatory runs were started under, as first published, with their commit."""
    if not design.confirms(session.params.profile):
        return {}
    rules = _earlier(session).get("rules") or {"digest": design.digest, "commit": commit(session.root)}
    if rules["digest"] != design.digest:
        raise StudyError(
            f"{session.published}: its runs were started under the rules {rules['digest']}, and those of"
            f" params/{DESIGN} and the ledger are now {design.digest}: undo the change"
        )
    return {"rules": rules}


@dataclass(frozen=True)
class Comparison:
    """Evidence that was computed here beside what is published of the same runs.

    runs : those that both have; same : of these, whose scores agree to the last bit; near : whose mean scores
    agree within NEARBY; verdicts : (as published, all that both have)
    """

    published: Path
    runs: int
    same: int
    near: int
    verdicts: tuple[int, int]
    one_processor: bool

    @classmethod
    def of(cls, computed: Path, published: Path) -> "Comparison":
        """Read both folders; a published one that is absent has no runs."""
        if not (published / "claims.json").is_file():  # nothing, or runs of a study that goes on
            return cls(published, 0, 0, 0, (0, 0), True)
        ours, theirs = read_published(computed), read_published(published)
        both = [(ours[d].scores, theirs[d].scores) for d in ours if d in theirs and theirs[d].scores]
        same = near = 0
        for one, other in both:
            alike = one.keys() == other.keys()
            same += alike and all(np.array_equal(one[name], other[name]) for name in one)
            near += alike and all(abs(one[name].mean() - other[name].mean()) <= NEARBY for name in one)
        verdicts, processors = [], []
        for folder in (computed, published):
            verdicts.append({c["id"]: c["verdict"] for c in read_json(folder / "claims.json")["claims"]})
            processors.append({m["cpu"] for m in read_json(folder / MANIFEST)["environments"]})
        shared = verdicts[0].keys() & verdicts[1].keys()
        agreed = sum(verdicts[0][name] == verdicts[1][name] for name in shared)
        one_processor = processors[0] == processors[1]
        return cls(published, len(both), same, near, (agreed, len(shared)), one_processor)

    @property
    def clean(self) -> bool:
        """Whether the same runs have the same numbers: to the last bit on one kind of processor."""
        return self.runs == (self.same if self.one_processor else self.near)

    def sentence(self) -> str:
        """The comparison in one line."""
        if not self.runs:
            return f"nothing to compare: {self.published} has no run of these parameters (see `xlt publish`)"
        where = "the same kind of processor" if self.one_processor else "another kind of processor"
        near = "" if self.one_processor else f", {self.near} with mean scores within {NEARBY:g}"
        agreed, shared = self.verdicts
        return (
            f"compared with {self.published}, from {where}: {self.same} of {self.runs} runs to the last bit"
            f"{near}; {agreed} of {shared} verdicts as published"
        )


def publish_computed(session: Session, replace: bool = False) -> Comparison:
    """Put the evidence that a run of the profile left into figures/.

    StudyError where there is none, where it is damaged, or, without `replace`, where runs that are published
    already have other numbers now.
    """
    source, folder = session.computed, session.published
    if wrong := damaged(source):
        raise StudyError(f"{wrong[0]}: `xlt run` puts the evidence together")
    comparison = Comparison.of(source, folder)
    if not comparison.clean and not replace:
        raise StudyError(f"{comparison.sentence()}. `xlt publish --replace` publishes what is different too")
    with _replaced(folder) as aside:
        shutil.copytree(source, aside, dirs_exist_ok=True)
    _pool(session)
    return comparison


def publish_runs(session: Session) -> int:
    """Put the finished runs of a study that goes on into figures/, without figures or verdicts; their number.

    They stand in for runs that a store lacks, so that a long study can be computed in slices on several
    machines; what is published stays. StudyError where the profile has verdicts already, or where the store
    has other scores of a published run.
    """
    folder = session.published
    if (folder / "claims.json").is_file():
        raise StudyError(f"{folder} has verdicts: publish the whole study (`xlt publish` without --runs)")
    specs = [spec for spec in session.all_specs() if session.store.status(spec) in ("done", "published")]
    runs = read_published(folder) if (folder / RUNS).is_file() else {}
    for result in map(session.store.result, specs):
        earlier = runs.setdefault(result.digest, result)
        pairs = [(result.scores[name], earlier.scores.get(name)) for name in result.scores]
        if not all(y is not None and np.allclose(x, y, rtol=0, atol=HALF_BITS) for x, y in pairs):
            raise StudyError(
                f"{folder}: run {result.digest} ({result.kind}) has other scores in {session.store.root}:"
                " finish the seeds of a slice on the machine that began them"
            )
    rules = _rules(load_ledger(session.ledger).design, session)
    with _replaced(folder) as aside:
        publish(list(runs.values()), aside)
        files = {path.name: sha256_file(path) for path in sorted(aside.iterdir())}
        write_json(aside / MANIFEST, {"parameters": to_dict(session.params), **rules, "files": files})
    _pool(session)
    return len(runs)


def _pool(session: Session) -> None:
    """Judge all published runs together anew, beside the folders of their profiles."""
    figures = session.published.parent
    try:
        verdicts = pooling.pooled(figures, load_ledger(session.ledger))
    except StudyError as error:
        raise StudyError(
            f"{session.published} is published, but not the verdicts over all: {error}"
        ) from None
    write_json(figures / pooling.POOLED, verdicts)


@contextmanager
def _replaced(folder: Path) -> Iterator[Path]:
    """A folder beside it that takes its place once it is written, so that none is ever half there."""
    aside, old = (folder.with_name(f".{folder.name}.{x}") for x in ("new", "old"))
    with system_errors(folder.parent):
        for leftover in (aside, old):
            shutil.rmtree(leftover, ignore_errors=True)
        aside.mkdir(parents=True)
        try:
            yield aside
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        if folder.exists():
            folder.rename(old)
        aside.rename(folder)
        shutil.rmtree(old, ignore_errors=True)


def restore(figures: Path) -> None:
    """Bring back what was published, if a process was killed while it put new evidence in its place."""
    for old in figures.glob(".*.old"):
        folder = old.with_name(old.name[1:].removesuffix(".old"))
        if not folder.exists():
            old.rename(folder)


def _page(session: Session, tell: Tell) -> None:
    from xltlib import page

    try:
        page.require()
    except StudyError as error:
        tell(f"no page: {error}; then xlt page")
    else:
        executed = _output(session, "notebooks", changed=False)
        first = page.build(session.published.parent, executed, session.root / "site", session.ledger)
        tell(f"the page: {first}")


# A study in slices


def stamps(session: Session) -> tuple[Path, dict[str, Slice]]:
    """The folder of a profile's stamps, and its slices by name.

    The stamps are brought up to date with the store: a slice has one if its runs are finished or published.
    """
    cut = slices(session.all_specs())
    folder = session.root / "runs" / "grid" / session.params.profile
    folder.mkdir(parents=True, exist_ok=True)
    for each in cut.values():
        stamp = folder / (each.name + DONE)
        if missing(each.specs, session.store):
            stamp.unlink(missing_ok=True)
        elif not stamp.exists():
            stamp.touch()
    return folder, cut
