"""A hub's cache as a download leaves it, with tables laid out as the published repositories have them."""

import hashlib
import io
from pathlib import Path

from xltlib.data import hub


def fill(cache: Path, repo: str, tables: dict) -> Path:
    """Put a data set's repository into the cache: {(config, split): `datasets.Dataset`, or a list of parts}.

    Large files lie under their SHA-256, with links in the snapshot.
    """
    root = cache / ("datasets--" + repo.removeprefix("datasets/").replace("/", "--"))
    snapshot = root / "snapshots" / hub.PINNED[repo]
    for (config, split), parts in tables.items():
        parts = parts if isinstance(parts, list) else [parts]
        for number, part in enumerate(parts):
            bytes_ = io.BytesIO()
            part.to_parquet(bytes_)
            name = f"{config}/{split}-{number:05}-of-{len(parts):05}.parquet"
            link_blob(root, snapshot / name, bytes_.getvalue())
    return snapshot


def link_blob(root: Path, link: Path, data: bytes) -> None:
    """Write the bytes as a blob named by its digest, and the link to it."""
    blob = root / "blobs" / hashlib.sha256(data).hexdigest()
    for path in (blob, link):
        path.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(data)
    link.symlink_to(blob)
