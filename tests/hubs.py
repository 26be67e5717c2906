"""A hub's cache as a download leaves it, with tables laid out as the published repositories have them."""

import hashlib
import io
from pathlib import Path

import yaml

from xltlib.data import hub


def fill(cache: Path, repo: str, tables: dict, revision: str = "") -> Path:
    """Put a data set's repository into the cache: {(config, split): `datasets.Dataset`, or a list of parts}.

    Large files lie under their SHA-256, with links in the snapshot; the card names the files of each split.
    """
    commit = revision or hub.PINNED[repo]
    root = cache / ("datasets--" + repo.removeprefix("datasets/").replace("/", "--"))
    snapshot, configs = root / "snapshots" / commit, {}
    for (config, split), parts in tables.items():
        parts = parts if isinstance(parts, list) else [parts]
        folder = "data" if config == "default" else config
        for number, part in enumerate(parts):
            bytes_ = io.BytesIO()
            part.to_parquet(bytes_)
            name = f"{folder}/{split}-{number:05}-of-{len(parts):05}.parquet"
            link_blob(root, snapshot / name, bytes_.getvalue())
        configs.setdefault(config, []).append({"split": split, "path": f"{folder}/{split}-*"})
    head = {"configs": [{"config_name": name, "data_files": files} for name, files in configs.items()]}
    (snapshot / "README.md").write_text(f"---\n{yaml.safe_dump(head)}---\n# Dataset Card\n", encoding="utf-8")
    return snapshot


def link_blob(root: Path, link: Path, data: bytes) -> None:
    """Write the bytes as a blob named by its digest, and the link to it."""
    blob = root / "blobs" / hashlib.sha256(data).hexdigest()
    for path in (blob, link):
        path.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(data)
    link.symlink_to(blob)
