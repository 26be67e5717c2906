"""What comes from the hub: files of pinned commits, from its cache or the network, or one message."""

import re
import socket
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from xltlib import StudyError

CONNECT_TIMEOUT = 3.0  # seconds until a hub that does not answer counts as out of reach

# The commits that are read. Each hash was found, with its repository, in published texts of several others.
PINNED = {
    "datasets/facebook/xnli": "b8dd5d7af51114dbda02c0e3f6133f332186418e",
    "datasets/google-research-datasets/paws-x": "4cd8187c404bda33cb1f62b49b001115862acf37",
    "datasets/google/xquad": "51adfef1c1287aab1d2d91b5bead9bcfb9c68583",
    "datasets/google/xtreme": "ec5f1f46e9af79639a90684a7a70a956c4998f04",
    "datasets/rajpurkar/squad": "7b6d24c440a36b6815f21b70d25016731768db1f",
    "datasets/cambridgeltl/xcopa": "042f78955ba48e6404616762fa6e05e839c3907a",
    "datasets/aps/super_glue": "3de24cf8022e94f4ee4b9d55a6f539891524d646",
    "datasets/Helsinki-NLP/opus-100": "805090dc28bf78897da9641cdf08b61287580df9",
    "google-bert/bert-base-multilingual-cased": "3f076fdb1ab68d5b2880cb87a0886f315b8146f8",
    "FacebookAI/xlm-roberta-base": "e73636d4f797dec63c3081bb6ed5c7b0bb3f2089",
    "FacebookAI/xlm-roberta-large": "c23d21b0620b635a76227c604d44e43a9f0ee389",
    "intfloat/multilingual-e5-small": "fd1525a9fd15316a2d503bf26ab031a61d056e98",
}  # google/mt5-*: their main branch has no safetensors, and no commit that has could be verified


def commit(repo: str, revision: str | None = None) -> str:
    """The 40 hexadecimal digits of the commit to read: `revision`, or the pinned one of the repository.

    A data set's repository is written `datasets/owner/name`. A branch is refused: it would change under a
    result.
    """
    sha = revision or PINNED.get(repo)
    if not re.fullmatch(r"[0-9a-f]{40}", sha or ""):
        raise StudyError(
            f"{repo}: the hub needs a revision of 40 hexadecimal digits, got {sha!r}; copy a commit "
            f"of huggingface.co/{repo}/commits/main, or name a folder"
        )
    return sha


def snapshot(repo: str, patterns: Sequence[str], revision: str | None = None, otherwise: str = "") -> Path:
    """The folder that holds the repository's files of these patterns.

    `otherwise` says, for the error message, what else a reader may do who has no network.

    Raises
    ------
    StudyError
        Where the files are neither in the cache nor within reach, for a commit that is not there, and for a
        table of which a part is missing.
    """
    from huggingface_hub import snapshot_download  # slow to import, and needless where only folders are read

    sha, name = commit(repo, revision), repo.removeprefix("datasets/")
    kind, reason = "model" if name == repo else "dataset", ""
    for local in (True, False) if online() else (True,):
        try:
            folder = snapshot_download(
                name, repo_type=kind, revision=sha, allow_patterns=list(patterns), local_files_only=local
            )
            for pattern in patterns:
                _files(Path(folder), pattern)
            return Path(folder)
        except Exception as error:  # the hub's errors share no class
            reason = f"{error}".partition("\n")[0]
    raise StudyError(
        f"{repo} at {sha} is not on this machine, and the hub does not give it: {reason}. Where there is a "
        f"network, run `{command(repo, patterns, sha)}`, then copy the folder {_folder(repo).name} of its "
        f"cache to {_folder(repo)}. {otherwise}".rstrip()
    )


def table(repo: str, config: str, split: str, otherwise: str = "") -> Any:
    """One split of one configuration of a data set, as `datasets.Dataset`; only parquet files are read."""
    pattern = usual_files(config, split)
    files = _files(snapshot(repo, [pattern], otherwise=otherwise), pattern)
    import datasets

    datasets.disable_progress_bars()  # a bar for each of many small tables
    try:
        return datasets.load_dataset("parquet", data_files=list(map(str, files)), split="train")
    except Exception as error:  # the readers' errors share no class
        raise StudyError(
            f"{files[0]}: cannot be read ({error}); a truncated download? remove it, and fetch it again"
        ) from error


def _files(folder: Path, pattern: str) -> list[Path]:
    """The files of a pattern, one at least, and all parts of those that come in parts."""
    files = sorted(file for file in folder.glob(pattern) if file.is_file())
    if not files:
        raise StudyError(f"{folder} has no {pattern}")
    for file in files:
        part = re.fullmatch(r"(.+)-\d{5}-of-(\d{5})(\..+)", file.name)
        count = part and len(list(file.parent.glob(f"{part[1]}-*-of-{part[2]}{part[3]}")))
        if part and count < int(part[2]):
            raise StudyError(
                f"{count} of the {int(part[2])} parts of {part[1]} are in {file.parent}: the download was "
                "interrupted; run it again"
            )
    return files


def usual_files(config: str, split: str = "") -> str:
    """The pattern by which data sets that were converted to parquet name the files of a configuration."""
    return f"{'data' if config == 'default' else config}/{split}*"


def cached(repo: str, patterns: Sequence[str]) -> bool:
    """Whether the files are in the hub's cache on this machine."""
    snapshot = _folder(repo) / "snapshots" / PINNED.get(repo, "-")
    return all(any(snapshot.glob(pattern)) for pattern in patterns)


@cache
def online() -> bool:
    """Whether the hub, or the proxy to it, takes a connection; asked once.

    `huggingface_hub` tries again for half a minute, and for each file, before it says so.
    """
    from huggingface_hub import constants

    if constants.is_offline_mode():
        return False
    address = urlsplit(getproxies().get("https") or constants.ENDPOINT)
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname or "", port), CONNECT_TIMEOUT).close()
    except OSError:
        return False
    return True


def command(repo: str, patterns: Sequence[str], revision: str | None = None) -> str:
    """What fetches these files where there is a network."""
    kind = " --repo-type dataset" if repo.startswith("datasets/") else ""
    include = " ".join(f"--include '{pattern}'" for pattern in patterns)
    return f"hf download {repo.removeprefix('datasets/')}{kind} --revision {commit(repo, revision)} {include}"


def cache_folder() -> Path:
    """Where this machine keeps what came from the hub; HF_HOME names another place."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _folder(repo: str) -> Path:
    """Where the cache has a repository."""
    return cache_folder() / (("" if repo.startswith("datasets/") else "models/") + repo).replace("/", "--")
