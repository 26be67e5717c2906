"""Small ledgers and runs with planted effects, for the tests of verdicts."""

import copy
from itertools import permutations, product
from types import SimpleNamespace

import numpy as np
import yaml

from xltlib.claims import scores
from xltlib.claims.ledger import label
from xltlib.finetuning.options import TYPO_RATES
from xltlib.params import Params

PARAMS = Params(languages=("src", "near", "far"), mask_rate=0.25)
EXAMPLES = 400
SEEDS = 12  # with fewer, sign flips cannot pass the correction for ten tests
DESIGN = {
    "exploration": {"profiles": ["full"]},
    "confirmation": {
        "profile": "confirmation", "first_seed": 12,
        "looks": [{"seeds": 12, "alpha": 0.025}, {"seeds": 24, "alpha": 0.025}],
    },
    "learnt": {
        "scale": "mechanism", "share": 0.75, "source_score": {"nli": 0.0, "paraphrase": 0.0, "qa": 0.0},
    },
    "matters_real": 0.01, "frozen": "none",
}  # fmt: skip


def runs(labels, gain=0.0, seeds=range(SEEDS), tasks=("nli",), gains=None, examples=EXAMPLES, noise=0.02):
    """Runs with 0/1 scores of accuracy 0.6 + gain (by setting: `gains`), paired on items, a little noise."""
    records, names = [], [*PARAMS.languages, *map("|".join, permutations(PARAMS.languages, 2))]
    for task, seed in product(tasks, seeds):
        rng, scores = np.random.default_rng([seed, *label(labels).encode(), len(task)]), {}
        for k, name in enumerate(names):
            items = np.random.default_rng([k, examples]).random(examples)
            wanted = 0.6 + (gains or {}).get(name, gain) + noise * rng.standard_normal() / 3
            flips = rng.random(examples) < noise
            scores[name + "#f1" * (task == "qa")] = ((items < wanted) ^ flips).astype(np.uint8)
        own, digest = {**labels, "task": task, "seed": seed}, f"{label(labels)} {task} {seed}"
        records.append({"digest": digest, "labels": own, "scores": scores})
    return records


def compared(tasks=("nli",), **gains):
    """Runs of objectives with these gains."""
    return [r for name, gain in gains.items() for r in runs({"objective": name}, gain, tasks=tasks)]


def record(seed, means, task="nli", examples=EXAMPLES, **labels):
    """A run with 0/1 scores of about these means by setting; noise meets the same luck as clean text."""
    plain = {"objective": "none", "objective_options": "", "method": "standard", "method_options": ""}
    labels, found = plain | labels | {"task": task, "seed": seed}, {}
    for name, mean in means.items():
        luck = np.random.default_rng([seed, *name.partition("@")[0].encode()]).random(examples)
        found[name + "#f1" * (task == "qa")] = (luck < mean).astype(float)
    return {"digest": str(labels), "labels": labels, "scores": found}


def everywhere(languages, mean, drop=None):
    """The same mean in every language; with `drop`, less of it at each rate of typing errors."""
    rates = TYPO_RATES if drop is not None else ()
    noisy = {f"{name}@typo{rate:g}": mean - drop * rate for name in languages for rate in rates}
    return dict.fromkeys(languages, mean) | noisy


def table(records):
    """The table of scores of `runs`; a record may hold the `floors` of its settings, and its `clusters`."""
    results = []
    for record in records:
        task, given = record["labels"]["task"], {"record": {}, "values": {}, "kind": "transfer"}
        results.append(SimpleNamespace(**given | record))
        cheap = {"clusters": {task: record.get("clusters", {})}, "baselines": {}}
        cheap["baselines"][task] = {"cheap": record.get("floors", {})}
        results.append(SimpleNamespace(kind="baselines", values=cheap))
    return scores.table(results)


def small_ledger(tmp_path, *entries, defaults=None):
    """A ledger of the given tests, one statement each, S0-1 on."""
    rows = []
    for number, tests in enumerate(entries, 1):
        tests = copy.deepcopy(tests if isinstance(tests, list) else [tests])
        deciding = [t for t in tests if t.get("role", "decides") == "decides"]
        row = {
            "id": f"S0-{number}", "report": 0, "statement": f"Statement <b>{number}</b> & so on",
            "report_verdict": "verified", "report_confidence": 0.2, "kind": "numeric result", "method": "TLM",
            "source": {"status": "not found", "searched": ["it"]}, "tests": tests,
        }  # fmt: skip
        rows.append(row | ({"combine": "all"} if len(deciding) > 1 else {}))
    raw = {"searched": {"it": "the abstract"}, "defaults": defaults or {}, "matters": 0.02, "claims": rows}
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump(raw, allow_unicode=True), encoding="utf-8")
    (tmp_path / "design.yaml").write_text(yaml.safe_dump(DESIGN), encoding="utf-8")
    report = {
        "id": 0, "file": "a.txt", "title": "A", "date": "2026-06-26", "examines": "B", "question": "C?",
        "question_needs": "a run",
        "papers_retrieved": 3, "claims_extracted": len(rows), "claims_verified": len(rows),
        "quality_score": 7.5, "abstract_truncated": True, "references": [],
    }  # fmt: skip
    (tmp_path / "reports.yaml").write_text(yaml.safe_dump({"reports": [report]}), encoding="utf-8")
    return path


def better(a, b, **more):
    test = {"type": "superiority", "words": "a beats b", "a": {"objective": a}, "b": {"objective": b}}
    return test | {"task": "nli", "margin": 0.0, "unit": "accuracy", "reason": "any gain"} | more


def planted(tmp_path):
    """Tests of every measured type, and runs in which the first of each holds and the second does not."""
    equal, robust = {"type": "equivalence", "margin": 0.05}, {"method": "rs_da"}
    options = {f"mask_rate={x}": x for x in (0.15, 0.3, 0.6)}
    slope = {"type": "trend", "over": "objective_options", "points": options}
    pairs = {"type": "interaction", "a": robust, "b": {}, "settings": "pairs", "settings2": "targets"}
    trend = {k: v for k, v in better("weam", "none").items() if k != "b"} | slope
    path = small_ledger(
        tmp_path,
        better("tlm", "none", margin=0.02),
        better("none", "tlm"),
        better("tlm", "mlm") | equal,
        better("tlm", "none") | equal,
        trend | {"direction": "up"},
        trend | {"direction": "down"},
        better("none", "none") | pairs | {"a2": robust, "b2": {}},
        better("none", "none") | pairs | {"a": {}, "b": robust, "a2": {}, "b2": robust},
        {k: v for k, v in better("tlm", "none", level=0.5).items() if k != "b"},
        {k: v for k, v in better("tlm", "none", level=0.9).items() if k != "b"},
    )  # fmt: skip
    records = compared(none=0, tlm=0.1, mlm=0.1)
    for x in (0.15, 0.3, 0.6):
        records += runs({"objective": "weam", "objective_options": f"mask_rate={x}"}, x / 3)
    across = {f"{a}|{b}": 0.15 for a, b in permutations(PARAMS.languages, 2)}
    return path, records + runs({"objective": "none", "method": "rs_da"}, 0.02, gains=across)
