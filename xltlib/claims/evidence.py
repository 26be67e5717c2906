"""Which runs the statements need, the verdicts that follow from them, and whether published ones do."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xltlib import StudyError
from xltlib.claims import evaluate as claims
from xltlib.claims import pooling, scores
from xltlib.claims.ledger import Ledger, load_ledger
from xltlib.noise import questions
from xltlib.params import Params
from xltlib.runs import KINDS, Runs
from xltlib.store import MANIFEST, RUNS, Spec, Store, file_problems, read_json, read_published

AGREE = 1e-6  # verdicts' numbers that are computed again on another machine differ by less
HALF_BITS = 2.5e-4  # error of a score in 16 bits: means were told before it was rounded
SHOWN = 5  # differences of one file that are told


def stage_specs(runs: Runs, ledger: Path, stage: str) -> list[Spec]:
    """The runs of a notebook: the profile's own, and those of the statements and questions that it names."""
    params, specs = runs.params, [*runs.stage(stage)]
    if stage >= "02" and params.statement_runs + params.control_runs:
        statements, everything = load_ledger(ledger), stage in ("05_significance", "06_claims")
        for claim in statements.claims:
            controls = claim.id.startswith(params.control_runs)
            if controls or claim.id.startswith(params.statement_runs):
                asked, _ = claim_runs(statements, runs, claim.id, deciding=not controls)
                specs += [spec for spec in asked if everything or KINDS[spec.kind].stage == stage]
    if stage >= "04":
        specs += [spec for number in params.questions for spec in questions.QUESTIONS[number].runs(runs)]
    return list(dict.fromkeys(specs))


def claim_runs(
    ledger: Ledger, runs: Runs, claim_id: str, deciding: bool = False
) -> tuple[list[Spec], list[str]]:
    """The runs that a statement's tests need, and the names of those that cannot be made by this version.

    `deciding`: of those tests alone that make the verdict.
    """
    specs, absent = [], []
    for entry in claims.needed(ledger, runs.params, claim_id):
        if deciding and not entry["decides"]:
            continue
        made = runs.for_labels(entry["labels"], entry["settings"])
        specs += made
        if not made:
            absent.append(" ".join(filter(None, entry["labels"].values())))
    return list(dict.fromkeys(specs)), absent


def evidence(params: Params, store: Store, ledger: Path) -> dict[str, Any]:
    """The verdicts on all statements, the content of claims.json, from the study's finished runs.

    StudyError where one of them is missing: a verdict must not depend on how far the study has come.
    """
    results = [store.result(spec) for spec in stage_specs(Runs(params), ledger, "06_claims")]
    return claims.evaluate(load_ledger(ledger), scores.table(results), params)


def check_runs(folder: Path) -> Iterator[str]:
    """Where published runs contradict themselves or their manifest, a sentence each.

    Every run has the labels that its digest is of, and scores whose means are those that it states.
    """
    try:
        for digest, run in read_published(folder).items():
            if run.labels != run.record["params"].get("labels", run.labels):
                yield f"{folder / RUNS}: run {digest}: its labels are not those of its parameters"
            for name, mean in run.values.get("means", {}).items():
                if not abs(run.scores[name].mean(dtype=float) - mean) <= HALF_BITS:
                    yield f"{folder}: run {digest}: scores {name}: their mean is not the one told, {mean:g}"
        if not (folder / "claims.json").is_file():  # the check of the page looks at the others' files
            yield from file_problems(folder, read_json(folder / MANIFEST).get("files", {}), MANIFEST)
    except (StudyError, KeyError, TypeError, AttributeError) as error:
        yield f"{folder}: its runs cannot be read: {error}"


def check_verdicts(folder: Path, ledger: Path) -> Iterator[str]:
    """Where a profile's verdicts, estimates, intervals and p-values do not follow from its scores.

    They are computed again where the present ledger made them.
    """
    try:
        published = read_json(folder / "claims.json")
        if published["ledger_digest"] != load_ledger(ledger).digest:
            return  # the check of the page says so
        where = f"{folder / MANIFEST}: parameters"
        params = Params({}, where, **read_json(folder / MANIFEST)["parameters"])
        again = evidence(params, Store(folder / "none", [folder]), ledger)
    except (StudyError, KeyError, TypeError, AttributeError) as error:
        yield f"{folder}: its verdicts cannot be computed again: {error}"
        return
    yield from _told(folder / "claims.json", published, again)


def check_pooled(figures: Path, ledger: Path) -> Iterator[str]:
    """Where the verdicts over all published runs do not follow from their scores."""
    file = figures / pooling.POOLED
    if not file.is_file():
        yield f"{file} is missing: `xlt publish` writes it"
        return
    try:
        yield from _told(file, read_json(file), pooling.pooled(figures, load_ledger(ledger)))
    except (StudyError, KeyError, TypeError, AttributeError) as error:
        yield f"{file}: cannot be computed again: {error}"


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
