"""The reviewer's page: it shows the data, data stays text, nothing comes from outside, drift is told."""

import json
import re
import shutil
import sys
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from sample_evidence import sample_claim, write_ledger, write_notebook, write_profile
from studies import table

from xltlib import StudyError, cli, page
from xltlib.claims.evaluate import evaluate
from xltlib.claims.ledger import load_ledger
from xltlib.params import Params
from xltlib.store import write_json

pytest.importorskip("sphinx_book_theme", reason="the page extra is not installed")

MARKUP = (
    "<b>bold", "far <b>", "<fact>", "<note>", "<i>x", "<it>", "<cores>", "<m>", "<noise>", "unknown<run>",
    "<size>", "<runs>", "<few>", "<sure>", "<abstract>", "<quick>", "<run>",
)  # fmt: skip


class Page(HTMLParser):
    """The elements of a page as (tag, attributes, text directly and indirectly inside)."""

    VOID = ("meta", "link", "br", "img", "input", "hr", "rect", "line", "circle", "path", "wbr", "col")

    def __init__(self, text: str):
        super().__init__()
        self.elements, self._open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        element = (tag, dict(attrs), [])
        self.elements.append(element)
        if tag not in self.VOID:
            self._open.append(element)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            while self._open and self._open.pop()[0] != tag:
                pass

    def handle_data(self, data):
        for _, _, texts in self._open:
            texts.append(data)

    def find(self, tag, **attributes):
        """All elements of a tag with these attributes (True: with any value) as (attributes, text)."""
        wanted = {k.rstrip("_").replace("_", "-"): v for k, v in attributes.items()}
        return [
            (attrs, "".join(text))
            for name, attrs, text in self.elements
            if name == tag and all(k in attrs and v in (True, attrs[k]) for k, v in wanted.items())
        ]


@pytest.fixture(scope="module")
def study(tmp_path_factory, root):
    """A small study of two profiles, its page built once: (folder, figures, ledger, site)."""
    folder = tmp_path_factory.mktemp("study")
    ledger = write_ledger(folder / "params", root)
    write_profile(folder / "figures/quick", [sample_claim(i) for i in range(27)], ledger)
    reduced = [sample_claim(i, "reduced") for i in range(27)]
    write_profile(folder / "figures/real", reduced, ledger, "reduced")
    write_notebook(folder / "runs/01_alignment.ipynb")
    first = page.build(folder / "figures", folder / "runs", folder / "site", ledger)
    return folder, folder / "figures", ledger, first.parent


@pytest.fixture(scope="module")
def claims(study):
    return json.loads((study[1] / "quick/claims.json").read_text())["claims"]


@pytest.fixture(scope="module")
def pages(study):
    """The study's own pages, parsed, by file name."""
    return {path.name: Page(path.read_text(encoding="utf-8")) for path in study[3].glob("*.html")}


def test_first_screen_counts_are_the_data(pages, claims):
    links = [
        (a["href"], text) for a, text in pages["index.html"].find("a") if "statements.html?" in a["href"]
    ]
    shown = {href.partition("?")[2]: int(text) for href, text in links}
    counts = Counter(c["verdict"] for c in claims)
    assert shown["mechanism=holds"] == shown["reduced=holds"] == counts["supported"]
    assert shown["mechanism=open"] == counts["inconclusive"]
    assert shown["mechanism=could%20not%20be%20tested"] == counts["not run"]
    by_runs = sum(counts[v] for v in ("supported", "contradicted", "inconclusive", "not run"))
    assert shown["paper=could%20not%20be%20tested"] == by_runs  # no profile of that scale
    assert sum(n for query, n in shown.items() if query.startswith("mechanism=")) == by_runs
    assert sum(n for query, n in shown.items() if query.startswith("source=")) == len(claims)


def test_findings_have_the_numbers_of_the_evidence(pages):
    shown = [text for _, text in pages["index.html"].find("figure", class_="finding")]
    assert len(shown) == 3  # the others are of statements that this study has not tested
    assert "+6.0 [3.0, 9.0] points, 3 seeds (S0-1)" in " ".join(shown[0].split())
    assert shown[0].strip().startswith("holds")


def test_every_statement_has_a_row_and_an_anchor(pages, claims):
    rows = pages["statements.html"].find("tr", data_claim=True)
    assert [a["data-claim"] for a, _ in rows] == sorted((c["id"] for c in claims), key=page.natural)
    for claim in claims:
        article = pages[f"report-{claim['report']}.html"].find("article", id=f"claim-{claim['id']}")
        assert len(article) == 1
        assert page.typeset(claim["statement"]) in article[0][1]  # nothing of it was read as markup


def test_filters_list_every_value(study, pages):
    table = pages["statements.html"]
    for facet, counts in page.facets(page.read_evidence(study[1], study[2])).items():
        name = page.slug(facet)
        assert len(table.find("select", name=name)) == 1
        assert set(counts) <= {a["value"] for a, _ in table.find("option")}
        rows = [json.loads(attrs[f"data-{name}"]) for attrs, _ in table.find("tr", data_claim=True)]
        assert Counter(value for row in rows for value in row) == counts
    assert table.find("p", aria_live="polite")
    assert all(text.strip() for _, text in table.find("label"))


def test_data_is_text_everywhere(study, pages):
    for path in study[3].glob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert 'alert("x")' not in text, path
        for tag in MARKUP:
            assert tag not in text, path
    assert any("{{ 7 * 7 }}" in text for _, text in pages["statements.html"].find("td"))


def test_each_statement_has_a_figure_of_its_tests(study, pages, claims):
    tested = [c["id"] for c in claims if c["tests"] and c["report"] == 0]
    images = [a["src"] for a, _ in pages["report-0.html"].find("img") if "effects/" in a["src"]]
    assert images == [f"data/effects/{name}.svg" for name in tested]
    rows = json.loads((study[3] / f"data/effects/{tested[0]}.json").read_text())["rows"]
    assert [(row["label"], row["estimate"]) for row in rows] == [
        ("1 nli: quick", 0.06),
        ("1 nli: real", 0.06),
    ]


def test_reports_are_named_by_their_subject(pages):
    titles = [text for _, text in pages["index.html"].find("a", class_="reference internal")]
    assert any("Scaling Multilingual Models" in text for text in titles)
    assert not any(text.strip() == "Report 2" for text in titles)


def test_questions_are_answered_or_say_what_is_missing(pages):
    shown = pages["questions.html"]
    answered, asked = shown.find("section", class_="question")[:2]
    assert answered[0]["id"] == "question-0"
    assert "Open: gain of <noise>: +0.010." in answered[1]
    assert "+0.010 [−0.010, +0.030] F1" in answered[1]
    assert "one <size>" in answered[1]
    images = [a["src"] for a, _ in shown.find("img") if a["src"].startswith("data/")]
    assert images == ["data/quick/noise.svg", "data/real/noise.svg"]
    assert "not run, it needs <runs>" in asked[1]
    links = [a["href"] for a, _ in pages["index.html"].find("a") if "questions.html#" in a["href"]]
    assert links == ["questions.html#question-0", "questions.html#question-1"]


def test_each_test_says_how_robust_it_is_and_what_other_tests_say(pages):
    shown = pages["report-0.html"].find("article", id="claim-S0-1")[0][1]
    assert "Robust in 2 of 3 variants of the analysis, reversed in none" in shown
    assert "Margin: 1 of 1; Seeds: 0 of 1; Languages: 1 of 1." in shown
    assert "changes to not <sure>" in shown
    assert "p = 0.250 (this many seeds allow 0.250 at least)" in shown
    assert "ε at most 0.125" in shown


def test_agreement_and_calibration_are_put_in_words(tmp_path, root):
    """The reports' checks of the real ledger without any run."""
    ledger = write_ledger(tmp_path / "params", root)
    evidence = evaluate(load_ledger(ledger), table([]), Params())
    folder = tmp_path / "figures/quick"
    write_profile(folder, [], ledger)
    write_json(folder / "claims.json", evidence)
    site = page.pages(page.read_evidence(folder.parent, ledger), [])
    agreement = evidence["reports"]["their_verdict_and_ours"]
    text = site["originals"].sections[0].fragment
    assert f"<strong>{agreement['agree']} of {agreement['decided']}</strong> decided ones agree" in text
    assert evidence["reports"]["calibration"]["word"] in text
    assert "2 runs took 1 minutes of one core in all" in site["environment"].sections[0].fragment


def test_the_entry_with_the_most_seeds_speaks_for_a_scale(tmp_path, root):
    ledger = write_ledger(tmp_path / "params", root)
    few, many = ([sample_claim(i) for i in range(9)] for _ in range(2))
    many[0]["tests"][0]["effect"]["seeds"], many[0]["verdict"] = 24, "contradicted"
    for name, own in (("few", few), ("many", many)):
        write_profile(tmp_path / "figures" / name, own, ledger)
    evidence = page.read_evidence(tmp_path / "figures", ledger)
    assert [p.name for p in evidence.profiles] == ["many", "few"]
    first = evidence.statements[0]
    assert first.verdicts == {
        "mechanism": "contradicted",
        "reduced": "not run",
        "pretrained": "not run",
        "paper": "not run",
    }
    assert first.id in page.headline(evidence)["mechanism"]["does not hold"]
    assert [row["profile"] for row in page.effects(first)] == ["many", "few"]
    few[0] |= {"verdict": "supported", "confirmatory": True}
    write_profile(tmp_path / "figures" / "few", few, ledger)
    confirmed = page.read_evidence(tmp_path / "figures", ledger).statements[0]
    assert confirmed.verdicts["mechanism"] == "supported"  # whatever more exploratory seeds say


def test_numbers_and_words():
    assert page.number(1234) == "1,234"
    assert page.number(-0.05, signed=True) == "−0.050"
    assert page.number(None) == "–"
    assert page.p_value(0.0004) == "< 0.001"
    effect = {"estimate": 0.05, "low": -0.02, "high": 0.12}
    assert page.interval(effect) == "+0.050 [−0.020, +0.120]"
    assert page.interval(effect, points=True) == "+5.0 [−2.0, 12.0]"
    assert sorted(["S1-10", "S1-9"], key=page.natural) == ["S1-9", "S1-10"]
    assert page.words("peak_memory_mb") == "Peak memory mb"


def test_structure_for_screen_readers(pages):
    """One main heading a page, no level left out, tables of numbers with a name, pictures with a text."""
    for name, parsed in pages.items():
        levels = [int(tag[1]) for tag, _, _ in parsed.elements if re.fullmatch("h[1-6]", tag)]
        if name not in ("genindex.html", "search.html"):
            assert levels.count(1) == 2, name  # the theme repeats it, in print only
            assert all(b - a <= 1 for a, b in pairwise(levels)), (name, levels)
        for attrs, _ in parsed.find("img", src=True):
            assert "alt" in attrs, (name, attrs)
    tables = pages["report-0.html"].find("table", class_="numbers")
    assert len(pages["report-0.html"].find("caption")) >= len(tables) > 0
    assert pages["index.html"].find("html", lang=True)


def test_nothing_is_loaded_from_outside(study):
    loaded = []
    for path in study[3].rglob("*.html"):
        shown = Page(path.read_text(encoding="utf-8"))
        for tag, attribute in (("script", "src"), ("img", "src"), ("link", "href"), ("iframe", "src")):
            loaded += [a[attribute] for a, _ in shown.find(tag, **{attribute: True})]
    assert loaded
    assert [x for x in loaded if re.match(r"(https?:)?//", x)] == []
    for path in study[3].glob("_static/*.css"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"url\(['\"]?(https?:)?//|@import ['\"]http", text), path


def test_links_between_pages_lead_somewhere(study, pages):
    anchors = {name: {a["id"] for _, a, _ in parsed.elements if "id" in a} for name, parsed in pages.items()}
    for name, parsed in pages.items():
        for attrs, _ in parsed.find("a", href=True):
            target, _, anchor = attrs["href"].partition("#")
            target = target.partition("?")[0] or name
            if "://" not in target:
                assert (study[3] / target).exists(), (name, attrs["href"])
                assert not anchor or anchor in anchors.get(target, {anchor}), (name, attrs["href"])


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


def test_fresh_page_agrees_with_its_data(study):
    assert page.check(study[1], study[2], study[3]) == []


def test_check_tells_an_edited_page(study):
    path = study[3] / "report-0.html"
    before = path.read_bytes()
    path.write_bytes(before.replace(b"+0.060", b"+0.160", 1))
    foreign = study[3] / "foreign.html"
    foreign.touch()
    problems = page.check(study[1], study[2], study[3])
    path.write_bytes(before)
    foreign.unlink()
    assert f"{foreign}: there and not in site.json" in problems
    assert any("changed after site.json was written" in p for p in problems)
    assert any("S0-1 differs from what the data gives" in p for p in problems)


@pytest.fixture
def copy(tmp_path, root):
    """A profile that a test may spoil: (its folder, ledger)."""
    ledger = write_ledger(tmp_path / "params", root)
    write_profile(tmp_path / "figures/quick", [sample_claim(i) for i in range(9)], ledger)
    return tmp_path / "figures/quick", ledger


def test_check_tells_newer_ledger_changed_file_and_missing_data(study, copy):
    folder, ledger = copy
    assert page.check(folder.parent, ledger) == []
    ledger.write_text(ledger.read_text(encoding="utf-8").replace("margin: 0.02", "margin: 0.01", 1))
    (folder / "noise.svg").write_text("<svg/>")
    (folder / "transfer.json").unlink()
    problems = page.check(folder.parent, ledger, study[3])
    expected = (
        "newer than the evidence",
        "noise.svg: changed",
        "transfer.json: in manifest.json and not there",
        "transfer: a figure without its data",
        "made from other evidence",
    )
    assert [part for part in expected if not any(part in p for p in problems)] == []
    assert "ledger is newer than the evidence of quick" in first_screen(folder.parent, ledger)


def first_screen(figures, ledger) -> str:
    return page.pages(page.read_evidence(figures, ledger), [])["index"].sections[0].fragment


SPOILT = {
    "number in a figure's data": ("noise.json", "Loss by", "Gain by", "noise.json: changed"),
    "number in claims.json": ("claims.json", '"p_holm": 0.02', '"p_holm": 0.03', "claims.json: changed"),
    "verdict in claims.json": (
        "claims.json",
        '"verdict": "supported"',
        '"verdict": "possible"',
        "counts say",
    ),
    "runs": ("runs.json", "12.5", "2.5", "runs.json: changed"),
    "manifest": ("manifest.json", "61.2", "1.2", "environment.html: first part differs"),
    "figure": ("noise.svg", None, None, "noise.svg: in manifest.json and not there"),
    "a figure's data": ("noise.json", None, None, "noise.json: in manifest.json and not there"),
    "margin in the ledger": ("params/claims.yaml", "margin: 0.02", "margin: 0.01", "newer than the evidence"),
    "the reports' facts": ("params/reports.yaml", "claims_extracted: 9", "claims_extracted: 8", "differs"),
}


@pytest.mark.parametrize("what", SPOILT)
def test_check_tells_whatever_was_changed_after_the_build(study, tmp_path, what):
    """One thing is changed in the evidence or the ledger; the page, which was true before, is told too."""
    file, before, after, expected = SPOILT[what]
    shutil.copytree(study[1], tmp_path / "figures")
    shutil.copytree(study[2].parent, tmp_path / "params")
    folder, ledger = tmp_path / "figures/quick", tmp_path / "params/claims.yaml"
    assert page.check(folder.parent, ledger, study[3]) == []
    path = tmp_path / file if file.startswith("params") else folder / file
    if before is None:
        path.unlink()
    else:
        text = path.read_text(encoding="utf-8")
        assert before in text
        path.write_text(text.replace(before, after, 1), encoding="utf-8")
    assert any(expected in problem for problem in page.check(folder.parent, ledger, study[3]))


def test_check_counts_the_verdicts_again(copy):
    folder, ledger = copy
    content = json.loads((folder / "claims.json").read_text())
    content["claims"][0]["verdict"] = "contradicted"
    write_json(folder / "claims.json", content)
    assert any("counts say" in p for p in page.check(folder.parent, ledger))


def test_what_a_killed_process_left_beside_a_profile_is_no_profile(copy):
    folder, ledger = copy
    shutil.copytree(folder, folder.with_name(".quick.new"))
    assert [p.name for p in page.read_evidence(folder.parent, ledger).profiles] == ["quick"]


def test_check_tells_an_unreadable_ledger(copy):
    folder, ledger = copy
    ledger.write_text("claims: [\n")
    assert any("not valid YAML" in p for p in page.check(folder.parent, ledger))


def test_check_tells_what_a_page_loads_from_outside(study):
    path = study[3] / "notebooks/01_alignment.html"
    before = path.read_bytes()
    path.write_bytes(before.replace(b"</body>", b'<script src="https://cdn.example/x.js"></script></body>'))
    problems = page.check(study[1], study[2], study[3])
    path.write_bytes(before)
    assert any("loads from outside" in p and "cdn.example" in p for p in problems)


def test_says_how_to_get_the_page_extra(study, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "myst_nb", None)
    with pytest.raises(StudyError, match=r"the page needs myst_nb.*xltlib\[page\]"):
        page.build(study[1], None, tmp_path / "site", study[2])


def test_a_failed_build_leaves_the_page_that_was_there(study, tmp_path):
    (tmp_path / "broken.ipynb").write_text("{")
    with pytest.raises(StudyError, match="Sphinx could not build the page"):
        page.build(study[1], tmp_path, study[3], study[2])
    assert page.check(study[1], study[2], study[3]) == []


def test_refuses_to_replace_a_folder_that_is_no_page(study, tmp_path):
    (tmp_path / "precious.txt").write_text("x")
    with pytest.raises(StudyError, match="not a page made by this command"):
        page.build(study[1], None, tmp_path, study[2])


def test_claims_without_verdict_and_missing_evidence_are_refused(tmp_path, root):
    ledger = write_ledger(tmp_path / "params", root)
    with pytest.raises(StudyError, match="run the study first"):
        page.read_evidence(tmp_path, ledger)
    write_profile(tmp_path / "quick", [], ledger)
    for content, words in (
        ('{"claims": [{"id": "a b", "verdict": "supported"}]}', "not a verdict"),
        ('{"claims": [{"id": "S0-1", "verdict": "perhaps"}]}', "not a verdict"),
        ('{"claims": ["S0-1"]}', "'S0-1': not a verdict"),
        ('{"claims": null}', "not a verdict"),
        ('{"claims":\n[}', r"claims.json: cannot be read as JSON"),
        ("[]", "found a list"),
    ):
        (tmp_path / "quick/claims.json").write_text(content)
        with pytest.raises(StudyError, match=words):
            page.read_evidence(tmp_path, ledger)


def test_command_line(study, capsys, monkeypatch):
    monkeypatch.setenv("XLT_ROOT", str(study[0]))
    monkeypatch.setattr("xltlib.claims.evidence.check_runs", lambda folder: [])  # these have no scores
    for check in ("check_verdicts", "check_pooled"):
        monkeypatch.setattr(f"xltlib.claims.evidence.{check}", lambda path, ledger: [])
    assert cli.main(["check"]) == 0
    assert "agrees" in capsys.readouterr().out
    monkeypatch.setattr(
        "xltlib.claims.evidence.check_verdicts", lambda folder, ledger: [f"{folder.name}: no scores"]
    )
    assert cli.main(["check"]) == 1
    assert "xlt check: quick: no scores" in capsys.readouterr().err
