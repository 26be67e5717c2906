"""Which runs a study asks for: those of its profile, of the statements and of the questions that it names."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from xltlib import StudyError
from xltlib.claims import evaluate as claims
from xltlib.claims.ledger import Ledger
from xltlib.claims.ledger_file import load_ledger
from xltlib.noise import questions
from xltlib.params import Params
from xltlib.runs import Runs
from xltlib.store import Spec

# kinds of runs that a notebook takes of those that the ledger asks for; 05 and 06 take all
STAGE_KINDS = {
    "02_pretraining": ("encoder", "probe"),
    "03_finetuning": ("transfer", "evaluation", "lexicon"),
    "04_noise_ablations": (),
}


def stage_specs(params: Params, ledger: Path, stage: str) -> list[Spec]:
    """The runs of a notebook: the profile's own, and those of the statements and questions that it names."""
    runs = Runs(params)
    specs, asked, answers = runs.stage(stage), [], []
    if stage >= "02":
        asked = _statement_specs(params, ledger)
    if stage >= "04":
        answers = [spec for number in params.questions for spec in questions.QUESTIONS[number].runs(runs)]
    if stage in STAGE_KINDS:
        asked = [spec for spec in asked if spec.kind in STAGE_KINDS[stage]]
    return list(dict.fromkeys([*specs, *asked, *answers]))


def _statement_specs(params: Params, ledger: Path) -> list[Spec]:
    """The runs of the deciding tests of some statements, and of the other tests of some."""
    if not params.statement_runs + params.control_runs:
        return []
    known, specs = load_ledger(ledger), []
    for claim in known.claims:
        controls = claim.id.startswith(params.control_runs)
        if controls or claim.id.startswith(params.statement_runs):
            specs += claim_runs(known, params, claim.id, deciding=not controls)[0]
    return list(dict.fromkeys(specs))


def claim_runs(
    ledger: Ledger, params: Params, claim_id: str, deciding: bool = False
) -> tuple[list[Spec], list[str]]:
    """The runs that a statement's tests need, and the names of those that cannot be made by this version.

    `deciding`: of those tests alone that make the verdict.
    """
    runs, specs, absent = Runs(params), [], []
    for entry in claims.needed(ledger, params, claim_id):
        if deciding and not entry["decides"]:
            continue
        found = _made_for(runs, entry["labels"], entry["settings"])
        specs += found
        if not found:
            absent.append(" ".join(filter(None, entry["labels"].values())))
    return list(dict.fromkeys(specs)), absent


def _made_for(runs: Runs, labels: Mapping[str, str], settings: Iterable[str]) -> list[Spec]:
    """The runs, one a seed, with scores for these labels and settings; none where they cannot be made."""
    asked = dict(labels)
    task = asked.pop("task")
    try:
        seeds, objective = runs.params.every_seed, asked["objective"]
        if task == "retrieval" and asked["method"] == "standard":
            return [runs.probe(objective, seed, asked["objective_options"]) for seed in seeds]
        if task == "lexicon" and asked["method"] == "salt" and not asked["objective_options"]:
            return [runs.lexicon(objective, seed, asked["method_options"]) for seed in seeds]
        if task not in runs.params.tasks:
            return []
        made = [runs.transfer(task, seed=seed, **asked) for seed in seeds]
    except StudyError:  # an objective, a method or an option that this version does not have
        return []
    if any("|" in name for name in settings):
        made += [runs.evaluation("pairs", transfer) for transfer in made]
    return made
