"""The statistical design: what explores, what confirms, its looks, and the digest that freezes it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xltlib import StudyError

DESIGN = "design.yaml"  # beside claims.yaml
# what of a test can change no verdict
TOLD = ("words", "name", "unit", "reason", "matters_reason", "published")


@dataclass(frozen=True)
class Look:
    """A look at the first `seeds` confirmatory seeds, with its part of the error rate."""

    seeds: int
    alpha: float


@dataclass(frozen=True)
class Design:
    """What decides and when: the content of design.yaml, with the digest of its rules and the ledger's tests.

    `source_score` is, by task, what a system must reach in the source language at the scale `learnt_scale` to
    count as trained, in at least `learnt_share` of the seeds. `frozen` is the digest that confirmatory runs
    were started with.
    """

    exploration: tuple[str, ...]
    profile: str
    first_seed: int
    looks: tuple[Look, ...]
    learnt_scale: str
    source_score: dict[str, float]
    learnt_share: float
    matters_real: float
    digest: str
    frozen: str

    def confirms(self, profile: str) -> bool:
        """Whether the runs of a profile are confirmatory."""
        return profile == self.profile

    def explores(self, profile: str) -> bool:
        """Whether a profile leaves out the tests that came `since` the confirmation was planned."""
        return profile in self.exploration

    def require_frozen(self, profile: str) -> None:
        """StudyError where confirmatory runs would be judged by rules that are not the frozen ones."""
        if self.confirms(profile) and self.digest != self.frozen:
            raise StudyError(
                f"params/{DESIGN}: the rules have the digest {self.digest}, frozen is {self.frozen}: runs"
                " that confirm are judged by rules older than they are. Undo the change, or, before any"
                " such run, write the digest at `frozen`"
            )


def parse_design(path: Path, raw: Mapping[str, Any], ledger: Mapping[str, Any]) -> Design:
    """The design that a file holds; StudyError where a key is missing or a value cannot be used."""
    try:
        confirmation, learnt = raw["confirmation"], raw["learnt"]
        looks = tuple(Look(int(look["seeds"]), float(look["alpha"])) for look in confirmation["looks"])
        design = Design(
            exploration=tuple(raw["exploration"]["profiles"]),
            profile=str(confirmation["profile"]),
            first_seed=int(confirmation["first_seed"]),
            looks=looks,
            learnt_scale=str(learnt["scale"]),
            source_score={str(task): float(x) for task, x in learnt["source_score"].items()},
            learnt_share=float(learnt["share"]),
            matters_real=float(raw["matters_real"]),
            digest=rules_digest(ledger, raw),
            frozen=str(raw["frozen"]),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise StudyError(
            f"{path}: expected the keys of the design, each with its values: {error!r}"
        ) from None
    counts = [look.seeds for look in looks]
    if not counts or counts != sorted(set(counts)) or not all(0 < look.alpha < 0.5 for look in looks):
        raise StudyError(f"{path}: looks: expected growing numbers of seeds, each with a level below 0.5")
    return design


def rules_digest(ledger: Mapping[str, Any], design: Mapping[str, Any]) -> str:
    """The digest of all that turns runs into verdicts: measured tests, how they combine, and the design.

    Statements, sources and the words of a test are no part of it, so that a spelling can be mended.
    """
    claims = [
        {
            "id": claim["id"],
            "combine": claim.get("combine", ""),
            "tests": [
                {name: value for name, value in test.items() if name not in TOLD}
                for test in claim["tests"]
                if "margin" in test or "test_of" in test
            ],
        }
        for claim in ledger["claims"]
    ]
    rules = {
        "claims": [claim for claim in claims if claim["tests"]],
        "defaults": ledger.get("defaults", {}),
        "matters": ledger["matters"],
        "design": {name: value for name, value in design.items() if name != "frozen"},
    }
    return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()[:16]
