"""`xlt compare`: two systems' per-example scores, paired by id: interval, p-value and effect size."""

from pathlib import Path

import numpy as np

from xltlib import StudyError
from xltlib.params import table as text_table
from xltlib.significance.resampling import mcnemar, permutation
from xltlib.significance.tests import difference
from xltlib.textfile import excerpt, parse_json, read_text

SHOWN_IDS = 3  # missing ids named in an error
COLUMNS = ("metric", "n", "mean A", "mean B", "A - B", "interval", "p", "McNemar p", "only A : only B", "d_z")


def read_scores(path: Path) -> dict:
    """A score file as {"task", "language", "metrics": {metric: {id: score}}}, scores checked to be in [0, 1].

    The file has {"task", "language", "metric", "scores": {id: number}}, or with several metrics
    {"scores": {id: {metric: number}}}.
    """
    record = parse_json(read_text(path), str(path))
    scores = record.get("scores") if isinstance(record, dict) else None
    if not isinstance(scores, dict) or not scores:
        raise StudyError(f'{path}: no "scores", expected the file that `xlt score --per-example` writes')
    metrics: dict[str, dict[str, float]] = {}
    for example, value in scores.items():
        named = value if isinstance(value, dict) else {str(record.get("metric") or "score"): value}
        for metric, number in named.items():
            metrics.setdefault(metric, {})[example] = _score(
                number, f"{path}: {excerpt(metric)} of example {excerpt(example)}"
            )
    for metric, column in metrics.items():
        if len(column) < len(scores):
            missing = next(example for example in scores if example not in column)
            raise StudyError(
                f"{path}: {metric} has {len(column)} of {len(scores)} examples, {excerpt(missing)} lacks it"
            )
    return {"task": record.get("task"), "language": record.get("language"), "metrics": metrics}


def _score(value: object, place: str) -> float:
    if not isinstance(value, int | float) or not 0 <= value <= 1:  # NaN is not either
        raise StudyError(
            f"{place}: {excerpt(value)}, expected a number in [0, 1] (divide percentages by 100)"
        )
    return float(value)


def pair(a: dict[str, float], b: dict[str, float], intersect: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Scores (N,) of the examples of a and b in a's order; ids must agree unless `intersect`."""
    only_a, only_b = [i for i in a if i not in b], [i for i in b if i not in a]
    shared = [i for i in a if i in b]
    if (only_a or only_b) and not intersect:
        parts = [
            f"{len(ids)} only in {name} (such as {', '.join(map(excerpt, ids[:SHOWN_IDS]))})"
            for name, ids in (("A", only_a), ("B", only_b))
            if ids
        ]
        raise StudyError(
            f"A and B do not score the same examples: {len(shared)} shared, {', '.join(parts)};"
            " score both on one set, or use --intersect to compare the shared ones"
        )
    if not shared:
        raise StudyError(f"A ({len(a)} examples) and B ({len(b)}) share no example id")
    return np.array([a[i] for i in shared]), np.array([b[i] for i in shared])


def compare(a: np.ndarray, b: np.ndarray, rng: np.random.Generator, alpha: float = 0.05) -> dict:
    """One metric of two runs (N,): difference a - b with t interval over examples, tests and effect sizes.

    H0 of `p` (paired permutation): swapping A and B changes nothing. `d_z` is the mean difference over its
    standard deviation, None where differences do not vary. `mcnemar` only for 0/1 scores.
    """
    effect = difference(a[None, None], b[None, None], alpha=alpha)
    gaps = a - b
    spread = float(gaps.std(ddof=1)) if gaps.size > 1 else 0.0
    row = {
        "n": gaps.size,
        "mean_a": float(a.mean()),
        "mean_b": float(b.mean()),
        "difference": effect.estimate,
    }
    row |= {"low": effect.low, "high": effect.high, "alpha": alpha, "note": effect.note}
    row["p"] = permutation(a[None, None], b[None, None], rng, over="items").p
    row["d_z"] = effect.estimate / spread if spread > 1e-12 else None
    binary = np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all()
    test = mcnemar(a, b) if binary else None
    row["mcnemar"] = test and {"p": test.p, "only_a": test.only_a, "only_b": test.only_b, "odds": test.odds}
    return row


def compare_files(
    path_a: Path,
    path_b: Path,
    *,
    metric: str | None = None,
    intersect: bool = False,
    alpha: float = 0.05,
    seed: int = 0,
) -> dict:
    """All shared metrics (or the one named), as {"a", "b", "task", "languages", "metrics": {...}}."""
    if not 0 < alpha < 0.5:
        raise StudyError(f"alpha: {alpha}, expected a level between 0 and 0.5, such as 0.05")
    a, b = read_scores(path_a), read_scores(path_b)
    if a["task"] != b["task"]:
        raise StudyError(
            f"A scores task {excerpt(a['task'])}, B {excerpt(b['task'])}: two on one task expected"
        )
    names = [name for name in a["metrics"] if name in b["metrics"] and metric in (None, name)]
    if not names:
        found = f"A has {', '.join(a['metrics'])}; B has {', '.join(b['metrics'])}"
        raise StudyError(f"no metric to compare{f' named {metric!r}' if metric else ''}: {found}")
    rows = {}
    for name in names:
        pairs = pair(a["metrics"][name], b["metrics"][name], intersect)
        rows[name] = compare(*pairs, np.random.default_rng(seed), alpha)
    languages = [a["language"], b["language"]]
    return {"a": str(path_a), "b": str(path_b), "task": a["task"], "languages": languages, "metrics": rows}


def table(result: dict) -> str:
    """The comparison as text: what was compared, one line per metric, what the intervals mean."""
    lines = [list(COLUMNS)]
    notes, alpha = {}, 0.05
    for name, row in result["metrics"].items():
        test, alpha = row["mcnemar"], row["alpha"]
        cells = [
            name,
            str(row["n"]),
            f"{row['mean_a']:.4f}",
            f"{row['mean_b']:.4f}",
            f"{row['difference']:+.4f}",
        ]
        cells += [f"[{row['low']:+.4f}, {row['high']:+.4f}]", f"{row['p']:.4g}"]
        cells += [f"{test['p']:.4g}", f"{test['only_a']} : {test['only_b']}"] if test else ["-", "-"]
        lines.append([*cells, "-" if row["d_z"] is None else f"{row['d_z']:+.3f}"])
        notes[row["note"]] = None
    languages = dict.fromkeys(str(language) for language in result["languages"])
    head = (
        f"A: {result['a']}\nB: {result['b']}\ntask {result['task']}, language {' against '.join(languages)}"
    )
    foot = f"interval: {100 * (1 - alpha):g} %, paired t over examples; p: paired permutation, two-sided"
    return "\n".join([head, "", text_table(lines), "", foot, *(f"note: {note}" for note in notes if note)])
