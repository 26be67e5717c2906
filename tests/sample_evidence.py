"""A small study's published files, with every kind of verdict and strings that could break a page."""

import shutil
from pathlib import Path

import nbformat

from xltlib.claims.claim_text import TESTED
from xltlib.claims.ledger import load_ledger
from xltlib.page import ANSWERS
from xltlib.store import read_json, save_scores, sha256_file, write_json

NASTY = [
    '<script>alert("x")</script> & <b>bold</b>',
    "The value of $\\lambda$ is set to **1**, see `code`, |sub|, {ref}`x` and ```fences```.",
    ".. raw:: html\n\n   <i>x</i>\n\n:::{note}\nA directive\n:::\n\n# A heading",
    "'single' \"double\" </article></td></script><!-- --> {{ 7 * 7 }} {% raw %}",
]
VERDICTS = [v for verdicts in ANSWERS.values() for v in verdicts]


def sample_claim(i: int, scale: str = "mechanism") -> dict:
    """The i-th of a series of claims that goes through all verdicts, with strings that could break a page."""
    verdict = VERDICTS[i % len(VERDICTS)]
    name, fact = f"S{i % 5}-{i // 5 + 1}", {"fact": "a <fact>", "mark": "read in source", "where": "p. 3 & 4"}
    status = ("confirmed", "not found")[i % 2]
    claim = {
        "id": name, "report": i % 5, "statement": f"Statement {i}. {NASTY[i % len(NASTY)]}",
        "report_verdict": ("verified", "not verified")[i % 2], "report_confidence": 0.01 * i,
        "kind": "numeric result", "method": ("TLM", "WEAM", "SALT")[i % 3],
        "tasks": (["nli", "qa"], [], ["paraphrase"])[i % 3],
        "duplicates": ["S1-1"] if i % 7 == 3 else [], "contradicts": ["S0-1"] if i % 7 == 5 else [],
        "parts": [], "part_of": [], "related": [], "limits": "", "tests": [],
        "code": ["xltlib/finetuning/<salt>.py: augment"], "truncated": i % 9 == 0,
        "command": f"xlt claim {name} params/<quick>.yaml", "verdict": verdict, "scale": scale,
        "confirmatory": scale == "mechanism",
        "reason": "because <it> is",
        "source": {"status": status, "facts": [fact], "searched": "the <abstract>"},
    }  # fmt: skip
    tested = {"tests": [sample_test(i, verdict)], "limits": "two <cores>"} if verdict in TESTED else {}
    return claim | tested


def sample_test(i: int, outcome: str) -> dict:
    """A test with everything that one may have: effect, published value, runs, specification curve."""
    middle = {"supported": 0.06, "contradicted": -0.03, "inconclusive": 0.015}[outcome] + 0.001 * (i % 3)
    bounds = {"low": middle - 0.03, "high": middle + 0.03}
    opinions = {
        "bootstrap": [middle - 0.02, middle + 0.02], "p_seeds": 0.25, "p_least": 0.25, "better": "a",
        "eps_min": 0.125, "note": "too <few>",
    }  # fmt: skip
    effect = {
        **bounds, "estimate": middle, "p": 0.0004, "p_holm": 0.02, "seeds": 3, "settings": 2,
        "examples": 2000, "look": (12, 24)[i % 2], "sd_seeds": 0.02, "smallest_detectable": 0.03,
        "power_at_margin": 0.71, "note": "a <note>", "second_opinions": opinions,
        "per_seed": [middle - 0.02, middle, middle + 0.02], "per_setting": {"near": 0.05, "far <b>": 0.01},
    }  # fmt: skip
    variant = {
        "correction": "holm", "left_out": "", "seeds": 3, "outcome": outcome, "margin": 0.02,
        "estimate": middle, **bounds,
    }  # fmt: skip
    changes = ({}, {"margin": 0.0}, {"seeds": 2, "outcome": "not <sure>"}, {"left_out": "far"})
    return {
        "type": ("superiority", "equivalence")[i % 2], "role": "decides", "task": "nli",
        "words": "A beats B by more than <m>.", "formula": "mean(a - b) > m, $a$ & <b>",
        "margin": 0.02, "unit": "accuracy", "reason": "2 % & fixed before", "published": 0.04,
        "a": {"objective": "tlm"}, "b": {"objective": "none"}, "settings": ["near", "far"],
        "outcome": outcome, "effect": effect, "runs": [f"{i % 3:016d}", "unknown<run>"],
        "specifications": [variant | change for change in changes],
    }  # fmt: skip


def write_ledger(folder, root) -> Path:
    """A copy of the study's own ledger, which a test may change."""
    folder.mkdir(parents=True)
    for name in ("claims.yaml", "design.yaml", "reports.yaml"):
        shutil.copy(root / "params" / name, folder)
    return folder / "claims.yaml"


def write_profile(folder, claims: list[dict], ledger, scale: str = "mechanism") -> None:
    """claims.json, runs.json, two figures and a manifest of them all; beside it evidence.json."""
    folder.mkdir(parents=True, exist_ok=True)
    effect = {
        "words": "gain of <noise>", "unit": "F1", "outcome": "inconclusive", "estimate": 0.01, "low": -0.01,
        "high": 0.03, "p": 0.2, "seeds": 3, "per_seed": [0.0, 0.01, 0.02],
    }  # fmt: skip
    answered = {
        "report": 0, "question": "Does <noise> help?", "status": "answered", "figure": "noise",
        "sentence": "Open: gain of <noise>: +0.010.", "effect": effect,
        "effects": [effect, {**effect, "words": "of the others"}], "limits": "one <size>", "scale": scale,
    }  # fmt: skip
    asked = {"report": 1, "question": "And <size>?", "status": "not run", "reason": "it needs <runs>"}
    labels = {"objective": "tlm", "task": "nli", "seed": 0}
    run = {
        "kind": "transfer", "labels": labels, "params": {"lr": 1e-3}, "seconds": 12.5, "inputs": [],
        "version": 1, "files": ["<run>"], "values": {"means": {"near": 0.5}},
    }  # fmt: skip
    files = {
        "claims.json": {
            "scale": scale, "claims": claims, "ledger_digest": load_ledger(ledger).digest,
            "questions": [answered, asked], "reports": {"truncated": [{"id": "S0-1", "report": 0}]},
        },
        "runs.json": {f"{i:016d}": run for i in range(3)},
        "transfer.json": {
            "title": "Transfer_falls *with* <it>", "caption": "A & B", "alt": "falling <it>",
            "claims": ["S0-1"],
        },
        "noise.json": {"title": "Noise", "caption": "Loss by <noise>", "alt": "loss", "claims": []},
    }  # fmt: skip
    for name, content in files.items():
        write_json(folder / name, content)
    save_scores(folder / "scores.npz", {})
    svg = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 60 20"><rect width="60" height="20"/></svg>'
    for name in ("transfer.svg", "noise.svg"):
        (folder / name).write_text(svg)
        (folder / name).with_suffix(".png").write_bytes(b"a picture")
    digests = {p.name: sha256_file(p) for p in folder.iterdir()}
    costs = {"encoder": {"runs": 2, "seconds": 61.2, "peak_memory_mb": 512.0}}
    machine = {"environments": [{"python": "3.11"}], "runs": costs, "parameters": {"seeds": 3}}
    write_json(folder / "manifest.json", {**machine, "files": digests})
    pooled = folder.parent / "evidence.json"
    scales = read_json(pooled)["scales"] if pooled.exists() else {}
    scales[scale] = {claim["id"]: claim | {"profiles": [folder.name]} for claim in claims}
    write_json(pooled, {"scales": scales})


def write_notebook(path) -> None:
    """An executed notebook with formulas and a stream."""
    text = "# Alignment\n\nThe rate is $\\frac{a}{b}$.\n\n$$x^2 < 1$$"
    code = nbformat.v4.new_code_cell("print('ran')", outputs=[nbformat.v4.new_output("stream", text="ran\n")])
    path.parent.mkdir(parents=True, exist_ok=True)
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    cells = [nbformat.v4.new_markdown_cell(text), code]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)
