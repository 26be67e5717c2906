"""One body of evidence: a verdict belongs to a statement and a scale, whichever profiles computed its runs.

Published profiles of one design may differ in seeds and runs; they are judged together.
Confirmatory runs are never pooled with others: they speak alone, from their first look on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xltlib import StudyError
from xltlib.claims.claim_text import NOT_RUN
from xltlib.claims.evaluate import evaluate_claims
from xltlib.claims.ledger import Ledger
from xltlib.claims.scores import table
from xltlib.claims.verdicts import CONTRADICTED, SUPPORTED
from xltlib.params import Params, to_dict
from xltlib.store import RUNS, Result, read_json, read_published

POOLED = "evidence.json"  # beside the folders of the profiles
# parameters that choose runs and change none: profiles that differ in these alone have one design
CHOOSING = (
    "profile", "seeds", "first_seed", "objectives", "methods", "method_objectives", "link_kinds",
    "noise_tasks", "probes", "statement_runs", "control_runs", "questions",
)  # fmt: skip


@dataclass(frozen=True)
class Body:
    """Published runs of one design, with the parameters of the profile that has most of them."""

    params: Params
    profiles: list[str] = field(default_factory=list)
    runs: dict[str, Result] = field(default_factory=dict)


def bodies(figures: Path, ledger: Ledger) -> list[Body]:
    """The published runs below a folder by their design, confirmatory ones apart."""
    by_design: dict[tuple, Body] = {}
    published = {path.parent: read_published(path.parent) for path in sorted(figures.glob(f"[!.]*/{RUNS}"))}
    for folder, runs in sorted(published.items(), key=lambda item: -len(item[1])):
        path = folder / "manifest.json"
        try:
            manifest = read_json(path)
            told, rules = manifest.get("parameters", {}), manifest.get("rules", {}).get("digest", "none")
        except AttributeError:
            raise StudyError(f"{path}: expected an object: publish {folder.name} again") from None
        values = {name: value for name, value in told.items() if name in Params.model_fields}
        params = Params({}, f"{path}: parameters", **values)
        confirms = ledger.design.confirms(params.profile)
        if younger := ledger.design.younger_rules(params.profile, rules):
            raise StudyError(f"{folder}: {younger}: undo the change")
        design = {name: str(x) for name, x in to_dict(params).items() if name not in CHOOSING}
        body = by_design.setdefault((confirms, *design.values()), Body(params))
        body.profiles.append(folder.name)
        body.runs.update({digest: run for digest, run in runs.items() if digest not in body.runs})
    return list(by_design.values())


def pooled(figures: Path, ledger: Ledger) -> dict[str, Any]:
    """The verdicts by scale and statement over all published runs, the content of figures/evidence.json.

    An entry is that of claims.json with the `profiles` that its runs come from, and with `under_way` where
    confirmatory runs have not come to their first look. Of several designs of a scale the one with a verdict
    speaks, then the one with the most seeds.
    """
    scales: dict[str, dict[str, dict]] = {}
    waiting: dict[tuple[str, str], str] = {}
    for body in bodies(figures, ledger):
        try:
            entries = evaluate_claims(ledger, table(body.runs.values()), body.params)
        except StudyError as error:
            raise StudyError(f"{figures}: {' and '.join(body.profiles)} together: {error}") from None
        known = scales.setdefault(body.params.scale, {})
        for entry in entries:
            own = entry | {"profiles": body.profiles}
            first = known.get(own["id"], own)
            known[own["id"]] = own if _weight(own) > _weight(first) else first
            if own["confirmatory"] and not _has_looked(own) and _obstacle(own):
                waiting[body.params.scale, own["id"]] = _obstacle(own)
    for (scale, claim), obstacle in waiting.items():
        scales[scale][claim]["under_way"] = obstacle
    return {"ledger_digest": ledger.digest, "rules_digest": ledger.design.digest, "scales": scales}


def _weight(entry: Mapping[str, Any]) -> tuple[bool, bool, int]:
    """What of two entries of a statement and scale speaks: see `pooled`."""
    seeds = max((t["effect"]["seeds"] for t in _deciding(entry) if t.get("effect")), default=0)
    tested = seeds > 0 and entry["verdict"] != NOT_RUN
    return entry["confirmatory"] and seeds > 0 and _has_looked(entry), tested, seeds


def _has_looked(entry: Mapping[str, Any]) -> bool:
    """Whether the verdict is settled, or all tests that make it have an effect."""
    settled = entry["verdict"] in (SUPPORTED, CONTRADICTED)
    return settled or all(test.get("effect") for test in _deciding(entry))


def _obstacle(entry: Mapping[str, Any]) -> str:
    """What the confirmation waits for: `1 of the 12 seeds of the first look are there`."""
    return next((test["obstacle"] for test in _deciding(entry) if test.get("obstacle")), "")


def _deciding(entry: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return [test for test in entry["tests"] if test["role"] == "decides" and "effect" in test]
