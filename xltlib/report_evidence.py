"""The published files of a profile, read once and checked where they enter, for the reviewer's page."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from xltlib import StudyError
from xltlib import report_views as views
from xltlib.claims.ledger import Ledger
from xltlib.claims.ledger_file import load_ledger
from xltlib.store import read_json, sha256_file

EVIDENCE = (
    "claims.json",
    "manifest.json",
    "runs.json",
    "scores.npz",
)  # any other .json is of a figure
SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
NEEDED = ("id", "report", "statement", "verdict", "scale")


@dataclass(frozen=True)
class Evidence:
    """One profile: claims.json (required), manifest.json, runs.json, and figures with their data files.

    `runs` maps digests to records; `root` is the study's folder, where `params/<profile>.yaml` lies.
    """

    profile_dir: Path
    ledger_path: Path
    root: Path
    claims_file: dict
    manifest: dict
    runs: dict[str, dict]

    @property
    def claims(self) -> list[dict]:
        """The claims in the order of their ids."""
        return self.claims_file["claims"]

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of claims.json: what a page is known to be made from."""
        return sha256_file(self.profile_dir / "claims.json")

    @cached_property
    def ledger(self) -> Ledger | None:
        """The ledger as it is now, or None where there is none; StudyError where it cannot be read."""
        return load_ledger(self.ledger_path) if self.ledger_path.is_file() else None

    @property
    def ledger_is_newer(self) -> bool:
        """Whether tests or margins were changed after the runs."""
        return self.ledger is not None and self.ledger.digest != self.claims_file.get("ledger_digest")

    @property
    def reports(self) -> dict[int, dict]:
        """What the ledger tells of each report (title, question, references), by its number."""
        return {r["id"]: r for r in self.ledger.reports} if self.ledger else {}

    @cached_property
    def beside(self) -> list[dict]:
        """claims.json of the other published profiles, as far as the same ledger decides in them."""
        digest = self.claims_file.get("ledger_digest")
        files = sorted(self.profile_dir.parent.glob("*/claims.json"))
        others = [_mapping(file) for file in files if file.parent.name != self.profile_dir.name]
        return [other for other in others if digest and other.get("ledger_digest") == digest]

    def has(self, name: str) -> bool:
        """Whether the profile publishes this file."""
        return (self.profile_dir / name).is_file()

    @property
    def data_files(self) -> list[Path]:
        """What the page links to: all published files, the ledger, and the profile's parameters."""
        published = sorted(p for p in self.profile_dir.iterdir() if p.is_file())
        profile = self.claims_file.get("profile", self.profile_dir.name)
        beside = [
            self.ledger_path,
            self.ledger_path.with_name("reports.yaml"),
            self.root / f"params/{profile}.yaml",
        ]
        return published + [p for p in beside if p.is_file()]

    @cached_property
    def figures(self) -> list[dict]:
        """Every figure with its title, caption, alternative text, claims and files, in order of its name."""
        stems = {p.stem for p in self.profile_dir.iterdir() if p.suffix in (".svg", ".png")}
        return [self._figure(stem) for stem in sorted(stems, key=views.natural)]

    def _figure(self, stem: str) -> dict:
        files = [name for name in (f"{stem}.svg", f"{stem}.png", f"{stem}.json") if self.has(name)]
        data = read_json(self.profile_dir / f"{stem}.json") if f"{stem}.json" in files else {}
        data = data if isinstance(data, dict) else {}
        title = str(data.get("title") or views.words(stem))
        caption = str(data.get("caption") or title)
        return {
            "stem": stem,
            "title": title,
            "caption": caption,
            "alt": str(data.get("alt") or caption),
            "image": files[0],
            "files": files,
            "claims": data.get("claims") or [],
            "key": bool(data.get("key")),
        }

    @property
    def key_figure(self) -> dict | None:
        """The figure of the first screen: the one the evidence names, or that names itself, or the first."""
        named = self.claims_file.get("key_figure") or self.manifest.get("key_figure")
        ranked = sorted(self.figures, key=lambda f: (f["stem"] != named, not f["key"]))
        return ranked[0] if ranked else None

    def seconds(self, digests: list[str]) -> float | None:
        """Wall time of the named runs together, as far as runs.json tells it."""
        times = [self.runs.get(str(d), {}).get("seconds") for d in digests]
        times = [t for t in times if views.finite(t)]
        return float(sum(times)) if times else None


def read_evidence(profile_dir: Path, ledger_path: Path, root: Path) -> Evidence:
    """Read a profile's published files; every claim must have what `NEEDED` names, and a usable id.

    Raises
    ------
    StudyError
        If claims.json is absent, is not JSON, or holds a claim without these.
    """
    path = profile_dir / "claims.json"
    if not path.is_file():
        raise StudyError(f"{path} is not there: run the study with this profile first (xlt run)")
    claims_file = _mapping(path)
    claims = claims_file.setdefault("claims", [])
    for i, claim in enumerate(claims):
        missing = [key for key in NEEDED if key not in claim]
        if missing or not SAFE_ID.fullmatch(str(claim["id"])):
            raise StudyError(
                f"{path}, claim {i}: id {claim.get('id')!r}, lacking {', '.join(missing) or 'nothing'}; "
                f"a claim needs {', '.join(NEEDED)}; an id has letters, digits, . _ -"
            )
    claims.sort(key=lambda c: views.natural(c["id"]))
    manifest, runs = [_mapping(p) if p.is_file() else {} for p in (profile_dir / n for n in EVIDENCE[1:3])]
    return Evidence(profile_dir, ledger_path, root, claims_file, manifest, runs)


def _mapping(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise StudyError(f"{path}: found a {type(content).__name__}, expected an object; run the study again")
    return content
