"""The reviewer's page: generated from all published evidence, and checked against it afterwards."""

import html
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import pandas as pd
import yaml

from xltlib import StudyError
from xltlib.claims.claim_text import TESTED
from xltlib.claims.evaluate import DOCUMENT
from xltlib.claims.evidence import DAMAGED, POOLED
from xltlib.claims.ledger import Ledger, label, load_ledger
from xltlib.claims.reports import IMPOSSIBLE, POSSIBLE, calibration, verdict_table
from xltlib.claims.verdicts import NOT_RUN, forest_row, robustness
from xltlib.store import MANIFEST, RUNS, file_problems, read_json, sha256_file, system_errors, write_json

TEMPLATES = Path(__file__).parent / "page"
CLAIMS = "claims.json"
SCALES = ("mechanism", "reduced", "pretrained", "paper")  # a smaller one never speaks for a larger one
ANSWERS = {  # what a verdict says of its statement
    "holds": ("supported", "confirmed by source", "possible"),
    "does not hold": ("contradicted", "contradicted by source", "impossible"),
    "open": ("inconclusive", "not found"),
    "could not be tested": ("not run",),
}
ANSWER_OF = {verdict: answer for answer, verdicts in ANSWERS.items() for verdict in verdicts}
EXTRA = ("sphinx", "myst_nb", "sphinx_book_theme")
STAMP = "site.json"  # digests of the page's own files; written last
OUTSIDE = re.compile(r"<(?:script|img|iframe|link|source)\b[^>]*\b(?:src|href)=[\"'](?:https?:)?//[^>]*>")


# Evidence


class Profile(NamedTuple):
    """What a profile has published: verdicts, manifest, runs, and the data of its figures by their names."""

    name: str
    scale: str
    folder: Path
    claims: dict[str, Any]
    manifest: dict[str, Any]
    runs: dict[str, dict[str, Any]]
    figures: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Statement:
    """A statement with what runs say of it: its entries of claims.json and evidence.json.

    `pooled` has by scale the entry that speaks for it; `entries` the same ones by the profiles whose runs
    they rest on, each followed by those of single profiles; `claim` is the first of them, for what all have
    in common. `verdicts` are those of each scale, "not run" where nothing is published, and none where no run
    decides; `by_source` is what its source, or arithmetic, says of it.
    """

    id: str
    claim: dict[str, Any]
    pooled: dict[str, dict[str, Any]]
    entries: dict[str, dict[str, Any]]

    @cached_property
    def verdicts(self) -> dict[str, str]:
        by_runs = any(entry["verdict"] in (*TESTED, NOT_RUN) for entry in self.entries.values())
        return {s: self.pooled.get(s, {"verdict": NOT_RUN})["verdict"] for s in SCALES if by_runs}

    @cached_property
    def by_source(self) -> str:
        verdict = self.claim["verdict"]
        return verdict if verdict in (POSSIBLE, IMPOSSIBLE) else DOCUMENT[self.claim["source"]["status"]]

    @cached_property
    def effects(self) -> list[dict[str, Any]]:
        """Rows of a forest: each measured test over all runs of a scale, then in each profile."""
        rows = []
        for body, entry in self.entries.items():
            for number, test in enumerate(entry["tests"], 1):
                if test.get("effect"):
                    about = {"test": number, "body": body, "scale": entry["scale"]}
                    about |= {name: test[name] for name in ("task", "unit")}
                    rows.append(about | forest_row(test))
        return sorted(rows, key=lambda row: row["test"])


@dataclass(frozen=True)
class Evidence:
    """All published profiles, at each scale those with the most runs first, and the ledger as it is now.

    `pooled` are the entries of statements over all published runs, by scale and id.
    """

    figures: Path
    ledger_path: Path
    profiles: list[Profile]
    pooled: dict[str, dict[str, dict]]
    ledger: Ledger

    @classmethod
    def read(cls, figures: Path, ledger_path: Path) -> "Evidence":
        """All that is published below a folder; StudyError where that is nothing, or cannot be read."""
        profiles, named = [], (CLAIMS, MANIFEST, RUNS)
        for folder in (path.parent for path in figures.glob(f"[!.]*/{CLAIMS}")):
            claims, manifest, runs = (read_json(folder / name) for name in named)
            drawn = {x.stem: read_json(x) for x in sorted(folder.glob("*.json")) if x.name not in named}
            profiles.append(Profile(folder.name, claims["scale"], folder, claims, manifest, runs, drawn))
        if not profiles:
            nothing = "no profile has published evidence there: run the study first (xlt run)"
            raise StudyError(f"{figures}: {nothing}")
        profiles.sort(key=lambda p: (SCALES.index(p.scale), -len(p.runs), p.name))
        pooled = read_json(figures / POOLED)["scales"]
        return cls(figures, ledger_path, profiles, pooled, load_ledger(ledger_path))

    @cached_property
    def statements(self) -> list[Statement]:
        """All statements in the order of the ledger."""
        entries: dict[str, dict[str, dict]] = {c["id"]: {} for c in self.profiles[0].claims["claims"]}
        for scale in SCALES:
            bodies = [(" and ".join(e["profiles"]), e) for e in self.pooled.get(scale, {}).values()]
            own = [p for p in self.profiles if p.scale == scale]
            for body, entry in [*bodies, *((p.name, e) for p in own for e in p.claims["claims"])]:
                entries[entry["id"]].setdefault(body, entry)
        pooled = {i: {scale: own[i] for scale, own in self.pooled.items() if i in own} for i in entries}
        return [Statement(i, next(iter(own.values())), pooled[i], own) for i, own in entries.items()]

    @cached_property
    def table(self) -> pd.DataFrame:
        """What can be filtered by, a row for each statement: a word or a list; verdicts as answers."""
        rows = {}
        for s in self.statements:
            about = {"report": str(s.claim["report"]), "method": s.claim["method"]}
            about |= {"task": s.claim["tasks"] or ["none"], "report says": s.claim["report_verdict"]}
            verdicts = {"source": s.by_source} | s.verdicts
            answers = {name: ANSWER_OF[verdict] for name, verdict in verdicts.items()}
            rows[s.id] = about | dict.fromkeys(SCALES, "no runs") | answers
        columns = ["report", "method", "task", "report says", "source", *SCALES]
        return pd.DataFrame.from_dict(rows, orient="index", columns=columns)

    @property
    def findings(self) -> list[dict[str, Any]]:
        """The sentences of the first screen, with the numbers of the first of the `rows` of their forests."""
        effects, found = {s.id: s.effects for s in self.statements}, []
        for finding in yaml.safe_load((TEMPLATES / "findings.yaml").read_text(encoding="utf-8")):
            rows = [row for row in effects.get(finding["statement"], []) if row["test"] == finding["test"]]
            if rows:
                found.append(finding | rows[0] | {"rows": rows})
        return found

    @property
    def under_way(self) -> str:
        """What the confirmation waits for; empty where nothing waits."""
        entries = (entry for known in self.pooled.values() for entry in known.values())
        return next((entry["under_way"] for entry in entries if "under_way" in entry), "")

    @property
    def hypotheses(self) -> list[dict[str, Any]]:
        """The tests that the confirmation has judged, with a statement that each decides.

        A hypothesis that several statements share is told once: it has one effect.
        """
        distinct: dict[str, dict] = {}
        for entry in (entry for known in self.pooled.values() for entry in known.values()):
            for test in entry["tests"] if entry.get("confirmatory") else ():
                if test["role"] == "decides" and test.get("effect"):
                    distinct.setdefault(json.dumps(test["effect"]), test | {"statement": entry["id"]})
        return list(distinct.values())

    @property
    def outdated(self) -> list[str]:
        """The profiles whose verdicts belong to another ledger than the present one."""
        return [p.name for p in self.profiles if p.claims["ledger_digest"] != self.ledger.digest]

    @property
    def slices(self) -> list[Path]:
        """The folders of profiles that are published as runs alone, without figures and verdicts."""
        folders = sorted(file.parent for file in self.figures.glob(f"[!.]*/{RUNS}"))
        return [folder for folder in folders if not (folder / CLAIMS).exists()]

    @property
    def checks(self) -> dict[str, Any]:
        """What the reports say of themselves, and their verdicts beside ours of all runs at one scale."""
        first = self.profiles[0]
        ours = {s.id: s.pooled.get(first.scale, s.claim)["verdict"] for s in self.statements}
        beside = {"their_verdict_and_ours": verdict_table, "calibration_by_our_verdict": calibration}
        claims = [claim for claim in self.ledger.claims if claim.id in ours]
        told = {name: count(claims, ours) for name, count in beside.items()}
        return first.claims["reports"] | told

    @property
    def answering(self) -> Profile:
        """The profile that answers the open questions with the most seeds, over all of them."""

        def seeds(profile: Profile) -> int:
            return sum(q["effect"]["seeds"] for q in profile.claims["questions"] if "effect" in q)

        return max(self.profiles, key=seeds)

    @property
    def files(self) -> dict[str, Path]:
        """What the page links to: all published files by profile, the ledger, and the reports as data."""
        folders = [p.folder for p in self.profiles] + self.slices
        own = {f"{folder.name}/{x.name}": x for folder in folders for x in folder.iterdir() if x.is_file()}
        beside = (self.ledger_path, self.ledger_path.with_name("reports.yaml"), self.figures / POOLED)
        return own | {path.name: path for path in beside}


# Words


def number(x: float | None, signed: bool = False) -> str:
    """A number with three decimals ("–" where there is none); whole numbers keep all digits."""
    if x is None:
        return "–"
    digits = "" if isinstance(x, int) else ".3f" if abs(x) < 100 else ".1f"
    return f"{x:{'+' if signed else ','}{digits}}".replace("-", "−")


def p_value(p: float | None) -> str:
    """A p-value as readers expect it."""
    return "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def interval(effect: Mapping[str, Any], points: bool = False) -> str:
    """An estimate with its interval, "+0.050 [+0.020, +0.080]", or in points of 100, "+5.0 [2.0, 8.0]"."""
    estimate, low, high = (effect[name] for name in ("estimate", "low", "high"))
    if points:
        return f"{100 * estimate:+.1f} [{100 * low:.1f}, {100 * high:.1f}]".replace("-", "−")
    return f"{number(estimate, True)} [{number(low, True)}, {number(high, True)}]"


def words(key: str) -> str:
    """A key of the data as words ("peak_memory_mb" becomes "Peak memory mb")."""
    text = key.replace("_", " ")
    return text[:1].upper() + text[1:]


def typeset(text: str) -> str:
    """A text in which a formula of one Greek letter, as $\\lambda$, is that letter, and -1 has a minus."""
    text = re.sub(r"\$\\(alpha|beta|epsilon|lambda)\$", lambda m: html.unescape(f"&{m[1]};"), text)
    return re.sub(r"(?<!\S)([\[(]?)-(?=[.\d])", r"\1−", text)


def short_title(title: str) -> str:
    """The subject of a report for headings and menus: its title up to the words that all of them share."""
    title = title.removeprefix("Zero-Shot Cross-Lingual Transfer Performance with ")
    return re.split(r" (?:for|in) (?=Robust|Zero-Shot|XTREME)| on XNLI", title)[0]


def records(x: Any) -> list[dict[str, Any]]:
    """The rows of a table: a list of mappings, or a mapping of flat ones, whose keys then come first."""
    if isinstance(x, Mapping):
        named = [{"": key} | item for key, item in x.items() if isinstance(item, Mapping)]
        flat = not any(isinstance(value, dict | list) for row in named for value in row.values())
        return named if flat and len(named) == len(x) else []
    return x if isinstance(x, list) and all(isinstance(row, Mapping) for row in x) else []


def columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys of all rows in the order of their first appearance, what names a row first."""
    keys = dict.fromkeys(key for row in rows for key in row)
    return sorted(keys, key=lambda key: key not in ("", "id", "ids", "claims", "report"))


def run_summary(run: Mapping[str, Any]) -> str:
    """A run on one line: its kind, what is compared, task and seed; or the simple ones of its parameters."""
    kind, labels = run["kind"], run["labels"]
    if labels:
        return f"{kind}, {label(labels)}, {labels['task']}, seed {labels['seed']}"
    simple = [(k, v) for k, v in run["params"].items() if not isinstance(v, dict | list) and v != ""]
    simple.sort(key=lambda item: item[0] not in ("objective", "options", "links", "seed"))
    return ", ".join([kind, *(f"{k} {v:.6g}" if isinstance(v, float) else f"{k} {v}" for k, v in simple[:6])])


# Pages


class Page(NamedTuple):
    """A page: its title, and its sections as (heading, the HTML below it); the first one has no heading."""

    title: str
    sections: list[tuple[str, str]]


def pages(evidence: Evidence, notebooks: Sequence[str]) -> dict[str, Page]:
    """Every generated page by its name, `figures-quick` below `figures`; the same for the same evidence."""
    render, reports, profiles = _renderer(evidence, notebooks), {}, {}
    for report in evidence.ledger.reports:
        own = [s for s in evidence.statements if s.claim["report"] == report["id"]]
        sections = [("", render("report", report=report, own=own))]
        sections += [(s.id, render("statement", s=s)) for s in own]
        reports[f"report-{report['id']}"] = Page(short_title(report["title"]), sections)
    for p in evidence.profiles:
        drawn = [(data["title"], render("figure", p=p, name=x, data=data)) for x, data in p.figures.items()]
        runs = [run | {"digest": digest, "summary": run_summary(run)} for digest, run in p.runs.items()]
        runs.sort(key=lambda run: (run["summary"], run["digest"]))
        profiles[f"figures-{p.name}"] = Page(f"Figures: {p.name}", drawn)
        sections = [("", render("profile_runs", profile=p, runs=runs))]
        profiles[f"runs-{p.name}"] = Page(f"Runs: {p.name}", sections)

    def plain(**titles: str) -> dict[str, Page]:
        return {name: Page(title, [("", render(name))]) for name, title in titles.items()}

    return (
        plain(index="What holds", statements="All statements")
        | reports
        | plain(questions="The open questions", originals="Differences found in the originals")
        | plain(figures="Figures", runs="Runs")
        | profiles
        | plain(environment="Environment and cost", scales="Other scales, data and licences")
        | plain(limitations="Limitations", notebooks="Notebooks")
    )


def _renderer(evidence: Evidence, notebooks: Sequence[str]) -> Callable[..., str]:
    """A function (template, values) -> HTML in which everything that comes from data is escaped."""
    loader, statements, table = jinja2.FileSystemLoader(TEMPLATES), evidence.statements, evidence.table
    env = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    env.filters.update(
        num=number, p=p_value, interval=interval, typeset=typeset, words=words, records=records,
        columns=columns, robustness=robustness, slug=lambda text: text.replace(" ", "-"),
    )  # fmt: skip
    env.globals.update(
        evidence=evidence, statements=statements, notebooks=notebooks, scales=SCALES, answers=ANSWERS,
        answer_of=ANSWER_OF, table=table, short_title=short_title,
        filters={name: table[name].explode().value_counts().sort_index().to_dict() for name in table},
        report_of={s.id: s.claim["report"] for s in statements},
        profile_of={digest: p.name for p in evidence.profiles[::-1] for digest in p.runs},
    )  # fmt: skip
    return lambda name, /, **values: env.get_template(f"{name}.html").render(values).strip() + "\n"


# The site


def build(figures: Path, notebooks: Path, out: Path, ledger_path: Path) -> Path:
    """Build the site of all published evidence into `out`; the path of its first page.

    figures : folder of published evidence, with a folder for each profile
    notebooks : folder of executed notebooks, which may be absent
    out : folder of the site; replaced if it holds an earlier one
    ledger_path : `params/claims.yaml`

    StudyError if evidence is missing or unreadable, `out` holds something else, or Sphinx is absent or fails.
    """
    for name in EXTRA:
        if find_spec(name) is None:
            raise StudyError(f"the page needs {name}: install the extra, pip install 'xltlib[page]'")
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / STAMP).is_file())):
        raise StudyError(f"{out} is not a page made by this command: remove it")
    evidence = Evidence.read(figures, ledger_path)
    with tempfile.TemporaryDirectory() as scratch:
        source, site = Path(scratch, "source"), Path(scratch, "site")
        _write_sources(evidence, sorted(notebooks.glob("*.ipynb")), source)
        options = ["-q", "-b", "html", "-d", f"{scratch}/doctrees"]
        command = [sys.executable, "-m", "sphinx", *options, str(source), str(site)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise StudyError("Sphinx could not build the page:\n" + (done.stderr or done.stdout)[-2000:])
        if done.stderr.strip():
            print(done.stderr.strip().replace(f"{source}/", ""), file=sys.stderr)
        (site / ".buildinfo").unlink(missing_ok=True)
        files = {str(p.relative_to(site)): sha256_file(p) for p in sorted(site.rglob("*")) if p.is_file()}
        write_json(site / STAMP, {"files": files})
        with system_errors(out.absolute().parent):
            shutil.rmtree(out, ignore_errors=True)
            out.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(site, out)
    return out / "index.html"


def _write_sources(evidence: Evidence, executed: Sequence[Path], source: Path) -> None:
    """The folder that Sphinx reads: a thin page of headings for each page, its HTML, notebooks and data.

    Only headings are markup; what comes from data stays in fragments that no parser reads.
    """
    files = {f"extra/data/{name}": file for name, file in evidence.files.items()}
    files |= {f"{folder}/{x.name}": x for x in executed for folder in ("notebooks", "extra/data/notebooks")}
    for name in ("conf.py", "_static/page.css", "_static/statements.js"):
        files[name] = TEMPLATES / Path(name).name
    for name, file in files.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, source / name)
    _draw_effects(evidence, source / "extra/data/effects")
    site = pages(evidence, [notebook.stem for notebook in executed])
    below = {name: [other for other in site if other.startswith(f"{name}-")] for name in site}
    below["notebooks"] = [f"notebooks/{notebook.stem}" for notebook in executed]
    inner = {"index", *(name for names in below.values() for name in names)}
    below["index"] = [name for name in site if name not in inner]
    (source / "fragments").mkdir()
    for name, page in site.items():
        # tables of one long section take the place of its menu
        lines = [":html_theme.sidebar_secondary.remove: true\n"] if len(page.sections) == 1 else []
        lines.append(_heading(page.title, "="))
        for k, (heading, fragment) in enumerate(page.sections):
            (source / f"fragments/{name}-{k}.html").write_text(fragment, encoding="utf-8")
            lines += [_heading(heading, "-")] if heading else []
            lines.append(f".. raw:: html\n   :file: fragments/{name}-{k}.html\n")
        if below[name]:
            lines += [".. toctree::\n   :hidden:\n", *(f"   {other}" for other in below[name])]
        (source / f"{name}.rst").write_text("\n".join(lines), encoding="utf-8")


def _heading(text: str, rule: str) -> str:
    text = re.sub(r"([^\w\s])", r"\\\1", " ".join(text.split()))
    return f"{text}\n{rule * max(4, 2 * len(text))}\n"


def _draw_effects(evidence: Evidence, folder: Path) -> None:
    """A forest of each statement's tests, and one of each finding."""
    from xltlib import drawing  # seaborn takes a while, and `xlt check` does without

    for s in evidence.statements:
        if rows := s.effects:
            rows = [row | {"label": f"{row['test']} {row['task']}: {row['body']}"} for row in rows]
            words = {"title": s.id, "x_label": "effect in the unit of the test"}
            drawing.write(folder / s.id, rows, png=False, draw="forest", **words)
    for finding in evidence.findings:
        rows = [row | {"label": f"{row['body']}, {len(row['seeds'])} seeds"} for row in finding["rows"]]
        words = {"title": finding["says"], "x_label": f"difference in {finding['unit']}"}
        words["width"] = 4.4  # that of a telephone, so that its letters stay as they are
        drawing.write(folder / f"finding-{finding['statement']}", rows, png=False, draw="forest", **words)


# The check


def check(figures: Path, ledger_path: Path, site: Path) -> list[str]:
    """Where published files, ledger and page disagree; an empty list when they do not.

    Every published file is compared with its digest in the manifest, and each part of the page, where there
    is one, is made again from the data and looked for in it.
    """
    problems: list[str] = []
    try:
        evidence = Evidence.read(figures, ledger_path)
        for own in evidence.profiles:
            problems += file_problems(own.folder, own.manifest["files"], MANIFEST)
        for name in evidence.outdated:
            where = figures / name
            problems.append(f"{ledger_path} is newer than the evidence in {where}: run the study again")
        problems += _check_site(evidence, site) if site.is_dir() else []
    except StudyError as error:
        problems.append(str(error))
    except DAMAGED as error:
        problems.append(f"{figures}: a file is damaged, or edited by hand: {error!r}")
    return problems


def _check_site(evidence: Evidence, site: Path) -> Iterator[str]:
    """Edits after the build by digest; drift by making every fragment again."""
    if not (site / STAMP).is_file():
        yield f"{site} has no {STAMP}: it was not made by xlt page, or only half; make it again"
        return
    made = read_json(site / STAMP)["files"]
    yield from file_problems(site, made, STAMP)
    for name, file in evidence.files.items():
        if made.get(f"data/{name}") != sha256_file(file):
            yield f"{site}/data/{name}: differs from {file}: make the page again (xlt page)"
    for path in sorted(site.rglob("*.html")):
        if outside := OUTSIDE.search(path.read_text(encoding="utf-8")):
            yield f"{path}: loads from outside, so it does not work offline: {outside[0][:120]}"
    names = sorted(path.stem for path in (site / "data/notebooks").glob("*.ipynb"))
    for name, page in pages(evidence, names).items():
        path = site / f"{name}.html"
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        for heading, fragment in page.sections:
            if fragment.strip() not in text:
                yield f"{path}: {heading or 'first part'} differs from what the data gives"
