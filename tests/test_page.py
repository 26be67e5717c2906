"""The reviewer's page: it shows the data, data stays text, nothing comes from outside, drift is told."""

import copy
import json
import re
import shutil
from collections import Counter
from itertools import pairwise

import pytest
import yaml
from sample_evidence import sample_claim, write_ledger, write_notebook, write_profile
from studies import table

from xltlib import StudyError, cli, page
from xltlib.claims.evaluate import evaluate
from xltlib.claims.ledger import load_ledger
from xltlib.params import Params
from xltlib.store import read_json, write_json

pytest.importorskip("sphinx_book_theme", reason="the page extra is not installed")
bs4 = pytest.importorskip("bs4")

MARKUP = (
    "<b>bold", "far <b>", "<fact>", "<note>", "<i>x", "<it>", "<cores>", "<m>", "<noise>", "unknown<run>",
    "<size>", "<runs>", "<few>", "<sure>", "<abstract>", "<quick>", "<run>",
)  # fmt: skip


def parsed(path) -> "bs4.BeautifulSoup":
    return bs4.BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


@pytest.fixture(scope="module")
def study(tmp_path_factory, root):
    """A small study of two profiles, its page built once: (folder, figures, ledger, site)."""
    folder = tmp_path_factory.mktemp("study")
    ledger = write_ledger(folder / "params", root)
    for name, scale in (("quick", "mechanism"), ("real", "reduced")):
        claims = [sample_claim(i, scale) for i in range(9)]
        write_profile(folder / "figures" / name, claims, ledger, scale)
    write_notebook(folder / "runs/01_alignment.ipynb")
    first = page.build(folder / "figures", folder / "runs", folder / "site", ledger)
    return folder, folder / "figures", ledger, first.parent


@pytest.fixture(scope="module")
def claims(study):
    return read_json(study[1] / "quick/claims.json")["claims"]


@pytest.fixture(scope="module")
def pages(study):
    """The study's own pages, parsed, by file name."""
    return {path.name: parsed(path) for path in study[3].glob("*.html")}


def test_first_screen_counts_are_the_data(pages, claims):
    links = pages["index.html"].select("a[href*='statements.html?']")
    shown = {a["href"].partition("?")[2]: int(a.text) for a in links}
    counts = Counter(c["verdict"] for c in claims)
    assert shown["mechanism=holds"] == shown["reduced=holds"] == counts["supported"]
    assert shown["mechanism=open"] == counts["inconclusive"]
    assert shown["mechanism=could%20not%20be%20tested"] == counts["not run"]
    by_runs = sum(counts[v] for v in ("supported", "contradicted", "inconclusive", "not run"))
    assert shown["paper=could%20not%20be%20tested"] == by_runs  # no profile of that scale
    assert sum(n for query, n in shown.items() if query.startswith("mechanism=")) == by_runs
    assert sum(n for query, n in shown.items() if query.startswith("source=")) == len(claims)


def test_findings_have_the_numbers_of_the_evidence(pages):
    shown = pages["index.html"].select("figure.finding")
    assert len(shown) == 2  # the others are of statements that this study has not tested
    assert "+6.0 [3.0, 9.0] points, 3 seeds (S0-1)" in " ".join(shown[0].text.split())
    assert shown[0].text.strip().startswith("holds")


def test_a_finding_is_a_sentence_of_a_test(root):
    ledger = {claim.id: claim for claim in load_ledger(root / "params/claims.yaml").claims}
    for finding in yaml.safe_load((page.TEMPLATES / "findings.yaml").read_text()):
        assert finding.keys() == {"statement", "test", "says"}  # a comma would end the sentence
        assert ledger[finding["statement"]].tests[finding["test"] - 1].measured


def test_the_first_screen_says_what_the_confirmation_has_decided(pages, claims):
    judged = {json.dumps(test["effect"]): test["outcome"] for c in claims for test in c["tests"]}
    decided = [outcome for outcome in judged.values() if outcome != "inconclusive"]
    text = " ".join(pages["index.html"].text.split())
    assert "looked at with 24 seeds (the looks are at 12, 24, 36" in text
    assert f"{len(decided)} of its {len(judged)} hypotheses are decided" in text
    assert text.count("A beats B by more than <m>. +") == decided.count("supported")


def test_every_statement_has_a_row_and_an_anchor(pages, claims):
    rows = pages["statements.html"].select("tr[data-claim]")
    assert [row["data-claim"] for row in rows] == [c["id"] for c in claims]
    for claim in claims:
        (article,) = pages[f"report-{claim['report']}.html"].select(f"article#claim-{claim['id']}")
        assert page.typeset(claim["statement"]) in article.text  # nothing of it was read as markup


def test_filters_list_every_value(study, pages):
    table = pages["statements.html"]
    known = page.Evidence.read(study[1], study[2]).table
    assert set(known.columns) >= {"report", "method", "task", "report says", "source", *page.SCALES}
    for facet, values in known.items():
        name, counts = facet.replace(" ", "-"), Counter(values.explode())
        (select,) = table.select(f"select[name='{name}']")
        assert set(counts) <= {option["value"] for option in select.select("option")}
        rows = [json.loads(row[f"data-{name}"]) for row in table.select("tr[data-claim]")]
        assert Counter(value for row in rows for value in row) == counts
    assert table.select("p[aria-live=polite]")
    assert all(label.text.strip() for label in table.select("label"))


def test_data_is_text_everywhere(study, pages):
    for path in study[3].glob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert not [tag for tag in ('alert("x")', *MARKUP) if tag in text], path
    assert any("{{ 7 * 7 }}" in cell.text for cell in pages["statements.html"].select("td"))


def test_each_statement_has_a_figure_of_its_tests(study, pages, claims):
    tested = [c["id"] for c in claims if c["tests"] and c["report"] == 0]
    images = [image["src"] for image in pages["report-0.html"].select("img[src*='effects/']")]
    assert images == [f"data/effects/{name}.svg" for name in tested]
    rows = read_json(study[3] / f"data/effects/{tested[0]}.json")["rows"]
    assert {row["label"]: row["estimate"] for row in rows} == {"1 nli: quick": 0.06, "1 nli: real": 0.06}
    margins = {}
    for claim in (c for c in claims if c["tests"]):
        drawn = read_json(study[3] / f"data/effects/{claim['id']}.json")
        margins[claim["tests"][0]["type"]] = drawn["rows"][0]["margin"]
    assert margins == {"superiority": [0.02], "equivalence": [-0.02, 0.02]}


def test_reports_are_named_by_their_subject(pages):
    titles = [a.text.strip() for a in pages["index.html"].select("a.reference.internal")]
    assert any("Scaling Multilingual Models" in text for text in titles)
    assert "Report 2" not in titles


def test_questions_are_answered_or_say_what_is_missing(pages):
    answered, asked = pages["questions.html"].select("section.question")[:2]
    assert answered["id"] == "question-0"
    assert "Open: gain of <noise>: +0.010." in answered.text
    assert "+0.010 [−0.010, +0.030] F1" in answered.text
    assert "one <size>" in answered.text
    images = [image["src"] for image in pages["questions.html"].select("img[src^='data/']")]
    assert images == ["data/quick/noise.svg", "data/real/noise.svg"]
    assert "not run, it needs <runs>" in asked.text
    links = [a["href"] for a in pages["index.html"].select("a[href*='questions.html#']")]
    assert links == ["questions.html#question-0", "questions.html#question-1"]


def test_each_test_says_how_robust_it_is_and_what_other_tests_say(pages):
    (article,) = pages["report-0.html"].select("article#claim-S0-1")
    for words in (
        "Robust in 2 of 3 variants of the analysis, reversed in none",
        "Margin: 1 of 1; Seeds: 0 of 1; Languages: 1 of 1.",
        "changes to not <sure>",
        "p = 0.250 (this many seeds allow 0.250 at least)",
        "ε at most 0.125",
    ):
        assert words in article.text


def test_agreement_and_calibration_are_put_in_words(tmp_path, root):
    """The reports' checks of the real ledger without any run."""
    ledger = write_ledger(tmp_path / "params", root)
    evidence = evaluate(load_ledger(ledger), table([]), Params())
    folder = tmp_path / "figures/quick"
    write_profile(folder, [], ledger)
    write_json(folder / "claims.json", evidence)
    site = page.pages(page.Evidence.read(folder.parent, ledger), [])
    agreement = evidence["reports"]["their_verdict_and_ours"]
    ((_, text),) = site["originals"].sections
    assert f"<strong>{agreement['agree']} of {agreement['decided']}</strong> decided ones agree" in text
    assert evidence["reports"]["calibration"]["word"] in text
    assert "2 runs took 1 minutes of one core in all" in site["environment"].sections[0][1]


def test_profiles_published_as_runs_alone_are_linked(tmp_path, root):
    ledger, figures = write_ledger(tmp_path / "params", root), tmp_path / "figures"
    for name in ("many", "few"):
        write_profile(figures / name, [sample_claim(i) for i in range(9)], ledger)
    (figures / "few/claims.json").unlink()
    evidence = page.Evidence.read(figures, ledger)
    assert "few/scores.npz" in evidence.files
    ((_, text),) = page.pages(evidence, [])["index"].sections
    assert "few (runs alone" in text


def test_pooled_runs_speak_and_stand_first(tmp_path, root):
    """Verdicts, finding and forest are of all runs; open questions of the profile with the most seeds."""
    ledger = write_ledger(tmp_path / "params", root)
    figures, claims = tmp_path / "figures", [sample_claim(i) for i in range(9)]
    for name in ("few", "many"):
        write_profile(figures / name, claims, ledger)
    for file, key in (("many/claims.json", "questions"), ("evidence.json", "scales")):
        content = read_json(figures / file)
        if key == "questions":
            content[key][0]["effect"]["seeds"] = 24
        else:
            own = copy.deepcopy(claims[0]) | {"verdict": "contradicted", "profiles": ["few", "many"]}
            own["tests"][0]["effect"]["estimate"] = 0.07
            content[key]["mechanism"]["S0-1"] = own
        write_json(figures / file, content)
    evidence = page.Evidence.read(figures, ledger)
    first = evidence.statements[0]
    none = dict.fromkeys(page.SCALES[1:], "not run")
    assert first.verdicts == {"mechanism": "contradicted", **none}
    assert evidence.table.loc[first.id, "mechanism"] == "does not hold"
    assert [row["body"] for row in first.effects] == ["few and many", "few", "many"]
    assert evidence.findings[0]["estimate"] == 0.07
    assert evidence.answering.name == "many"


def test_numbers_and_words():
    assert page.number(1234) == "1,234"
    assert page.number(-0.05, signed=True) == "−0.050"
    assert page.number(None) == "–"
    assert page.p_value(0.0004) == "< 0.001"
    effect = {"estimate": 0.05, "low": -0.02, "high": 0.12}
    assert page.interval(effect) == "+0.050 [−0.020, +0.120]"
    assert page.interval(effect, points=True) == "+5.0 [−2.0, 12.0]"
    assert page.words("peak_memory_mb") == "Peak memory mb"


def test_structure_for_screen_readers(pages):
    """One main heading a page, no level left out, tables of numbers with a name, pictures with a text."""
    for name, shown in pages.items():
        levels = [int(tag.name[1]) for tag in shown.find_all(re.compile("^h[1-6]$"))]
        if name not in ("genindex.html", "search.html"):
            assert levels.count(1) == 2, name  # the theme repeats it, in print only
            assert all(b - a <= 1 for a, b in pairwise(levels)), (name, levels)
        assert not shown.select("img:not([alt])"), name
    tables = pages["report-0.html"].select("table.numbers")
    assert len(pages["report-0.html"].select("caption")) >= len(tables) > 0
    assert pages["index.html"].select("html[lang]")


def test_nothing_is_loaded_from_outside(study):
    loaded = []
    for path in study[3].rglob("*.html"):
        shown = parsed(path)
        loaded += [element["src"] for element in shown.select("script[src], img[src], iframe[src]")]
        loaded += [element["href"] for element in shown.select("link[href]")]
    assert loaded
    assert [x for x in loaded if re.match(r"(https?:)?//", x)] == []
    for path in study[3].glob("_static/*.css"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"url\(['\"]?(https?:)?//|@import ['\"]http", text), path


def test_links_between_pages_lead_somewhere(study, pages):
    anchors = {name: {element["id"] for element in shown.select("[id]")} for name, shown in pages.items()}
    for name, shown in pages.items():
        for link in shown.select("a[href]"):
            target, _, anchor = link["href"].partition("#")
            target = target.partition("?")[0] or name
            if "://" not in target:
                assert (study[3] / target).exists(), (name, link["href"])
                assert not anchor or anchor in anchors.get(target, {anchor}), (name, link["href"])


def test_notebooks_are_there_with_formulas_drawn_by_the_browser(study):
    text = (study[3] / "notebooks/01_alignment.html").read_text(encoding="utf-8")
    assert "<mfrac>" in text
    assert "ran\n" in text
    assert not re.search(r"<script[^>]*mathjax", text, re.IGNORECASE)
    assert (study[3] / "data/notebooks/01_alignment.ipynb").is_file()


def test_search_finds_a_claim_by_its_id_and_its_words(study):
    index = (study[3] / "searchindex.js").read_text(encoding="utf-8")
    assert '"S0-1":' in index
    assert '"statement":' in index


def test_check_tells_an_edited_page(study):
    report, notebook = study[3] / "report-0.html", study[3] / "notebooks/01_alignment.html"
    before = {path: path.read_bytes() for path in (report, notebook)}
    report.write_bytes(before[report].replace(b"+0.060", b"+0.160", 1))
    script = b'<script src="https://cdn.example/x.js"></script></body>'
    notebook.write_bytes(before[notebook].replace(b"</body>", script))
    foreign = study[3] / "foreign.html"
    foreign.touch()
    problems = page.check(study[1], study[2], study[3])
    for path, content in before.items():
        path.write_bytes(content)
    foreign.unlink()
    assert f"{foreign}: there and not in site.json" in problems
    assert any("changed after site.json was written" in p for p in problems)
    assert any("S0-1 differs from what the data gives" in p for p in problems)
    assert any("loads from outside" in p and "cdn.example" in p for p in problems)
    assert page.check(study[1], study[2], study[3]) == []


SPOILT = {
    "number in a figure's data": ("noise.json", "Loss by", "Gain by", "noise.json: changed"),
    "number in claims.json": ("claims.json", '"p_holm": 0.02', '"p_holm": 0.03', "claims.json: changed"),
    "verdict over all runs": ("../evidence.json", '"supported"', '"possible"', "differs from what the data"),
    "runs": ("runs.json", "12.5", "2.5", "runs.json: changed"),
    "manifest": ("manifest.json", "61.2", "1.2", "environment.html: first part differs"),
    "figure": ("noise.svg", None, None, "noise.svg: in manifest.json and not there"),
    "ledger": ("../../params/claims.yaml", "margin: 0.02", "margin: 0.01", "newer than the evidence"),
    "syntax of the ledger": ("../../params/claims.yaml", "claims:", "claims: [", "not valid YAML"),
    "the reports' facts": ("../../params/reports.yaml", "extracted: 9", "extracted: 8", "differs"),
}


@pytest.mark.parametrize("what", SPOILT)
def test_check_tells_whatever_was_changed_after_the_build(study, tmp_path, what):
    """One thing is changed in the evidence or the ledger; the page, which was true before, is told too."""
    file, before, after, expected = SPOILT[what]
    shutil.copytree(study[1], tmp_path / "figures")
    shutil.copytree(study[2].parent, tmp_path / "params")
    shutil.copytree(study[1] / "quick", tmp_path / "figures/.quick.new")  # of a killed process: no profile
    ledger, path = tmp_path / "params/claims.yaml", tmp_path / "figures/quick" / file
    if before is None:
        path.unlink()
    else:
        text = path.read_text(encoding="utf-8")
        assert before in text
        path.write_text(text.replace(before, after, 1), encoding="utf-8")
    problems = page.check(tmp_path / "figures", ledger, study[3])
    assert any(expected in problem for problem in problems)
    if what == "ledger":
        site = page.pages(page.Evidence.read(tmp_path / "figures", ledger), [])
        assert "ledger is newer than the evidence of quick" in site["index"].sections[0][1]


def test_says_how_to_get_the_page_extra(study, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "EXTRA", ("sphinx", "no_such_package"))
    with pytest.raises(StudyError, match=r"the page needs no_such_package.*xltlib\[page\]"):
        page.build(study[1], study[0], tmp_path / "site", study[2])


def test_a_failed_build_leaves_the_page_that_was_there(study, tmp_path):
    write_profile(tmp_path / "figures/quick", [sample_claim(0)], study[2])
    (tmp_path / "broken.ipynb").write_text("{")
    with pytest.raises(StudyError, match="Sphinx could not build the page"):
        page.build(tmp_path / "figures", tmp_path, study[3], study[2])
    assert page.check(study[1], study[2], study[3]) == []


def test_refuses_to_replace_a_folder_that_is_no_page(study, tmp_path):
    (tmp_path / "precious.txt").write_text("x")
    with pytest.raises(StudyError, match="not a page made by this command"):
        page.build(study[1], study[0], tmp_path, study[2])


def test_missing_and_broken_evidence_is_refused(study, tmp_path):
    with pytest.raises(StudyError, match="run the study first"):
        page.Evidence.read(tmp_path, study[2])
    shutil.copytree(study[1], tmp_path / "figures")
    (tmp_path / "figures/quick/claims.json").write_text('{"claims":\n[}')
    with pytest.raises(StudyError, match="claims.json: cannot be read as JSON"):
        page.Evidence.read(tmp_path / "figures", study[2])


def test_command_line(study, capsys, monkeypatch):
    monkeypatch.setenv("XLT_ROOT", str(study[0]))
    told = []  # these have no scores
    monkeypatch.setattr("xltlib.claims.evidence.check", lambda figures, ledger: told)
    assert cli.main(["check"]) == 0
    assert "agrees" in capsys.readouterr().out
    told.append("quick: no scores")
    assert cli.main(["check"]) == 1
    assert "xlt check: quick: no scores" in capsys.readouterr().err
