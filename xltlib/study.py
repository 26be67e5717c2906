"""The study: what a notebook opens, which runs it needs, and a whole run from the text to the evidence."""

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pandas as pd

from xltlib import StudyError, notebooks, store
from xltlib.claims.evidence import (
    CHOOSING,
    DAMAGED,
    HALF_BITS,
    POOLED,
    evidence,
    pooled,
    read_all,
    stage_specs,
)
from xltlib.claims.ledger import DESIGN, Design, load_ledger, read_yaml
from xltlib.data import downloads
from xltlib.params import Params, load, to_dict
from xltlib.plan import Costs
from xltlib.pool import Tell, compute, compute_all, default_jobs, missing, tell_user
from xltlib.runs import STAGES, Runs, closure
from xltlib.store import MANIFEST, RUNS, Result, Spec, Store

DONE = ".done"  # ending of the file that stands for a finished run
# On another processor sums round otherwise, and training carries that on: a run's mean scores then differ as
# they do between two trainings.
NEARBY = 0.1  # largest difference of a run's mean score over its settings


class Session:
    """What a notebook works with; the module calls it `open`, as a notebook reads: `study.open(params)`.

    params : the parameters of the study
    root : its folder
    figures : where a notebook's figures go: XLT_FIGURES, or runs/figures/PROFILE
    jobs : the number of processes that compute runs: XLT_JOBS, or as `default_jobs` says
    runs : the specs of all runs
    specs : (notebook) -> the runs that it shows, those that statements and questions ask for included
    store : the runs under runs/, and behind them those that are published, the profile's own first; with
        `fresh`, or XLT_FRESH=1, without the published ones
    costs : what runs take, by those that are finished or published
    ledger : the file of statements and their tests
    published : the folder of the profile's published evidence
    computed : that of the evidence that a run of the whole profile leaves, as `xlt publish` takes it

    StudyError where there is no study, and where the runs of the confirmation would be judged by rules that
    are not the frozen ones.
    """

    def __init__(self, params: Params, *, jobs: int | None = None, fresh: bool | None = None) -> None:
        self.params, self.root = params, find_root()
        self.ledger, figures = self.root / "params" / "claims.yaml", self.root / "figures"
        restore(figures)
        design = self.ledger.with_name(DESIGN)
        try:
            confirms = design.is_file() and read_yaml(design)["confirmation"]["profile"] == params.profile
        except (KeyError, TypeError):  # what is wrong with the design is told where all of it is read
            confirms = True
        if confirms:
            load_ledger(self.ledger).design.require_frozen(params.profile)
        self.jobs = jobs or default_jobs(params.device)
        self.published = figures / params.profile
        self.computed = self.root / "runs" / "evidence" / params.profile
        self.figures = Path(os.environ.get("XLT_FIGURES", self.root / "runs" / "figures" / params.profile))
        folders = sorted(file.parent for file in figures.glob(f"[!.]*/{RUNS}"))
        folders.sort(key=lambda folder: folder != self.published)
        if (asked := os.environ.get("XLT_FRESH", "0")) not in ("", "0", "1"):
            raise StudyError(f"XLT_FRESH={asked}: expected 1 (compute what is published anew) or 0")
        if asked == "1" if fresh is None else fresh:
            folders = []
        self.runs, self.store = Runs(params), Store(self.root / "runs", folders)
        self.specs = cache(partial(stage_specs, self.runs, self.ledger))
        self.costs = Costs(self.store, figures, params)

    def all_specs(self) -> list[Spec]:
        """The runs of all notebooks, and what they build on, each once."""
        return closure(spec for stage in STAGES for spec in self.specs(stage))

    def results(self, stage: str) -> list[Result]:
        """The results of the runs that a notebook needs, in the order of `specs`; computed where missing."""
        from IPython.display import clear_output

        def tell(text: str) -> None:  # one line, which the next one takes the place of
            clear_output(wait=True)
            print(text)

        downloads.require(self.params)
        return compute_all(self.specs(stage), self.store, self.jobs, tell, self.costs.seconds)

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
            lacking = others[0] if others else self.params.model
            print(f"Not trained in a notebook: {lacking}. `xlt run --fresh` leaves encoders to go on from.")
            return []
        torch.set_num_threads(1)  # as in the processes of the pool, whose numbers these are compared with
        return [compute(spec, self.store) for spec in specs]

    def available(self, specs: Iterable[Spec]) -> list[Result]:
        """The results of those runs that need not be computed."""
        return [self.store.result(s) for s in specs if self.store.status(s) in ("done", "published")]


open = Session


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


def named(path: str | Path, overrides: Mapping[str, str] | None = None) -> Params:
    """The parameters of a profile's file; StudyError where it is not named as the profile."""
    params, file = load(path, overrides), Path(path)
    if file.stem != params.profile:
        expected = "a profile's file has its name"
        raise StudyError(f"{file}: the profile is {params.profile}, the file {file.name}: {expected}")
    return params


def run(
    params_path: str | Path, only: Sequence[str] = (), overrides: Mapping[str, str] | None = None,
    jobs: int | None = None, fresh: bool = False, runs_alone: bool = False, tell: Tell = tell_user,
) -> Session:  # fmt: skip
    """Compute what is missing, execute the notebooks, and compare the evidence with what is published.

    All that it makes lies in runs/ and site/; `publish_computed` alone writes into figures/.

    params_path : the profile's file, named as the profile
    only : notebooks, by name or number; then no evidence is put together
    overrides : name -> YAML text that wins over the file; then none is put together either
    fresh : compute what the store lacks even where it is published
    runs_alone : no notebook is executed, as for a slice of a long study

    StudyError for parameters that cannot be used, before any work; for a run or a notebook that fails.
    """
    params = named(params_path, overrides)
    downloads.require(params, tell)
    asked, changed = stages(only), params != load(params_path)
    session = open(params, jobs=jobs, fresh=fresh)
    for stage in asked:  # a wrong parameters cell is told before the work
        notebooks.declared(session.root / "notebooks" / f"{stage}.ipynb")
    specs = [spec for stage in asked for spec in session.specs(stage)]
    drawing = 0.0 if runs_alone else sum(session.costs.notebooks.get(stage, 0.0) for stage in asked)
    compute_all(specs, session.store, session.jobs, tell, session.costs.seconds, later=drawing)
    if runs_alone:
        return session
    todo = [notebook(session, stage) for stage in asked]  # now that their runs are there
    executed = compute_all(todo, session.store, session.jobs, tell, session.costs.seconds)
    if only or changed:
        why = "only some notebooks ran" if only else "parameters were changed"
        folders = ", ".join(str(result.directory) for result in executed)
        tell(f"no evidence is put together, because {why}: see {folders}")
    else:
        with store.system_errors(session.root / "runs"), filelock.FileLock(f"{session.computed}.lock"):
            if _assemble(session, executed):
                _page(session, executed, tell)
            tell(compare(session.computed, session.published)[1])
    return session


def notebook(session: Session, stage: str) -> Spec:
    """A notebook's execution: another one where code, statements, parameters or runs are others.

    It is passed those parameters that its own cell, or else the default, has otherwise.
    """
    source = session.root / "notebooks" / f"{stage}.ipynb"
    values, own = to_dict(session.params), to_dict(Params()) | notebooks.declared(source)
    passed = {name: value for name, value in values.items() if own[name] != value}
    runs = [(spec.digest, session.store.status(spec)) for spec in session.specs(stage)]
    ledger = [session.ledger, session.ledger.with_name("reports.yaml"), session.ledger.with_name(DESIGN)]
    files = _code() | {p.name: store.sha256_file(p) for p in [source, *filter(Path.is_file, ledger)]}
    shown = store.json_digest({"params": values, "runs": runs, "files": files})
    return session.runs.notebook(stage, passed, shown)


@cache
def _code() -> dict[str, str]:
    """The digests of the files of this package, which notebooks depend on."""
    package = Path(__file__).parent
    paths = [path for path in package.rglob("*.*") if path.suffix in (".py", ".json", ".yaml")]
    return {str(path.relative_to(package)): store.sha256_file(path) for path in sorted(paths)}


# Evidence


def _assemble(session: Session, executed: Sequence[Result]) -> bool:
    """Put figures, verdicts, runs with their scores and the manifest together; whether that was needed."""
    folder = session.computed
    inputs = store.json_digest({result.digest: result.record["files"] for result in executed})
    if not damaged(folder) and store.read_json(folder / MANIFEST).get("notebooks") == inputs:
        return False
    results = session.available(session.all_specs())
    with _replaced(folder) as aside:
        store.publish(results, aside)
        store.write_json(aside / "claims.json", evidence(session.params, session.store, session.ledger))
        for path in [path for r in executed for path in (r.directory / notebooks.FIGURES).glob("[!.]*")]:
            if (aside / path.name).exists() or path.name == MANIFEST:
                raise StudyError(f"{path}: {path.name} is there already: give this figure another name")
            shutil.copyfile(path, aside / path.name)
        seconds = {result.params["stage"]: round(result.seconds, 1) for result in executed}
        known = _costs(session, results) | {"notebooks": inputs, "notebook_seconds": seconds}
        _write_manifest(session, aside, **known)
    return True


def damaged(folder: Path) -> list[str]:
    """What is wrong with the files of an evidence folder, by its manifest."""
    try:
        digests = store.read_json(folder / MANIFEST)["files"]
        return list(store.file_problems(folder, digests, MANIFEST))
    except DAMAGED as error:
        return [f"{folder / MANIFEST}: cannot be used: {error}"]


def _costs(session: Session, results: Sequence[Result]) -> dict[str, Any]:
    """The machines, and what each kind of runs cost.

    Memory and machine of a run that was taken from published evidence are those of the published manifest.
    """
    earlier = store.read_json(session.published / MANIFEST, {})
    machines = [r.record["environment"] for r in results if "environment" in r.record]
    if len(machines) < len(results):
        machines = [*earlier.get("environments", []), *machines]
    known = {kind: {"cpu": cost["peak_memory_mb"]} for kind, cost in earlier.get("runs", {}).items()}
    memory = [r.record.get("memory_mb", known.get(r.kind, {"cpu": 0}))["cpu"] for r in results]
    runs = pd.DataFrame([(r.kind, r.seconds) for r in results], columns=["kind", "seconds"])
    costs = runs.assign(memory=memory).groupby("kind").agg(
        runs=("kind", "size"), seconds=("seconds", "sum"), peak_memory_mb=("memory", "max")
    )  # fmt: skip
    environments = list({store.json_digest(machine): machine for machine in machines}.values())
    return {"environments": environments, "runs": costs.round(1).to_dict("index")}


def _write_manifest(session: Session, folder: Path, **known: Any) -> None:
    """The last file of an evidence folder: where it comes from, with the digests of all others."""
    ledger = load_ledger(session.ledger)
    known |= {"parameters": to_dict(session.params), "ledger_digest": ledger.digest}
    known |= _rules(ledger.design, session)
    files = {path.name: store.sha256_file(path) for path in sorted(folder.iterdir())}
    store.write_json(folder / MANIFEST, known | {"files": files})


def _rules(design: Design, session: Session) -> dict[str, Any]:
    """The rules that confirmatory runs were started under, as first published, with their commit."""
    if not design.confirms(session.params.profile):
        return {}
    earlier = store.read_json(session.published / MANIFEST, {})
    rules = earlier.get("rules") or {"digest": design.digest, "commit": store.commit(session.root)}
    design.require_older(session.params.profile, rules["digest"], session.published)
    return {"rules": rules}


def compare(computed: Path, published: Path) -> tuple[bool, str]:
    """Evidence that was computed here beside what is published of the same runs, in one line.

    The flag says whether the runs have the same numbers: to the last bit on one kind of processor, with mean
    scores within NEARBY on another.
    """
    if not (published / "claims.json").is_file():  # nothing, or runs of a study that goes on
        return True, f"nothing to compare: {published} has no run of these parameters (see `xlt publish`)"
    ours, theirs = store.read_published(computed), store.read_published(published)
    both = [(ours[d].scores, theirs[d].scores) for d in ours if d in theirs and theirs[d].scores]
    processors, verdicts = [], []
    for folder in (computed, published):
        processors.append({m["cpu"] for m in store.read_json(folder / MANIFEST)["environments"]})
        verdicts.append({c["id"]: c["verdict"] for c in store.read_json(folder / "claims.json")["claims"]})
    same = near = sum(_agree(*pair) for pair in both)
    where, also = "the same kind of processor", ""
    if processors[0] != processors[1]:
        means = [[{name: x.mean() for name, x in scores.items()} for scores in pair] for pair in both]
        near = sum(_agree(*pair, NEARBY) for pair in means)
        where, also = "another kind of processor", f", {near} with mean scores within {NEARBY:g}"
    agreed = [verdicts[0][name] == verdicts[1][name] for name in verdicts[0].keys() & verdicts[1].keys()]
    return near == len(both), (
        f"compared with {published}, from {where}: {same} of {len(both)} runs to the last bit{also};"
        f" {sum(agreed)} of {len(agreed)} verdicts as published"
    )


def _agree(one: Mapping[str, Any], other: Mapping[str, Any], within: float = 0.0) -> bool:
    """Whether scores, or their means, have the same settings and differ by no more than that."""
    return one.keys() == other.keys() and all(np.all(abs(one[k] - other[k]) <= within) for k in one)


def publish_computed(session: Session, replace: bool = False) -> str:
    """Put the evidence that a run of the profile left into figures/; the comparison with what was there.

    StudyError where there is none, where it is damaged, where another process publishes, or, without
    `replace`, where runs that are published already have other numbers now.
    """
    with _publishing(session) as aside, filelock.FileLock(f"{session.computed}.lock"):
        if wrong := damaged(session.computed):
            raise StudyError(f"{wrong[0]}: `xlt run` puts the evidence together")
        same, sentence = compare(session.computed, session.published)
        if not same and not replace:
            raise StudyError(f"{sentence}. `xlt publish --replace` publishes what is different too")
        shutil.copytree(session.computed, aside, dirs_exist_ok=True)
    return sentence


def publish_runs(session: Session) -> str:
    """Put the finished runs of a study that goes on into figures/, without figures or verdicts; their number.

    They stand in for runs that a store lacks, so that a long study can be computed in slices on several
    machines; what is published stays. Seeds that lack runs are named: weights are not published, and on
    another kind of processor their other runs would be trained from different ones. StudyError where no run
    is finished, where the profile has verdicts already or was published with other parameters, where another
    process publishes, or where the store has other scores of a published run.
    """
    folder, specs = session.published, session.all_specs()
    now = to_dict(session.params)
    for name, then in store.read_json(folder / MANIFEST, {}).get("parameters", {}).items():
        if name not in CHOOSING and now.get(name) != then:
            found = f"its runs were published with {name} = {then}, the profile has {now.get(name)}"
            raise StudyError(f"{folder}: {found}: give the new design a name of its own")
    with _publishing(session) as aside:
        if (folder / "claims.json").is_file():
            raise StudyError(f"{folder} has verdicts: publish the whole study (`xlt publish` without --runs)")
        runs = store.read_published(folder) if (folder / RUNS).is_file() else {}
        for result in session.available(specs):
            if not _agree(result.scores, runs.setdefault(result.digest, result).scores, HALF_BITS):
                where = f"run {result.digest} ({result.kind}) has other scores in {session.store.root}"
                cure = "finish the seeds of a slice on the machine that began them"
                raise StudyError(f"{folder}: {where}: {cure}")
        if not runs:
            raise StudyError(f"no run of {session.params.profile} is finished: there is nothing to publish")
        store.publish(runs.values(), aside)
        _write_manifest(session, aside)
    seeds = [(spec.params.get("labels", spec.params).get("seed"), spec.digest in runs) for spec in specs]
    counts = pd.DataFrame(seeds, columns=["seed", "there"]).groupby("seed")["there"].agg(["sum", "size"])
    begun = counts[(counts["sum"] > 0) & (counts["sum"] < counts["size"])]
    words = [f"seed {seed:.0f} ({known} of {asked})" for seed, known, asked in begun.itertuples()]
    advice = f"; finish on this machine what is begun: {', '.join(words)}" if words else ""
    return f"{len(runs)} runs{advice}"


@contextmanager
def _publishing(session: Session) -> Iterator[Path]:
    """A folder for what the profile is to publish; then all published runs are judged together anew."""
    figures = session.published.parent
    with _alone(figures):
        with _replaced(session.published) as aside:
            yield aside
        try:
            verdicts = pooled(read_all(figures), load_ledger(session.ledger))
        except StudyError as error:
            but = "is published, but not the verdicts over all"
            raise StudyError(f"{session.published} {but}: {error}") from None
        store.write_json(figures / POOLED, verdicts)


@contextmanager
def _alone(figures: Path) -> Iterator[None]:
    """Keep other publishers out, and bring back what one that was killed between two renames has set aside.

    StudyError where another process publishes.
    """
    lock = figures.parent / "runs" / ".locks" / "publish.lock"
    with store.system_errors(figures.parent):
        try:
            with filelock.FileLock(lock, timeout=0):
                for old in figures.glob(".*.old"):
                    folder = old.with_name(old.name[1:].removesuffix(".old"))
                    if not folder.exists():
                        old.rename(folder)
                yield
        except filelock.Timeout:
            raise StudyError(f"{figures}: another process publishes: try again when it has ended") from None


def restore(figures: Path) -> None:
    """Bring back what was published, if a process was killed while it put new evidence in its place."""
    if any(figures.glob(".*.old")):
        with suppress(StudyError), _alone(figures):  # one that publishes now ends what it has begun
            pass


@contextmanager
def _replaced(folder: Path) -> Iterator[Path]:
    """A folder beside it that takes its place once it is written, so that none is ever half there."""
    aside, old = (folder.with_name(f".{folder.name}.{x}") for x in ("new", "old"))
    with store.system_errors(folder.parent):
        for leftover in (aside, old):
            shutil.rmtree(leftover, ignore_errors=True)
        aside.mkdir(parents=True)
        try:
            yield aside
            if folder.exists():
                folder.rename(old)
            aside.rename(folder)
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _page(session: Session, executed: Sequence[Result], tell: Tell) -> None:
    """Build the page of all published evidence, with these notebooks, where what it needs is installed."""
    from xltlib import page

    folder = session.root / "runs" / "notebooks" / session.params.profile
    folder.mkdir(parents=True, exist_ok=True)
    for path in [path for result in executed for path in result.directory.glob("*.ipynb")]:
        shutil.copyfile(path, folder / path.name)
    try:
        first = page.build(session.published.parent, folder, session.root / "site", session.ledger)
        tell(f"the page: {first}")
    except StudyError as error:
        tell(f"no page: {error}; then xlt page params/{session.params.profile}.yaml")


def stamps(session: Session) -> tuple[Path, dict[str, list[str]]]:
    """The folder of a profile's stamps, and for each run those that it builds on, by their digests.

    The stamps are brought up to date with the store: a run has one if there is nothing of it to compute.
    """
    folder, specs = session.root / "runs" / "grid" / session.params.profile, session.all_specs()
    folder.mkdir(parents=True, exist_ok=True)
    todo = {*missing(specs, session.store)}
    for spec in specs:
        stamp = folder / (spec.digest + DONE)
        if spec in todo:
            stamp.unlink(missing_ok=True)
        elif not stamp.exists():
            stamp.touch()
    return folder, {spec.digest: [other.digest for other in spec.inputs] for spec in specs}
