"""The runs of the published profiles, by digest: those that the code asks for today are the pinned ones.

A digest that moves makes a published result one of an unknown run, and its number can no longer be shown
without training again. The pins are `digests.json`; after a change that is meant (a raised version, another
parameter in a profile), renew them with

    XLT_RENEW_DIGESTS=1 python -m pytest tests/test_digests.py
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from xltlib.claims.evidence import all_specs
from xltlib.params import load
from xltlib.runs import Runs
from xltlib.store import Spec, digest_of, read_json

PINS = Path(__file__).with_name("digests.json")
RENEW = bool(os.environ.get("XLT_RENEW_DIGESTS"))
PROFILES = ("quick", "full", "replication", "real", "links", "confirmation", "nested", "pretrained")
DIGITS = 12  # of the 16 of a digest: enough to tell some thousands of runs apart
SHOWN = 5  # runs of a kind that a failure lists


@pytest.fixture(scope="module")
def pins() -> dict[str, dict[str, list[str]]]:
    """The pinned digests, by profile and kind of run."""
    return {} if RENEW else json.loads(PINS.read_text())


@pytest.fixture(scope="module", autouse=True)
def renewed(root):
    """The pins written anew where that is asked for."""
    yield
    if RENEW:
        content = {profile: by_kind(specs(root, profile)) for profile in PROFILES}
        PINS.write_text(json.dumps(content, indent=0) + "\n")


def specs(root: Path, profile: str) -> list[Spec]:
    """Every run of a profile: those of all its notebooks, and what they build on."""
    return all_specs(Runs(load(root / "params" / f"{profile}.yaml")), root / "params" / "claims.yaml")


def by_kind(runs: Iterable[Spec]) -> dict[str, list[str]]:
    """The cut digests of the runs, sorted, by kind of run."""
    kinds: dict[str, list[str]] = {}
    for spec in runs:
        kinds.setdefault(spec.kind, []).append(spec.digest[:DIGITS])
    return {kind: sorted(kinds[kind]) for kind in sorted(kinds)}


def differences(profile: str, pinned: dict, now: list[Spec]) -> list[str]:
    """What a failure says: for each kind the pinned runs that are gone, and the runs that are not pinned."""
    words = {spec.digest[:DIGITS]: str(spec) for spec in now}
    digests, lines = by_kind(now), []
    for kind in sorted({*pinned, *digests}):
        before, after = set(pinned.get(kind, ())), set(digests.get(kind, ()))
        if len(digests.get(kind, ())) != len(after):
            lines.append(f"{profile}, {kind}: two runs of one digest")
        for what, names in (("gone", before - after), ("new", after - before)):
            if names:
                shown = "; ".join(
                    f"{name} ({words.get(name, 'not known')})" for name in sorted(names)[:SHOWN]
                )
                lines.append(f"{profile}, {kind}: {len(names)} {what}: {shown}")
    return lines


@pytest.mark.parametrize("profile", PROFILES)
def test_the_runs_of_a_published_profile_are_the_pinned_ones(root, pins, profile):
    if RENEW:
        pytest.skip("the pins are renewed")
    wrong = differences(profile, pins[profile], specs(root, profile))
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("profile", PROFILES)
def test_published_records_have_the_digests_that_they_are_filed_under(root, profile):
    published = read_json(root / "figures" / profile / "runs.json")
    assert {digest_of(entry) for entry in published.values()} == set(published)


def test_a_changed_run_is_named_with_profile_and_kind(root):
    now = specs(root, "quick")
    moved = Spec(now[-1].kind, now[-1].params | {"extra": 1}, now[-1].version, now[-1].inputs)
    lines = differences("quick", by_kind(now), [*now[:-1], moved])
    assert [line.partition(": ")[0] for line in lines] == [f"quick, {moved.kind}"] * 2
    assert now[-1].digest[:DIGITS] in lines[0]
    assert f"{moved.digest[:DIGITS]} ({moved})" in lines[1]
