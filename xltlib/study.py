"""The whole study: its runs, then its notebooks, then the published evidence and the page."""

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import filelock

from xltlib import StudyError, notebooks, page, wanted
from xltlib.claims import evaluate as claims
from xltlib.claims.design import DESIGN, Design
from xltlib.claims.ledger_file import load_ledger, read_yaml
from xltlib.data import downloads
from xltlib.evaluation import best_of
from xltlib.params import Params, load, read_mapping, to_dict
from xltlib.pool import compute_all
from xltlib.runs import STAGES, Runs, closure
from xltlib.store import (
    RUNS,
    Result,
    Spec,
    Store,
    canonical,
    commit,
    gpus,
    publish,
    read_json,
    sha256_file,
    write_json,
)

MANIFEST = "manifest.json"
# kinds of runs whose scores the tests of statements and questions compare
RECORDED = ("transfer", "evaluation", "probe", "tagging", "lexicon", "answers")


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

    @cached_property
    def store(self) -> Store:
        """Runs under runs/, and behind them those that are published, by the profile before others."""
        found = sorted(file.parent for file in self.published.parent.glob(f"*/{RUNS}"))
        others = [folder for folder in found if folder != self.published]
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
    def ledger(self) -> Path:
        """The file of statements and their tests."""
        return self.root / "params" / "claims.yaml"

    def specs(self, stage: str) -> list[Spec]:
        """The runs whose results a notebook shows, those that the ledger asks for included where wanted."""
        if stage not in self._specs:
            self._specs[stage] = wanted.stage_specs(self.params, self.ledger, stage)
        return self._specs[stage]

    @cached_property
    def _specs(self) -> dict[str, list[Spec]]:
        return {}

    def results(self, stage: str, jobs: int | None = None) -> list[Result]:
        """The results of the runs that a notebook needs, in the order of `specs`; made if missing."""
        downloads.require(self.params)
        specs = self.specs(stage)
        with _Line() as line:
            return compute_all(specs, self.store, jobs or self.jobs, self.fresh, line.tell)

    @staticmethod
    def records(results: Iterable[Result]) -> list[dict[str, Any]]:
        """Those runs whose scores can be compared, as `claims.evaluate` takes them.

        What was scored apart from a fine-tuned model joins the scores of that model. Clusters of examples
        and the best cheap score of each setting (`floors`) come with the baselines.
        """
        kept: dict[str, dict[str, Any]] = {}
        results = list(results)
        clusters = {k: v for r in results for k, v in r.values.get("clusters", {}).items()}
        floors = {k: best_of(v) for r in results for k, v in r.values.get("baselines", {}).items()}
        for r in sorted((r for r in results if r.kind in RECORDED), key=lambda r: r.kind == "evaluation"):
            key = canonical(r.labels).decode()
            task = r.labels["task"]
            told = {"digest": r.digest, "labels": r.labels}
            told |= {"clusters": clusters.get(task, {}), "floors": floors.get(task, {})}
            told["weights"] = r.record.get("weights", {})
            record = kept.setdefault(key, told | {"scores": {}})
            record["scores"] = {**record["scores"], **r.scores}
        return list(kept.values())

    def there(self, specs: Iterable[Spec]) -> list[Result]:
        """The results of those runs that need not be computed."""
        return [self.store.result(s) for s in specs if self.store.status(s) in ("done", "published")]


class _Line(AbstractContextManager):
    """Progress in a notebook: one line, overwritten, and gone when all is done."""

    width = 0

    def tell(self, text: str) -> None:
        print("\r" + text.ljust(self.width), end="", flush=True)
        self.width = len(text)

    def __exit__(self, *error: object) -> None:
        if self.width:
            print("\r" + " " * self.width, end="\r", flush=True)


def find_root() -> Path:
    """The study's folder: XLT_ROOT, or the nearest with a pyproject.toml from the current one upwards."""
    if named := os.environ.get("XLT_ROOT"):
        return Path(named).resolve()
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "pyproject.toml").is_file():
            return folder
    raise StudyError(f"{here} is not inside the study: change to its folder, or name it in XLT_ROOT")


def default_jobs(device: str = "cpu") -> int:
    """Processes that compute runs: XLT_JOBS; or one for each GPU; or two where there are as many cores."""
    usual = max(1, len(gpus())) if device == "cuda" else min(2, os.cpu_count() or 1)
    text = os.environ.get("XLT_JOBS") or str(usual)
    if not text.isdigit() or int(text) < 1:
        raise StudyError(f"XLT_JOBS={text}: expected the number of processes, 1 or more")
    return int(text)


def open(params: Params, *, jobs: int | None = None, fresh: bool | None = None) -> Session:
    """Where the study with these parameters finds its runs and puts its figures.

    The environment may say more: XLT_ROOT, XLT_JOBS, XLT_FIGURES, XLT_FRESH=1 (pass over published evidence).
    """
    root = find_root()
    figures = Path(os.environ.get("XLT_FIGURES") or root / "runs" / "figures" / params.profile)
    figures.mkdir(parents=True, exist_ok=True)
    _require_frozen(params, root)
    fresh = os.environ.get("XLT_FRESH") == "1" if fresh is None else fresh
    return Session(params, root, figures, jobs or default_jobs(params.device), fresh)


def _require_frozen(params: Params, root: Path) -> None:
    """StudyError where the runs of the confirmation would be judged by rules that are not the frozen ones."""
    path = root / "params" / DESIGN
    if path.is_file() and read_yaml(path)["confirmation"]["profile"] == params.profile:
        load_ledger(path.with_name("claims.yaml")).design.require_frozen(params.profile)


def evidence(params: Params, store: Store, ledger: str | Path | None = None) -> dict[str, Any]:
    """The verdicts on all statements, the content of claims.json, from the study's finished runs.

    StudyError where one of them is missing: a verdict must not depend on how far the study has come.
    """
    path = Path(ledger or find_root() / "params" / "claims.yaml")
    results = [store.result(spec) for spec in wanted.stage_specs(params, path, "06_claims")]
    return claims.evaluate(load_ledger(path), Session.records(results), params)


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
    tell: Callable[[str], None] | None = None,
) -> Session:
    """Compute what is missing, execute the notebooks, and publish the evidence of a whole, unchanged profile.

    Parameters
    ----------
    params_path : the profile's file, named as the profile
    only : notebooks, by name or number; then nothing is published
    overrides : name -> YAML text that wins over the file; then nothing is published either
    jobs : processes that compute runs
    fresh : compute what the store lacks even where it is published

    Raises StudyError for parameters that cannot be used, before any work; for a run or a notebook that fails.
    """
    tell = tell or _tell
    params = load(params_path, overrides)
    downloads.require(params, tell)
    asked, changed = stages(only), params != load(params_path)
    if Path(params_path).stem != params.profile:
        found = f"the profile is {params.profile}, the file {Path(params_path).name}"
        raise StudyError(f"{params_path}: {found}: a profile's file has its name")
    session = open(params, jobs=jobs, fresh=fresh)
    _restore(session.published)
    places = read_mapping(params_path)[1]
    names = {
        stage: [*notebooks.injected(_source(session, stage), places), *(overrides or {})] for stage in asked
    }
    specs = [spec for stage in asked for spec in session.specs(stage)]
    compute_all(specs, session.store, session.jobs, fresh, tell)
    with filelock.FileLock(_made(session, "notebooks", changed) / ".lock"):
        todo = {stage: job(session, stage, names[stage], changed) for stage in asked}
        notebooks.execute(list(todo.values()), session.jobs, _environment(session), tell)
        verdicts = _made(session, "figures", changed) / "claims.json"
        if "06_claims" in asked:
            write_json(verdicts, evidence(params, session.store, session.ledger))
        if only or changed:
            why = "only some notebooks ran" if only else "parameters were changed"
            folders = [_made(session, kind, changed) for kind in ("notebooks", "figures")]
            tell(f"not published, because {why}: see {' and '.join(map(str, folders))}")
        else:
            _publish(session, list(todo.values()), verdicts)
            tell(f"published: {session.published}")
            _page(session, tell)
    return session


def job(session: Session, stage: str, names: Sequence[str], changed: bool = False) -> notebooks.Job:
    """A notebook with the session's parameters, and the digest of all that its executed copy depends on."""
    source, values = _source(session, stage), to_dict(session.params)
    runs = [(spec.digest, session.store.status(spec)) for spec in session.specs(stage)]
    package = Path(__file__).parent
    code = [p for p in package.rglob("*.*") if p.suffix in (".py", ".json", ".yaml")]
    ledger = [session.ledger, session.ledger.with_name("reports.yaml")]
    files = {str(p.relative_to(package)): sha256_file(p) for p in sorted(code)}
    files |= {p.name: sha256_file(p) for p in [source, *filter(Path.is_file, ledger)]}
    digest = sha256(canonical({"params": values, "runs": runs, "files": files})).hexdigest()
    copy = _made(session, "notebooks", changed) / source.name
    figures = _made(session, "figures", changed) / stage
    return notebooks.Job(source, copy, figures, {name: values[name] for name in names}, digest)


def _source(session: Session, stage: str) -> Path:
    return session.root / "notebooks" / f"{stage}.ipynb"


def _made(session: Session, kind: str, changed: bool) -> Path:
    """A folder for what is made; changed parameters have their own, so that a profile's is never mixed."""
    digest = sha256(canonical(to_dict(session.params))).hexdigest()[:8]
    folder = session.root / "runs" / kind / (session.params.profile + (f"-{digest}" if changed else ""))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _environment(session: Session) -> dict[str, str]:
    """What a kernel needs to work in the same study, with the same code, beside another one."""
    path = [str(Path(__file__).resolve().parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        "XLT_ROOT": str(session.root), "XLT_JOBS": str(session.jobs), "XLT_FRESH": str(int(session.fresh)),
        "PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1",
    }  # fmt: skip


def _publish(session: Session, jobs: Sequence[notebooks.Job], verdicts: Path) -> None:
    """Write figures, verdicts, runs with their scores, and the manifest aside; then put them in place."""
    folder = session.published
    aside, old = (folder.with_name(f".{folder.name}.{x}") for x in ("new", "old"))
    for leftover in (aside, old):
        shutil.rmtree(leftover, ignore_errors=True)
    specs = closure(spec for stage in STAGES for spec in session.specs(stage))
    results = session.there(specs)
    publish(results, aside)
    for path in [verdicts, *(path for job in jobs for path in job.drawn())]:
        if (aside / path.name).exists() or path.name == MANIFEST:
            raise StudyError(f"{path}: {path.name} is there already: give this figure another name")
        shutil.copyfile(path, aside / path.name)
    files = {path.name: sha256_file(path) for path in sorted(aside.iterdir())}
    earlier = folder / MANIFEST
    told = manifest(session, results, jobs, read_json(earlier) if earlier.is_file() else {})
    write_json(aside / MANIFEST, told | {"files": files})
    if folder.exists():
        folder.rename(old)
    aside.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _restore(folder: Path) -> None:
    """Bring back what was published, if a process was killed while it put new evidence in its place."""
    old = folder.with_name(f".{folder.name}.old")
    if old.exists() and not folder.exists():
        old.rename(folder)


def manifest(
    session: Session, results: Sequence[Result], jobs: Sequence[notebooks.Job], earlier: Mapping[str, Any]
) -> dict[str, Any]:
    """Where the evidence comes from: parameters, ledger, machines, and what each kind of run cost.

    Memory and machine of a run that was taken from published evidence are those of the `earlier` manifest.
    """
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
    return _rules(ledger.design, session, earlier) | {
        "parameters": to_dict(session.params), "ledger_digest": ledger.digest,
        "environments": machines, "runs": costs, "number_of_runs": len(results), "notebook_seconds": times,
        "total_seconds": round(total, 1),
    }  # fmt: skip


def _rules(design: Design, session: Session, earlier: Mapping[str, Any]) -> dict[str, Any]:
    """The rules that confirmatory runs were started under, as first published, with their commit."""
    if not design.confirms(session.params.profile):
        return {}
    rules = earlier.get("rules") or {"digest": design.digest, "commit": commit(session.root)}
    if rules["digest"] != design.digest:
        raise StudyError(
            f"{session.published}: its runs were started under the rules {rules['digest']}, and those of"
            f" params/{DESIGN} and the ledger are now {design.digest}: undo the change"
        )
    return {"rules": rules}


def _page(session: Session, tell: Callable[[str], None]) -> None:
    absent = [m for m in ("sphinx", "myst_nb", "sphinx_book_theme") if importlib.util.find_spec(m) is None]
    if absent:
        tell(f"no page, because {absent[0]} is absent: pip install 'xltlib[page]', then xlt page")
        return
    executed = _made(session, "notebooks", changed=False)
    first = page.build(session.published.parent, executed, session.root / "site", session.ledger)
    tell(f"the page: {first}")


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
