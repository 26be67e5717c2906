"""The reviewer's page: generated from published evidence, and checked against it afterwards."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xltlib import StudyError
from xltlib import report_views as views
from xltlib.report_evidence import EVIDENCE, Evidence, read_evidence
from xltlib.store import read_json, sha256_file, write_json

PAGE = Path(__file__).parent / "page"
OUTSIDE = re.compile(r"<(?:script|img|iframe|link|source)\b[^>]*\b(?:src|href)=[\"'](?:https?:)?//[^>]*>")
STAMP = "site.json"  # digests of what the page was made from and of its own files; written last


@dataclass(frozen=True)
class Section:
    """A heading (empty for none) and the fragment of HTML below it."""

    heading: str
    fragment: str


def pages(evidence: Evidence, notebooks: list[str]) -> dict[str, tuple[str, list[Section]]]:
    """Every generated page: name -> (title, sections). Pure, so that a site can be compared with its data."""
    render = _renderer(evidence, notebooks)
    claims = evidence.claims
    reports = sorted({c["report"] for c in claims}, key=lambda r: views.natural(str(r)))
    made = {
        "index": ("What holds", [Section("", render("index.html"))]),
        "claims": ("All statements", [Section("", render("claims.html"))]),
    }
    if evidence.claims_file.get("questions"):
        made["questions"] = ("The open questions", [Section("", render("questions.html"))])
    for report in reports:
        own = [c for c in claims if c["report"] == report]
        sections = [Section("", render("report.html", report=report, own=own))]
        sections += [Section(c["id"], render("claim.html", claim=c)) for c in own]
        made[f"report-{report}"] = (f"Report {report}", sections)
    if evidence.beside:
        made["profiles"] = ("Other profiles", [Section("", render("profiles.html"))])
    made["originals"] = ("Differences found in the originals", [Section("", render("originals.html"))])
    figures = [Section(f["title"], render("figure.html", f=f)) for f in evidence.figures]
    made["figures"] = ("Figures", [Section("", render("figures.html")), *figures])
    for name, title in (
        ("runs", "Runs"),
        ("environment", "Environment and cost"),
        ("limitations", "Limitations"),
    ):
        made[name] = (title, [Section("", render(f"{name}.html"))])
    made["notebooks"] = ("Notebooks", [Section("", render("notebooks.html"))])
    return made


def _renderer(evidence: Evidence, notebooks: list[str]):
    """A function (template, values) -> HTML in which everything that comes from data is escaped."""
    jinja2 = _require("jinja2")
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PAGE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.ChainableUndefined,
    )
    claims = evidence.claims
    env.filters.update(views.FILTERS)
    env.globals.update(
        evidence=evidence,
        claims=claims,
        known={c["id"]: c["report"] for c in claims},
        notebooks=notebooks,
        alpha=evidence.claims_file.get("alpha") or 0.05,
        headline=views.headline(claims),
        facets=views.facets(claims),
        agreement=views.agreement(claims),
        effect_plot=views.effect_plot,
        specification_plot=views.specification_plot,
        not_run=views.not_run(claims),
        profiles=views.profiles(evidence),
        repeated=views.repeated(evidence),
    )
    return lambda template, **values: env.get_template(template).render(values).strip() + "\n"


def _require(module: str):
    """Import a package of the `page` extra, or say how to get it."""
    try:
        return __import__(module)
    except ImportError:
        raise StudyError(f"the page needs {module}: install the extra, pip install 'xltlib[page]'") from None


def build(profile_dir: Path, notebooks: Path | None, out: Path, ledger_path: Path, root: Path) -> Path:
    """Build the site of one profile into `out` and return its first page.

    Parameters
    ----------
    profile_dir : folder of published evidence (`figures/<profile>`)
    notebooks : folder of executed notebooks, or None
    out : folder of the site; replaced if it holds an earlier one
    ledger_path : `params/claims.yaml`
    root : the study's folder, where `params/<profile>.yaml` lies

    Raises
    ------
    StudyError
        If evidence is missing or unreadable, `out` holds something else, or Sphinx is absent or fails.
    """
    for module in ("sphinx", "myst_nb", "sphinx_book_theme"):
        _require(module)
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / STAMP).is_file())):
        raise StudyError(
            f"{out} is not a page made by this command: remove it, or name another folder (--out)"
        )
    evidence = read_evidence(profile_dir, ledger_path, root)
    executed = sorted(notebooks.glob("*.ipynb")) if notebooks and notebooks.is_dir() else []
    with tempfile.TemporaryDirectory() as scratch:
        source, built = Path(scratch, "source"), Path(scratch, "site")
        _write_sources(evidence, executed, source)
        _sphinx(source, built)
        _stamp(evidence, built)
        shutil.rmtree(out, ignore_errors=True)
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(built, out)
    return out / "index.html"


def _write_sources(evidence: Evidence, executed: list[Path], source: Path) -> None:
    """The folder Sphinx reads: a thin page of headings for each page, its HTML, notebooks and data."""
    for folder in ("fragments", "notebooks", "_static", "extra/data/notebooks"):
        (source / folder).mkdir(parents=True)
    shutil.copy(PAGE / "conf.py", source)
    for name in ("page.css", "claims.js"):
        shutil.copy(PAGE / name, source / "_static")
    for notebook in executed:
        shutil.copy(notebook, source / "notebooks")
        shutil.copy(notebook, source / "extra/data/notebooks")
    for file in evidence.data_files:
        shutil.copy(file, source / "extra/data")
    names = [n.stem for n in executed]
    made = pages(evidence, names)
    for name, (title, sections) in made.items():
        text = _page_source(evidence, name, title, sections, source / "fragments")
        if name == "index":
            text += _toctree(list(made)[1:])
        if name == "notebooks":
            text += _toctree([f"notebooks/{n}" for n in names])
        (source / f"{name}.rst").write_text(text, encoding="utf-8")


def _page_source(evidence: Evidence, name: str, title: str, sections: list[Section], fragments: Path) -> str:
    """A page in reStructuredText: only headings are markup, data stays in fragments that no parser reads."""
    wide = ":html_theme.sidebar_secondary.remove: true\n\n" if len(sections) == 1 else ""
    lines = [f"{wide}.. meta::\n   :claims-digest: {evidence.digest}\n", _heading(title, "=")]
    for i, section in enumerate(sections):
        file = fragments / f"{name}-{i}.html"
        file.write_text(section.fragment, encoding="utf-8")
        if section.heading:
            lines.append(_heading(section.heading, "-"))
        lines.append(f".. raw:: html\n   :file: fragments/{file.name}\n")
    return "\n".join(lines)


def _heading(text: str, rule: str) -> str:
    text = re.sub(r"([^\w\s])", r"\\\1", " ".join(text.split()))
    return f"{text}\n{rule * max(4, 2 * len(text))}\n"


def _toctree(names: list[str]) -> str:
    return "\n.. toctree::\n   :hidden:\n\n" + "".join(f"   {name}\n" for name in names)


def _sphinx(source: Path, built: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", "-d", str(source.parent / "doctrees")]
    done = subprocess.run([*command, str(source), str(built)], capture_output=True, text=True)
    if done.returncode:
        raise StudyError("Sphinx could not build the page:\n" + (done.stderr or done.stdout)[-2000:])
    if done.stderr.strip():
        print(done.stderr.strip().replace(f"{source}/", ""), file=sys.stderr)
    (built / ".buildinfo").unlink(missing_ok=True)


def _stamp(evidence: Evidence, built: Path) -> None:
    files = {str(p.relative_to(built)): sha256_file(p) for p in sorted(built.rglob("*")) if p.is_file()}
    stamp = {"profile": evidence.profile_dir.name, "claims": evidence.digest, "files": files}
    write_json(built / STAMP, stamp)


def check(profile_dir: Path, ledger_path: Path, site: Path | None = None) -> list[str]:
    """Where evidence, ledger and page disagree; an empty list when they do not.

    The counts are taken again from the claims, every published file is compared with its digest in the
    manifest, and each part of the page is made again from the data and looked for in the built page.
    """
    try:
        evidence = read_evidence(profile_dir, ledger_path, ledger_path.parent.parent)
        _ = evidence.ledger, evidence.figures  # read now: what cannot be read is a problem like any other
    except StudyError as error:
        return [str(error)]
    problems = _check_counts(evidence) + _check_manifest(evidence) + _check_figures(evidence)
    problems += _check_ledger(evidence) + _check_rules(evidence)
    return problems + (_check_site(evidence, site) if site and site.is_dir() else [])


def _check_ledger(evidence: Evidence) -> list[str]:
    path = evidence.ledger_path
    if not path.is_file():
        return [f"{path} is not there: nobody can tell which tests were agreed on"]
    newer = f"{path} is newer than the evidence in {evidence.profile_dir}: run the study again"
    return [newer] if evidence.ledger_is_newer else []


def _check_rules(evidence: Evidence) -> list[str]:
    """Whether the rules are those that the runs of a confirmation were started under, and are so marked."""
    if evidence.ledger is None:
        return []
    design, folder = evidence.ledger.design, evidence.profile_dir
    if not design.confirms(folder.name):
        return []
    started = evidence.manifest.get("rules", {}).get("digest", "none")
    if started == design.digest == design.frozen:
        return []
    return [
        f"{folder}: its runs were started under the rules {started}, frozen is {design.frozen}, and ledger"
        f" and design now have {design.digest}: a margin, a smallest effect or a rule is younger than the"
        " runs that it judges"
    ]


def _check_counts(evidence: Evidence) -> list[str]:
    path, counted = evidence.profile_dir / "claims.json", Counter(c["verdict"] for c in evidence.claims)
    told = {k: n for k, n in (evidence.claims_file.get("counts") or {}).items() if n}
    known = {v for verdicts in views.FAMILIES.values() for v in verdicts}
    problems = [f"{path}: unknown verdict {v!r}" for v in counted if v not in known]
    if told != counted:
        problems.append(f"{path}: counts say {told}, its claims give {dict(counted)}")
    return problems


def _check_manifest(evidence: Evidence) -> list[str]:
    folder, listed = evidence.profile_dir, evidence.manifest.get("files")
    if not isinstance(listed, dict):
        return [f"{folder / 'manifest.json'}: no digests of the published files"]
    digests = {name: d.get("sha256") if isinstance(d, dict) else d for name, d in listed.items()}
    present = {p.name for p in folder.iterdir() if p.is_file()} - {"manifest.json"}
    problems = [f"{folder / n}: in the manifest and not there" for n in sorted(digests.keys() - present)]
    problems += [f"{folder / n}: there and not in the manifest" for n in sorted(present - digests.keys())]
    changed = [n for n in sorted(present & digests.keys()) if sha256_file(folder / n) != digests[n]]
    return problems + [f"{folder / n}: changed after the manifest was written" for n in changed]


def _check_figures(evidence: Evidence) -> list[str]:
    folder = evidence.profile_dir
    drawn = {f["stem"] for f in evidence.figures}
    data = {p.stem for p in folder.glob("*.json") if p.name not in EVIDENCE}
    problems = [f"{folder / stem}: a figure without its data, {stem}.json" for stem in sorted(drawn - data)]
    return problems + [
        f"{folder / stem}.json: a figure's data without the figure" for stem in sorted(data - drawn)
    ]


def _check_site(evidence: Evidence, site: Path) -> list[str]:
    """Edits after the build by digest; drift by making every fragment again."""
    if not (site / STAMP).is_file():
        return [f"{site} has no {STAMP}: it was not made by xlt page, or only half; make it again"]
    stamp = read_json(site / STAMP)
    if stamp["claims"] != evidence.digest:
        return [f"{site} was made from other evidence than {evidence.profile_dir}: make it again (xlt page)"]
    gone = [name for name in stamp["files"] if not (site / name).is_file()]
    problems = [f"{site / name}: missing from the page" for name in gone]
    edited = [n for n, d in stamp["files"].items() if n not in gone and sha256_file(site / n) != d]
    problems += [f"{site / name}: changed after the page was built" for name in edited]
    problems += [
        f"{site}/data/{f.name}: differs from {f}"
        for f in evidence.data_files
        if stamp["files"].get(f"data/{f.name}") != sha256_file(f)
    ]
    for page in sorted(site.rglob("*.html")):
        found = OUTSIDE.search(page.read_text(encoding="utf-8"))
        problems += (
            [f"{page}: loads from outside, so it does not work offline: {found[0][:120]}"] if found else []
        )
    names = sorted(p.stem for p in (site / "data/notebooks").glob("*.ipynb"))
    for name, (_, sections) in pages(evidence, names).items():
        page = site / f"{name}.html"
        text = page.read_text(encoding="utf-8") if page.is_file() else ""
        if f'content="{evidence.digest}"' not in text:
            problems.append(f"{page}: does not carry the digest of claims.json")
        lost = [s.heading or "first part" for s in sections if s.fragment.strip() not in text]
        problems += [f"{page}: {part} differs from what the data gives" for part in lost]
    return problems


def register(subparsers: Any) -> None:
    """Add `xlt page` and `xlt check`."""
    page = subparsers.add_parser("page", help="build the reviewer's page from published evidence")
    check_ = subparsers.add_parser("check", help="tell where page, evidence and ledger disagree")
    for parser, func in ((page, _page_command), (check_, _check_command)):
        add = parser.add_argument
        add("profile", nargs="?", default="quick", help="folder below --figures [quick]")
        add("--figures", type=Path, default=Path("figures"), help="published evidence [figures]")
        add("--ledger", type=Path, default=Path("params/claims.yaml"), help="[params/claims.yaml]")
        add("--out", type=Path, default=Path("site"), help="folder of the page [site]")
        parser.set_defaults(func=func)
    page.add_argument("--notebooks", type=Path, help="executed notebooks [runs/notebooks/PROFILE]")


def _page_command(args: Any) -> int:
    notebooks = args.notebooks or Path("runs/notebooks") / args.profile
    first = build(args.figures / args.profile, notebooks, args.out, args.ledger, Path.cwd())
    print(f"{first}: open it in a browser, no server is needed")
    return 0


def _check_command(args: Any) -> int:
    site = args.out if _profile_shown(args.out) in (None, args.profile) else None
    problems = check(args.figures / args.profile, args.ledger, site)
    for problem in problems:
        print(f"xlt check: {problem}", file=sys.stderr)
    if not problems:
        page = f"the page in {args.out}" if site and site.is_dir() else f"no page of it in {args.out}"
        print(f"{args.figures / args.profile}: agrees with its ledger and manifest; {page}")
    return 1 if problems else 0


def _profile_shown(site: Path) -> str | None:
    """The profile whose page a folder holds; None where it holds no finished page."""
    return read_json(site / STAMP)["profile"] if (site / STAMP).is_file() else None
