"""The reviewer's page: generated from all published evidence, and checked against it afterwards."""

import math
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from xltlib import StudyError
from xltlib.claims.ledger import Design, Ledger, label, load_ledger
from xltlib.claims.pooling import POOLED
from xltlib.claims.verdicts import robustness
from xltlib.store import file_problems, read_json, sha256_file, system_errors, write_json
from xltlib.textfile import excerpt

TEMPLATES = Path(__file__).parent / "page"
EVIDENCE = ("claims.json", "manifest.json", "runs.json", "scores.npz")  # any other .json is of a figure
SCALES = ("mechanism", "reduced", "pretrained", "paper")  # a smaller one never speaks for a larger one
ANSWERS = {  # what a verdict says of its statement
    "holds": ("supported", "confirmed by source", "possible"),
    "does not hold": ("contradicted", "contradicted by source", "impossible"),
    "open": ("inconclusive", "not found"),
    "could not be tested": ("not run",),
}
ANSWER_OF = {verdict: answer for answer, verdicts in ANSWERS.items() for verdict in verdicts}
BY_RUNS = ("supported", "contradicted", "inconclusive", "not run")
GREEK = {"alpha": "α", "beta": "β", "epsilon": "ε", "lambda": "λ"}
EXTRA = ("sphinx", "myst_nb", "sphinx_book_theme")
STAMP = "site.json"  # digests of what the page was made from and of its own files; written last
OUTSIDE = re.compile(r"<(?:script|img|iframe|link|source)\b[^>]*\b(?:src|href)=[\"'](?:https?:)?//[^>]*>")
SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


# Evidence


@dataclass(frozen=True)
class Profile:
    """What a profile has published: verdicts, manifest, runs, and figures with their data files."""

    folder: Path
    claims: dict[str, Any]
    manifest: dict[str, Any]
    runs: dict[str, dict[str, Any]]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def scale(self) -> str:
        return self.claims["scale"]

    @property
    def files(self) -> list[Path]:
        """All published files, in order of their names."""
        return sorted(path for path in self.folder.iterdir() if path.is_file())

    @cached_property
    def figures(self) -> dict[str, dict[str, Any]]:
        """The data of each figure that is drawn, by name."""
        names = sorted({path.stem for path in self.folder.glob("*.svg")} & self.data, key=natural)
        return {name: read_json(self.folder / f"{name}.json") for name in names}

    @property
    def data(self) -> set[str]:
        """The names of all data files of figures."""
        return {path.stem for path in self.folder.glob("*.json") if path.name not in EVIDENCE}


@dataclass(frozen=True)
class Statement:
    """A statement with what each profile says of it."""

    claim: dict[str, Any]  # what all profiles share: its text, its source, its tests
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)  # profile -> its entry in claims.json
    pooled: dict[str, dict[str, Any]] = field(default_factory=dict)  # scale -> that over all published runs

    @property
    def id(self) -> str:
        return self.claim["id"]

    def at(self, scale: str) -> dict[str, Any] | None:
        """The entry that speaks for a scale: that over all published runs.

        Where these were not judged together, of the profiles with runs a confirmatory one, then the one with
        the most seeds.
        """
        if scale in self.pooled:
            return self.pooled[scale]
        own = [entry for entry in self.entries.values() if entry["scale"] == scale]

        def weight(entry: Mapping[str, Any]) -> tuple[bool, bool, int]:
            return entry["verdict"] != "not run", entry.get("confirmatory", False), _seeds(entry)

        return max(own, key=weight, default=None)

    @property
    def by_runs(self) -> bool:
        """Whether runs decide it, at whatever scale."""
        return any(entry["verdict"] in BY_RUNS for entry in self.entries.values())

    @property
    def verdicts(self) -> dict[str, str]:
        """The verdict at each scale; "not run" where no profile of the scale has tested it."""
        known = {scale: self.at(scale) for scale in SCALES} if self.by_runs else {}
        return {scale: entry["verdict"] if entry else "not run" for scale, entry in known.items()}

    @property
    def by_source(self) -> str:
        """What its source, or arithmetic, says of it."""
        if self.claim["verdict"] in ("possible", "impossible"):
            return self.claim["verdict"]
        status = self.claim["source"]["status"]
        return "not found" if status == "not found" else f"{status} by source"


def _seeds(entry: Mapping[str, Any]) -> int:
    """The most seeds of a statement's deciding tests."""
    deciding = [test for test in entry["tests"] if test["role"] == "decides" and test.get("effect")]
    return max((test["effect"]["seeds"] for test in deciding), default=0)


@dataclass(frozen=True)
class Evidence:
    """All published profiles, those with the most seeds first, and the ledger as it is now.

    `pooled` are the entries of statements over all published runs, by scale and id.
    """

    profiles: tuple[Profile, ...]
    ledger_path: Path
    ledger: Ledger
    pooled: dict[str, dict[str, dict]] = field(default_factory=dict)

    @cached_property
    def statements(self) -> list[Statement]:
        """All statements in the order of their ids."""
        entries: dict[str, dict[str, dict]] = {}
        for profile in self.profiles:
            for claim in profile.claims["claims"]:
                entries.setdefault(claim["id"], {})[profile.name] = claim
        return [
            Statement(
                next(iter(entries[i].values())), entries[i],
                {scale: known[i] for scale, known in self.pooled.items() if i in known},
            )
            for i in sorted(entries, key=natural)
        ]  # fmt: skip

    @property
    def under_way(self) -> str:
        """What the confirmation waits for; empty where nothing waits."""
        entries = (entry for known in self.pooled.values() for entry in known.values())
        return next((entry["under_way"] for entry in entries if "under_way" in entry), "")

    @property
    def pooled_file(self) -> Path:
        """The file of `pooled`, which may be absent."""
        return self.profiles[0].folder.parent / POOLED

    @property
    def digest(self) -> str:
        """What a page is known to be made from: the digests of all claims.json and of the pooled verdicts."""
        files = [profile.folder / "claims.json" for profile in self.profiles]
        files += [self.pooled_file] if self.pooled_file.is_file() else []
        return "".join(sha256_file(file)[:16] for file in files)

    @property
    def outdated(self) -> list[str]:
        """The profiles whose verdicts belong to another ledger than the present one."""
        return [p.name for p in self.profiles if p.claims["ledger_digest"] != self.ledger.digest]

    @property
    def reports(self) -> dict[int, dict[str, Any]]:
        """What is known of each report (title, question, references), by its number."""
        return {report["id"]: report for report in self.ledger.reports}


def read_evidence(figures: Path, ledger_path: Path) -> Evidence:
    """All published profiles below a folder; StudyError where there are none, or one cannot be read."""
    profiles = []
    for folder in sorted(path.parent for path in figures.glob("[!.]*/claims.json")):
        claims, manifest, runs = contents = [read_json(folder / name) for name in EVIDENCE[:3]]
        for name, content in zip(EVIDENCE, contents, strict=False):
            if not isinstance(content, dict):
                found = f"found a {type(content).__name__}, expected an object"
                raise StudyError(f"{folder / name}: {found}; run the study again")
        _require_verdicts(claims.get("claims"), folder / "claims.json")
        profiles.append(Profile(folder, claims, manifest, runs))
    if not profiles:
        raise StudyError(f"{figures}: no profile has published evidence there: run the study first (xlt run)")
    seeds = {p.name: max(map(_seeds, p.claims["claims"]), default=0) for p in profiles}
    profiles.sort(key=lambda p: (SCALES.index(p.scale), -seeds[p.name], p.name))
    together = read_json(figures / POOLED)["scales"] if (figures / POOLED).is_file() else {}
    for known in together.values():
        _require_verdicts(list(known.values()), figures / POOLED)
    return Evidence(tuple(profiles), ledger_path, load_ledger(ledger_path), together)


def _require_verdicts(entries: Any, file: Path) -> None:
    """StudyError unless the entries of a file are those of statements, with ids and verdicts of a study."""
    for claim in entries if isinstance(entries, list) else [{}]:
        known = isinstance(claim, dict) and claim.get("verdict") in ANSWER_OF
        if not known or not SAFE_ID.fullmatch(str(claim.get("id"))):
            raise StudyError(f"{file}: {excerpt(claim, 100)}: not a verdict of a study; run it again")


def headline(evidence: Evidence) -> dict[str, dict[str, list[str]]]:
    """The first screen: by scale, and by source, the statements under each answer."""
    columns = {scale: {s.id: s.verdicts[scale] for s in evidence.statements if s.by_runs} for scale in SCALES}
    columns["source"] = {s.id: s.by_source for s in evidence.statements}
    return {
        name: {answer: [i for i, v in verdicts.items() if ANSWER_OF[v] == answer] for answer in ANSWERS}
        for name, verdicts in columns.items()
    }


def effects(statement: Statement) -> Iterator[dict[str, Any]]:
    """Rows of a forest: each measured test of a statement in each profile."""
    for number, _ in enumerate(statement.claim["tests"], 1):
        for profile, entry in statement.entries.items():
            test = entry["tests"][number - 1] if number <= len(entry["tests"]) else {}
            if effect := test.get("effect"):
                numbers = {name: effect[name] for name in ("estimate", "low", "high")}
                told = {"seeds": effect["per_seed"], "margin": test["margin"], "outcome": test["outcome"]}
                yield {"test": number, "profile": profile, "task": test["task"], **numbers, **told}


def findings(evidence: Evidence) -> list[dict[str, Any]]:
    """The sentences of the first screen, their verdicts and numbers filled in from the evidence."""
    known, rows = {s.id: s for s in evidence.statements}, []
    for finding in yaml.safe_load((TEMPLATES / "findings.yaml").read_text(encoding="utf-8")):
        statement, number = known.get(finding["statement"]), finding["test"]
        entry = statement and statement.at(SCALES[0])
        own = [row for row in effects(statement) if row["test"] == number] if entry else []
        if own:  # a test that is new in the ledger has no runs yet: then the profiles tell of the one before
            entries = [e for e in (entry, *statement.entries.values()) if len(e["tests"]) >= number]
            test = next(e["tests"][number - 1] for e in entries if e["tests"][number - 1].get("effect"))
            rows.append(finding | {key: test[key] for key in ("effect", "outcome", "unit")} | {"rows": own})
    return rows


# Words


def number(x: float | None, signed: bool = False) -> str:
    """A number with three decimals ("–" where there is none); whole numbers keep all digits."""
    if not finite(x):
        return "–"
    if isinstance(x, int):
        return f"{x:+d}" if signed else f"{x:,}"
    digits = 3 if abs(x) < 100 else 1
    return f"{x:{'+' if signed else ''}.{digits}f}".replace("-", "−")


def finite(x: Any) -> bool:
    """Whether `x` is a number that can be shown."""
    return isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x)


def exact(x: Any) -> str:
    """A value of parameters or versions, as it was written."""
    return "–" if x is None else f"{x:.6g}" if isinstance(x, float) else str(x)


def p_value(p: float | None) -> str:
    """A p-value as readers expect it."""
    return "–" if not finite(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def interval(effect: Mapping[str, Any], points: bool = False) -> str:
    """An estimate with its interval, "+0.050 [+0.020, +0.080]", or in points of 100, "+5.0 [2.0, 8.0]"."""
    if points:
        low, high = (f"{100 * effect[end]:.1f}" for end in ("low", "high"))
        return f"{100 * effect['estimate']:+.1f} [{low}, {high}]".replace("-", "−")
    low, high = (number(effect[end], True) for end in ("low", "high"))
    return f"{number(effect['estimate'], True)} [{low}, {high}]"


def slug(text: Any) -> str:
    """A class name or part of an address: small letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", str(text).lower()).strip("-")


def words(key: Any) -> str:
    """A key of the data as words ("peak_memory_mb" becomes "Peak memory mb")."""
    text = str(key).replace("_", " ")
    return text[:1].upper() + text[1:]


def natural(item: Any) -> list:
    """A sort key under which S1-9 comes before S1-10; of a pair, by its first part."""
    text = item[0] if isinstance(item, tuple) else item
    parts = re.split(r"(\d+)", text)
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts if part]


def typeset(text: str) -> str:
    """A text in which a formula of one Greek letter, as $\\lambda$, is that letter."""
    return re.sub(r"\$\\(alpha|beta|epsilon|lambda)\$", lambda m: GREEK[m[1]], text)


def short_title(title: str) -> str:
    """The subject of a report for headings and menus: its title up to the words that all of them share."""
    title = title.removeprefix("Zero-Shot Cross-Lingual Transfer Performance with ")
    return re.split(r" (?:for|in) (?=Robust|Zero-Shot|XTREME)| on XNLI", title)[0]


def rows(x: Any) -> list[dict[str, Any]]:
    """A list of records, or a mapping of flat ones, whose keys then come first; empty for anything else."""
    records = list(x.values()) if isinstance(x, Mapping) else x if isinstance(x, list) else []
    if not all(isinstance(record, Mapping) for record in records):
        return []
    if isinstance(x, Mapping):
        flat = not any(isinstance(value, dict | list) for record in records for value in record.values())
        return [{"": key, **record} for key, record in x.items()] if flat else []
    return records


def columns(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys of all records in the order of their first appearance, what names a record first."""
    keys = dict.fromkeys(key for record in records for key in record)
    return sorted(keys, key=lambda key: key not in ("", "id", "ids", "claims", "report"))


def run_summary(run: Mapping[str, Any]) -> str:
    """A run on one line: its kind, what is compared, task and seed; or the simple ones of its parameters."""
    kind, labels = run["kind"], run["labels"]
    if labels:
        return f"{kind}, {label(labels)}, {labels['task']}, seed {labels['seed']}"
    simple = [(k, v) for k, v in run["params"].items() if not isinstance(v, dict | list) and v != ""]
    simple.sort(key=lambda item: item[0] not in ("objective", "options", "links", "seed"))
    return ", ".join([kind, *[f"{k} {exact(v)}" for k, v in simple][:6]])


def by_kind(runs: Mapping[str, Mapping]) -> dict[str, list[tuple[str, Mapping]]]:
    """Runs (digest and run) by kind, and in each kind by what they compare."""
    kinds: dict[str, list] = {}
    for digest, run in sorted(runs.items(), key=lambda item: (run_summary(item[1]), item[0])):
        kinds.setdefault(run["kind"], []).append((digest, run))
    return kinds


FILTERS = {"num": number, "p": p_value} | {
    shown.__name__: shown
    for shown in (exact, interval, slug, typeset, words, rows, columns, run_summary, by_kind, robustness)
}


# Pages


@dataclass(frozen=True)
class Section:
    """A heading (empty for none) and the fragment of HTML below it."""

    heading: str
    fragment: str


@dataclass(frozen=True)
class Page:
    """A page with its sections, and the pages below it in the menu."""

    title: str
    sections: list[Section]
    below: list[str] = field(default_factory=list)


def pages(evidence: Evidence, notebooks: Sequence[str]) -> dict[str, Page]:
    """Every generated page by its name. Pure, so that a site can be compared with its data."""
    render, statements = _renderer(evidence, notebooks), evidence.statements

    def one(title: str, template: str, **values: Any) -> Page:
        return Page(title, [Section("", render(template, **values))])

    site = {"index": one("What holds", "index.html"), "statements": one("All statements", "statements.html")}
    for report_id, report in evidence.reports.items():
        own = [s for s in statements if s.claim["report"] == report_id]
        sections = [Section("", render("report.html", report=report, own=own))]
        sections += [Section(s.id, render("statement.html", s=s)) for s in own]
        site[f"report-{report_id}"] = Page(short_title(report["title"]), sections)
    site["questions"] = one("The open questions", "questions.html")
    site["originals"] = one("Differences found in the originals", "originals.html")
    site |= {"figures": one("Figures", "figures.html"), "runs": one("Runs", "runs_index.html")}
    for profile in evidence.profiles:
        sections = [
            Section(data["title"], render("figure.html", profile=profile, name=name, data=data))
            for name, data in profile.figures.items()
        ]
        site[f"figures-{profile.name}"] = Page(f"Figures: {profile.name}", sections)
        site[f"runs-{profile.name}"] = one(f"Runs: {profile.name}", "runs.html", profile=profile)
        for kind in ("figures", "runs"):
            site[kind].below.append(f"{kind}-{profile.name}")
    site["environment"] = one("Environment and cost", "environment.html")
    site["scales"] = one("Other scales, data and licences", "scales.html")
    site["limitations"] = one("Limitations", "limitations.html")
    site["notebooks"] = one("Notebooks", "notebooks.html")
    site["notebooks"].below.extend(f"notebooks/{name}" for name in notebooks)
    return site


def _renderer(evidence: Evidence, notebooks: Sequence[str]) -> Callable[..., str]:
    """A function (template, values) -> HTML in which everything that comes from data is escaped."""
    require("jinja2")
    import jinja2

    loader, statements = jinja2.FileSystemLoader(TEMPLATES), evidence.statements
    env = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    env.filters.update(FILTERS)
    env.globals.update(
        evidence=evidence, statements=statements, notebooks=notebooks, scales=SCALES, answers=ANSWERS,
        answer_of=ANSWER_OF, headline=headline(evidence), findings=findings(evidence),
        facets=facets(evidence), facet_values=facet_values, effects=effects, short_title=short_title,
        known={s.id: s.claim["report"] for s in statements},
        profiles={profile.name: profile for profile in evidence.profiles},
    )  # fmt: skip
    return lambda template, **values: env.get_template(template).render(values).strip() + "\n"


def facet_values(statement: Statement) -> dict[str, list[str]]:
    """What a statement shows under each filter of the table."""
    claim, verdicts = statement.claim, statement.verdicts
    by_scale = {scale: [ANSWER_OF[verdicts[scale]] if verdicts else "no runs"] for scale in SCALES}
    return {
        "report": [str(claim["report"])],
        "method": [claim["method"]],
        "task": claim["tasks"] or ["none"],
        "report says": [claim["report_verdict"]],
        "source": [ANSWER_OF[statement.by_source]],
        **by_scale,
    }


def facets(evidence: Evidence) -> dict[str, dict[str, int]]:
    """Every filter with its values and how many statements each one keeps."""
    counts: dict[str, Counter] = {}
    for statement in evidence.statements:
        for name, values in facet_values(statement).items():
            counts.setdefault(name, Counter()).update(set(values))
    return {name: dict(sorted(c.items(), key=natural)) for name, c in counts.items()}


def require(*modules: str) -> None:
    """StudyError, with the command that brings it, for a package of the `page` extra that is absent."""
    for name in modules:
        try:
            import_module(name)
        except ImportError:
            command = "install the extra, pip install 'xltlib[page]'"
            raise StudyError(f"the page needs {name}: {command}") from None


# The site


def build(figures: Path, notebooks: Path | None, out: Path, ledger_path: Path) -> Path:
    """Build the site of all published evidence into `out`; the path of its first page.

    Parameters
    ----------
    figures : folder of published evidence, with a folder for each profile
    notebooks : folder of executed notebooks, or None
    out : folder of the site; replaced if it holds an earlier one
    ledger_path : `params/claims.yaml`

    Raises
    ------
    StudyError
        If evidence is missing or unreadable, `out` holds something else, or Sphinx is absent or fails.
    """
    require(*EXTRA)
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / STAMP).is_file())):
        raise StudyError(f"{out} is not a page made by this command: remove it")
    evidence = read_evidence(figures, ledger_path)
    executed = sorted(notebooks.glob("*.ipynb")) if notebooks and notebooks.is_dir() else []
    with tempfile.TemporaryDirectory() as scratch:
        source, site = Path(scratch, "source"), Path(scratch, "site")
        _write_sources(evidence, executed, source)
        options = ["-q", "-b", "html", "-d", f"{scratch}/doctrees"]
        command = [sys.executable, "-m", "sphinx", *options, str(source), str(site)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise StudyError("Sphinx could not build the page:\n" + (done.stderr or done.stdout)[-2000:])
        if done.stderr.strip():
            print(done.stderr.strip().replace(f"{source}/", ""), file=sys.stderr)
        (site / ".buildinfo").unlink(missing_ok=True)
        files = {str(p.relative_to(site)): sha256_file(p) for p in sorted(site.rglob("*")) if p.is_file()}
        write_json(site / STAMP, {"claims": evidence.digest, "files": files})
        with system_errors(out.absolute().parent):
            shutil.rmtree(out, ignore_errors=True)
            out.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(site, out)
    return out / "index.html"


def _write_sources(evidence: Evidence, executed: Sequence[Path], source: Path) -> None:
    """The folder that Sphinx reads: a thin page of headings for each page, its HTML, notebooks and data."""
    for folder in ("fragments", "notebooks", "_static", "extra/data/notebooks", "extra/data/effects"):
        (source / folder).mkdir(parents=True)
    shutil.copy(TEMPLATES / "conf.py", source)
    for name in ("page.css", "statements.js"):
        shutil.copy(TEMPLATES / name, source / "_static")
    for notebook in executed:
        shutil.copy(notebook, source / "notebooks")
        shutil.copy(notebook, source / "extra/data/notebooks")
    for name, file in _data_files(evidence).items():
        (source / "extra/data" / name).parent.mkdir(exist_ok=True)
        shutil.copy(file, source / "extra/data" / name)
    _draw_effects(evidence, source / "extra/data/effects")
    site = pages(evidence, [notebook.stem for notebook in executed])
    inner = {name for page in site.values() for name in page.below}
    for name, page in site.items():
        text = _page_source(evidence, name, page, source / "fragments")
        outer = [other for other in site if other not in inner and other != name]
        if below := outer if name == "index" else page.below:
            text += "\n.. toctree::\n   :hidden:\n\n" + "".join(f"   {other}\n" for other in below)
        (source / f"{name}.rst").write_text(text, encoding="utf-8")


def _data_files(evidence: Evidence) -> dict[str, Path]:
    """What the page links to: all published files by profile, the ledger, and the reports as data."""
    own = {f"{profile.name}/{path.name}": path for profile in evidence.profiles for path in profile.files}
    beside = (evidence.ledger_path, evidence.ledger_path.with_name("reports.yaml"), evidence.pooled_file)
    return own | {path.name: path for path in beside if path.is_file()}


def _draw_effects(evidence: Evidence, folder: Path) -> None:
    """A forest of each statement's tests in all profiles, and one of each finding."""
    from xltlib import drawing  # seaborn takes a while, and `xlt check` does without

    about = {"caption": "", "alt": "", "claims": [], "x_label": "effect in the unit of the test"}
    for s in evidence.statements:
        if own := list(effects(s)):
            own = [row | {"label": f"{row['test']} {row['task']}: {row['profile']}"} for row in own]
            drawing.save(folder / s.id, drawing.forest, own, title=s.id, **about)
    for finding in findings(evidence):
        own = [row | {"label": f"{row['profile']}, {len(row['seeds'])} seeds"} for row in finding["rows"]]
        told = about | {"x_label": f"difference in {finding['unit']}"}
        name = (
            f"finding-{finding['statement']}"  # as wide as a telephone, so that its letters stay as they are
        )
        drawing.save(folder / name, drawing.forest, own, title=finding["says"], width=4.4, **told)


def _page_source(evidence: Evidence, name: str, page: Page, fragments: Path) -> str:
    """A page in reStructuredText: only headings are markup, data stays in fragments that no parser reads."""
    wide = ":html_theme.sidebar_secondary.remove: true\n\n" if len(page.sections) == 1 else ""
    lines = [f"{wide}.. meta::\n   :claims-digest: {evidence.digest}\n", _heading(page.title, "=")]
    for k, section in enumerate(page.sections):
        file = fragments / f"{name}-{k}.html"
        file.write_text(section.fragment, encoding="utf-8")
        if section.heading:
            lines.append(_heading(section.heading, "-"))
        lines.append(f".. raw:: html\n   :file: fragments/{file.name}\n")
    return "\n".join(lines)


def _heading(text: str, rule: str) -> str:
    text = re.sub(r"([^\w\s])", r"\\\1", " ".join(text.split()))
    return f"{text}\n{rule * max(4, 2 * len(text))}\n"


# The check


def check(figures: Path, ledger_path: Path, site: Path | None = None) -> list[str]:
    """Where evidence, ledger and page disagree; an empty list when they do not.

    The counts are taken again from the claims, every published file is compared with its digest in the
    manifest, and each part of the page is made again from the data and looked for in the built page.
    """
    try:
        evidence = read_evidence(figures, ledger_path)
        problems = [problem for profile in evidence.profiles for problem in _check_profile(profile)]
    except StudyError as error:
        return [str(error)]
    for name in evidence.outdated:
        problems.append(f"{ledger_path} is newer than the evidence in {figures / name}: run the study again")
    for profile in evidence.profiles:
        problems += _check_rules(profile, evidence.ledger.design)
    return problems + (list(_check_site(evidence, site)) if site and site.is_dir() else [])


def _check_rules(profile: Profile, design: Design) -> Iterator[str]:
    """Whether the rules are those that the runs of a confirmation were started under, and are so marked."""
    started = profile.manifest.get("rules", {}).get("digest", "none")
    if younger := design.younger_rules(profile.name, started):
        yield f"{profile.folder}: {younger}"


def _check_profile(profile: Profile) -> Iterator[str]:
    """Counts against claims, files against the manifest, figures against their data."""
    folder, counted = profile.folder, Counter(claim["verdict"] for claim in profile.claims["claims"])
    told = {verdict: n for verdict, n in profile.claims["counts"].items() if n}
    if told != counted:
        yield f"{folder / 'claims.json'}: counts say {told}, its claims give {dict(counted)}"
    yield from file_problems(folder, profile.manifest.get("files", {}), "manifest.json")
    drawn = {path.stem for path in folder.glob("*.svg")}
    for name in sorted(drawn ^ profile.data):
        what = "a figure without its data" if name in drawn else "a figure's data without the figure"
        yield f"{folder / name}: {what}"


def _check_site(evidence: Evidence, site: Path) -> Iterator[str]:
    """Edits after the build by digest; drift by making every fragment again."""
    if not (site / STAMP).is_file():
        yield f"{site} has no {STAMP}: it was not made by xlt page, or only half; make it again"
        return
    stamp = read_json(site / STAMP)
    if not isinstance(stamp, dict) or stamp.get("claims") != evidence.digest:
        yield f"{site} was made from other evidence than is published: make it again (xlt page)"
        return
    yield from file_problems(site, stamp["files"], STAMP)
    for name, file in _data_files(evidence).items():
        if stamp["files"].get(f"data/{name}") != sha256_file(file):
            yield f"{site}/data/{name}: differs from {file}"
    for path in sorted(site.rglob("*.html")):
        if outside := OUTSIDE.search(path.read_text(encoding="utf-8")):
            yield f"{path}: loads from outside, so it does not work offline: {outside[0][:120]}"
    names = sorted(path.stem for path in (site / "data/notebooks").glob("*.ipynb"))
    for name, page in pages(evidence, names).items():
        path = site / f"{name}.html"
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        if f'content="{evidence.digest}"' not in text:
            yield f"{path}: does not carry the digest of the evidence"
        for section in page.sections:
            if section.fragment.strip() not in text:
                yield f"{path}: {section.heading or 'first part'} differs from what the data gives"
