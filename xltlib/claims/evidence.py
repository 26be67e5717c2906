"""Which runs the statements need, the verdicts that follow from them, and whether published ones do.

A verdict belongs to a statement and a scale, whichever profiles computed its runs: published profiles of one
design may differ in seeds and runs, and are judged together. Confirmatory runs are never pooled with others:
they speak alone, from their first look on.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from xltlib import StudyError
from xltlib.claims import campaign
from xltlib.claims.evaluate import evaluate, evaluate_claims
from xltlib.claims.ledger import Ledger, find, load_ledger
from xltlib.claims.scores import World, canonical, table
from xltlib.claims.verdicts import CONTRADICTED, NOT_RUN, SUPPORTED
from xltlib.noise import questions
from xltlib.params import Params, load
from xltlib.runs import KINDS, STAGES, Runs, closure
from xltlib.store import MANIFEST, RUNS, Result, Spec, Store, file_problems, read_json, read_published

POOLED = "evidence.json"  # beside the folders of the profiles
# parameters that choose runs and change none: profiles that differ in these alone have one design
CHOOSING = (
    "profile", "seeds", "first_seed", "objectives", "methods", "method_objectives", "link_kinds",
    "noise_tasks", "probes", "statement_runs", "control_runs", "questions",
)  # fmt: skip
AGREE = 1e-6  # verdicts' numbers that are computed again on another machine differ by less
HALF_BITS = 2.5e-4  # error of a score in 16 bits: means were told before it was rounded
SHOWN = 5  # differences of one file that are told
DAMAGED = (StudyError, LookupError, TypeError, ValueError, AttributeError)  # of files edited by hand


# Runs and verdicts of a profile


def stage_specs(runs: Runs, ledger: Path, stage: str) -> list[Spec]:
    """The runs of a notebook: the profile's own, and those of the statements and questions that it names."""
    params, specs, everything = runs.params, [*runs.stage(stage)], stage >= "05"
    if stage >= "02" and params.statement_runs + params.control_runs:
        statements = load_ledger(ledger)
        for claim in statements.claims:
            controls = claim.id.startswith(params.control_runs)
            if controls or claim.id.startswith(params.statement_runs):
                asked, _ = claim_runs(statements, runs, claim.id, deciding=not controls)
                specs += [spec for spec in asked if everything or KINDS[spec.kind].stage == stage]
        if everything and statements.design.confirms(params.profile):
            specs += campaign.specs(runs, statements.design)
    if stage >= "04":
        specs += [spec for number in params.questions for spec in questions.QUESTIONS[number].runs(runs)]
    return list(dict.fromkeys(specs))


def all_specs(runs: Runs, ledger: Path) -> list[Spec]:
    """The runs of all notebooks, and what they build on, each once."""
    return closure(spec for stage in STAGES for spec in stage_specs(runs, ledger, stage))


def claim_runs(
    ledger: Ledger, runs: Runs, claim_id: str, deciding: bool = False
) -> tuple[list[Spec], list[str]]:
    """The runs that a statement's tests need, and the names of those that cannot be made by this version.

    `deciding`: of those tests alone that make the verdict.
    """
    world = World.of(ledger, runs.params)
    wanted: dict[tuple, list] = {}  # labels -> the settings asked for, with the roles of the tests that ask
    for test in find(ledger, claim_id).tests:
        for query, settings in world.queries(test) if test.measured and not world.skips(test) else ():
            labels = tuple(canonical(query, world.defaults).items())
            wanted.setdefault(labels, []).extend((str(setting), test.role) for setting in settings)
    specs, absent = [], []
    for labels, asked in wanted.items():
        if deciding and all(role != "decides" for _, role in asked):
            continue
        made = runs.for_labels(dict(labels), {setting for setting, _ in asked})
        specs += made
        absent += [] if made else [" ".join(value for _, value in labels if value)]
    return list(dict.fromkeys(specs)), absent


def evidence(params: Params, store: Store, ledger: Path) -> dict[str, Any]:
    """The verdicts on all statements, the content of claims.json, from the study's finished runs.

    StudyError where one of them is missing: a verdict must not depend on how far the study has come.
    """
    results = [store.result(spec) for spec in stage_specs(Runs(params), ledger, "06_claims")]
    return evaluate(load_ledger(ledger), table(results), params)


# Verdicts over all published runs


@dataclass(frozen=True)
class Published:
    """What a profile has published: its manifest, the parameters that this names, and its runs by digest."""

    folder: Path
    manifest: dict[str, Any]
    params: Params
    runs: dict[str, Result]

    @classmethod
    def read(cls, folder: Path) -> "Published":
        """StudyError for damaged files, and for parameters that this version does not know."""
        file = folder / MANIFEST
        manifest = read_json(file)
        if not isinstance(manifest, dict):
            raise StudyError(f"{file}: expected an object: publish {folder.name} again")
        params = Params({}, f"{file}: parameters", **manifest.get("parameters", {}))
        return cls(folder, manifest, params, read_published(folder))

    @cached_property
    def design(self) -> dict[Any, Any]:
        """All that changes runs: parameters, and by kind, objective and method the version of the code."""
        design = {name: x for name, x in vars(self.params).items() if name not in CHOOSING}
        for run in self.runs.values():
            labels = run.params.get("labels", run.params)
            design[run.kind, labels.get("objective"), labels.get("method")] = str(run.record["version"])
        return design

    def fits(self, other: "Published") -> bool:
        """Whether both have one design, as far as both have runs of the same kind."""
        shared = self.design.keys() & other.design.keys()
        return all(self.design[name] == other.design[name] for name in shared)


def read_all(figures: Path) -> list[Published]:
    """All published profiles below a folder."""
    return [Published.read(path.parent) for path in sorted(figures.glob(f"[!.]*/{RUNS}"))]


def bodies(published: Iterable[Published], ledger: Ledger) -> list[list[Published]]:
    """The profiles that are judged together, those with most runs first; confirmatory ones apart, last."""
    found: list[list[Published]] = []

    def confirms(own: Published) -> bool:
        return ledger.design.confirms(own.params.profile)

    for own in sorted(published, key=lambda own: (confirms(own), -len(own.runs))):
        started = own.manifest.get("rules", {}).get("digest", "none")
        ledger.design.require_older(own.params.profile, started, own.folder)
        fitting = (body for body in found if all(own.fits(x) and confirms(x) == confirms(own) for x in body))
        if (body := next(fitting, None)) is None:
            found.append(body := [])
        body.append(own)
    return found


def pooled(published: Iterable[Published], ledger: Ledger) -> dict[str, Any]:
    """The verdicts by scale and statement over all published runs, the content of figures/evidence.json.

    An entry is that of claims.json with the `profiles` that its runs come from, and with `under_way` where
    confirmatory runs have not come to their first look. Of several designs of a scale the one with a verdict
    speaks, then the one with the most seeds.
    """
    scales: dict[str, dict[str, list[dict]]] = {}
    for body in bodies(published, ledger):
        params, profiles = body[0].params, [own.folder.name for own in body]
        runs = {digest: run for own in reversed(body) for digest, run in own.runs.items()}
        try:
            entries = evaluate_claims(ledger, table(runs.values()), params)
        except StudyError as error:
            raise StudyError(f"{' and '.join(profiles)} together: {error}") from None
        for entry in entries:
            known = scales.setdefault(params.scale, {}).setdefault(entry["id"], [])
            known.append(entry | {"profiles": profiles})
    speaking = {scale: {i: _speaking(own) for i, own in known.items()} for scale, known in scales.items()}
    return {"ledger_digest": ledger.digest, "rules_digest": ledger.design.digest, "scales": speaking}


def _speaking(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Which of the entries of a statement and scale speaks: see `pooled`."""
    ranks, under_way = [], ""
    for entry in entries:
        measured = [test for test in entry["tests"] if "effect" in test]
        # a statement that its source decides has controls alone
        tests = [test for test in measured if test["role"] == "decides"] or measured
        seeds = max((test["effect"]["seeds"] for test in tests if test["effect"]), default=0)
        looked = entry["verdict"] in (SUPPORTED, CONTRADICTED) or all(test["effect"] for test in tests)
        tested = seeds > 0 and entry["verdict"] != NOT_RUN
        ranks.append((entry["confirmatory"] and seeds > 0 and looked, tested, seeds))
        if entry["confirmatory"] and not looked:  # such as: 1 of the 12 seeds of the first look are there
            under_way = next((test["obstacle"] for test in tests if test.get("obstacle")), under_way)
    speaks = entries[ranks.index(max(ranks))]
    return speaks | {"under_way": under_way} if under_way else speaks


# The check


def check(figures: Path, ledger_path: Path) -> Iterator[str]:
    """Where published runs, verdicts and parameters contradict each other, a sentence each."""
    ledger, published = load_ledger(ledger_path), []
    for file in sorted(figures.glob(f"[!.]*/{RUNS}")):
        try:
            own = Published.read(file.parent)
            published.append(own)
            yield from _check_profile(own, ledger, ledger_path)
        except DAMAGED as error:
            yield f"{file.parent}: cannot be checked: {error}"
    file = figures / POOLED
    try:
        yield from _told(file, read_json(file), pooled(published, ledger))
    except DAMAGED as error:
        yield f"{file}: cannot be computed again: {error}"


def _check_profile(own: Published, ledger: Ledger, ledger_path: Path) -> Iterator[str]:
    """Runs have the labels that their digests are of, and scores whose means are those that they state.

    Parameters are those of the profile's file; in slices, which have the runs that were finished, what
    chooses runs may be otherwise. Verdicts, estimates, intervals and p-values follow from the scores.
    """
    for digest, run in own.runs.items():
        if run.labels != run.params.get("labels", run.labels):
            yield f"{own.folder / RUNS}: run {digest}: its labels are not those of its parameters"
        for name, mean in run.values.get("means", {}).items():
            if not abs(run.scores[name].mean(dtype=float) - mean) <= HALF_BITS:
                yield f"{own.folder}: run {digest}: scores {name}: their mean is not the one told, {mean:g}"
    file, whole = ledger_path.with_name(f"{own.folder.name}.yaml"), (own.folder / "claims.json").is_file()
    params = load(file) if file.is_file() else own.params
    other = [name for name, asked in params if getattr(own.params, name) != asked]
    other = [name for name in other if whole or name not in CHOOSING]
    for name in other:
        found, asked = getattr(own.params, name), getattr(params, name)
        yield f"{own.folder / MANIFEST}: parameters: {name} is {found}, in {file} it is {asked}"
    if not whole:
        known = {spec.digest for spec in all_specs(Runs(params), ledger_path)}
        if not other and (foreign := own.runs.keys() - known):
            some = f"{len(foreign)} runs, such as {min(foreign)}"
            yield f"{own.folder / RUNS}: {some}, are none that these parameters ask for: take them out"
        yield from file_problems(own.folder, own.manifest.get("files", {}), MANIFEST)
        return
    published = read_json(own.folder / "claims.json")
    if published["ledger_digest"] == ledger.digest:  # the check of the page tells of another, and of files
        specs = stage_specs(Runs(own.params), ledger_path, "06_claims")
        results = [own.runs[spec.digest] for spec in specs if spec.digest in own.runs]
        again = evaluate(ledger, table(results), own.params)
        yield from _told(own.folder / "claims.json", published, again)


def _told(file: Path, published: Any, again: Any) -> list[str]:
    """The first differences of a file from what it should hold, and how many more there are."""
    lines = [f"{file}: {line}" for line in _differences(published, again)]
    return lines[:SHOWN] + [f"{file}: and {len(lines) - SHOWN} more"] * (len(lines) > SHOWN)


def _differences(published: Any, again: Any, place: str = "") -> Iterator[str]:
    """The places where two contents of a JSON file differ; statements by their ids.

    Where functions stand (`code`) is no result: they may have moved since.
    """
    if isinstance(published, dict) and isinstance(again, dict):
        for key in sorted((published.keys() | again.keys()) - {"code"}):
            yield from _differences(published.get(key), again.get(key), f"{place}{key}: ")
    elif isinstance(published, list) and isinstance(again, list) and len(published) == len(again):
        for number, (one, other) in enumerate(zip(published, again, strict=True), 1):
            name = one.get("id", number) if isinstance(one, dict) else number
            yield from _differences(one, other, f"{place}{name}: ")
    elif isinstance(published, float) and isinstance(again, int | float):
        if not abs(published - again) <= AGREE * max(1.0, abs(again)):
            yield f"{place}{published:g}, but its scores give {again:g}"
    elif published != again:
        yield f"{place}{published!r:.80}, but its scores give {again!r:.80}"
