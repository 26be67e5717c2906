"""What comes from the hub: files of pinned commits, from its cache or the network, or one message at once."""

import re
import socket
import threading
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import yaml

from xltlib import StudyError
from xltlib.store import sha256_file

PATIENCE = 3.0  # seconds until a hub that does not answer counts as out of reach
READERS = {"parquet": "parquet", "json": "json", "jsonl": "json", "csv": "csv"}  # by a file's ending

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

_whole: set[Path] = set()  # files whose digest this process has checked


def commit(repo: str, revision: str | None = None) -> str:
    """The 40 hexadecimal digits of the commit to read: `revision`, or the pinned one of the repository.

    A data set's repository is written `datasets/owner/name`. A branch is refused: it would change under a
    result.
    """
    chosen = revision or PINNED.get(repo)
    if not re.fullmatch(r"[0-9a-f]{40}", chosen or ""):
        raise StudyError(
            f"{repo}: the hub needs a revision of 40 hexadecimal digits, got {chosen!r}; copy a commit "
            f"of huggingface.co/{repo}/commits/main, or name a folder"
        )
    return chosen


def snapshot(
    repo: str,
    patterns: Sequence[str],
    revision: str | None = None,
    otherwise: str = "",
    later: Sequence[str] = (),
) -> Path:
    """The folder that holds the repository's files of these patterns, complete and undamaged.

    For the error message, `otherwise` says what else a reader may do who has no network, and `later` names
    the files that will be asked for next.

    Raises
    ------
    StudyError
        At once where the files are neither in the cache nor within reach; for a commit that is not there, for
        a part of a file that is missing, and for a file that is not what the hub has under its digest.
    """
    chosen, told = commit(repo, revision), ""
    for local in (True, False) if online() else (True,):
        try:
            return _complete(repo, chosen, patterns, local)
        except StudyError as error:
            if not online():
                raise
            told = str(error)
        except Exception as error:  # the hub's errors share no class
            told = f"{type(error).__name__}: {error}".partition("\n")[0]
    if online():
        raise StudyError(f"{repo} at {chosen} could not be loaded: {told}. {otherwise}".rstrip())
    folder = _folder(repo)
    raise StudyError(
        f"{repo} at {chosen} is not on this machine, and the hub is out of reach. Where there is a network, "
        f"run `{command(repo, [*patterns, *later], chosen)}`, then copy the folder {folder.name} of its "
        f"cache to {folder}. {otherwise}".rstrip()
    )


def _complete(repo: str, chosen: str, patterns: Sequence[str], local: bool) -> Path:
    """The folder with the files, from the cache alone if `local`; an error where one is absent or damaged."""
    from huggingface_hub import snapshot_download  # slow to import, and needless where only folders are read

    name = repo.removeprefix("datasets/")
    folder = Path(
        snapshot_download(
            name, repo_type="model" if name == repo else "dataset", revision=chosen,
            allow_patterns=list(patterns), local_files_only=local,
        )
    )  # fmt: skip
    absent = [pattern for pattern in patterns if not any(folder.glob(pattern))]
    if absent:
        raise FileNotFoundError(f"no file there is named {' or '.join(absent)}")
    _check(f"{repo} at {chosen}", _found(folder, patterns))
    return folder


def table(repo: str, config: str, split: str, revision: str | None = None, otherwise: str = "") -> Any:
    """One split of one configuration of a data set, as `datasets.Dataset`; only plain tables are read.

    Which files it consists of is what the repository's card says of it.
    """
    card = snapshot(repo, ["README.md"], revision, otherwise, [usual_files(config)]) / "README.md"
    patterns = _data_files(card, f"{repo} ({config}, {split})", config, split)
    files = _found(snapshot(repo, patterns, revision, otherwise), patterns)
    ending = files[0].suffix.removeprefix(".")
    if ending not in READERS:
        raise StudyError(f"{files[0]}: a .{ending} file is not read; only {', '.join(READERS)} are")
    import datasets

    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(READERS[ending], data_files=[str(file) for file in files], split="train")
    except Exception as error:  # the readers' errors share no class
        raise StudyError(
            f"{files[0]}: cannot be read ({error}); a truncated download? remove it, and fetch it again"
        ) from error
    finally:
        if shown:
            datasets.enable_progress_bars()


def usual_files(config: str, split: str = "") -> str:
    """The pattern by which data sets that were converted to parquet name the files of a configuration."""
    return f"{'data' if config == 'default' else config}/{split}*"


def cached(repo: str, patterns: Sequence[str], revision: str | None = None) -> bool:
    """Whether the files are in the hub's cache on this machine."""
    snapshot = _folder(repo) / "snapshots" / (revision or PINNED.get(repo, "-"))
    return all(any(snapshot.glob(pattern)) for pattern in patterns)


def online() -> bool:
    """Whether the hub, or the proxy to it, takes a connection; asked once, for some seconds at most."""
    from huggingface_hub import constants

    if constants.is_offline_mode():
        return False
    address = urlsplit(getproxies().get("https") or constants.ENDPOINT)
    return _reachable(address.hostname or "", address.port or (443 if address.scheme == "https" else 80))


@cache
def _reachable(host: str, port: int) -> bool:
    answered = threading.Event()

    def connect() -> None:
        try:
            socket.create_connection((host, port), PATIENCE).close()
            answered.set()
        except OSError:
            pass

    thread = threading.Thread(target=connect, daemon=True)  # looking up a name cannot be given a time limit
    thread.start()
    thread.join(PATIENCE)
    return answered.is_set()


def _found(folder: Path, patterns: Iterable[str]) -> list[Path]:
    return sorted({file for pattern in patterns for file in folder.glob(pattern) if file.is_file()})


def _check(what: str, files: Sequence[Path]) -> None:
    """Refuse a set of parts of which one is missing, and a file whose bytes are not those of its digest.

    The hub's cache names a large file by its SHA-256.
    """
    for file in files:
        part = re.fullmatch(r"(.+)-\d{5}-of-(\d{5})(\..+)", file.name)
        if part:
            count = sum(other.parent == file.parent and other.name.startswith(part[1]) for other in files)
            if count < int(part[2]):
                raise StudyError(
                    f"{what}: {count} of the {int(part[2])} parts of {part[1]} are in {file.parent}: the "
                    "download was interrupted; run it again"
                )
        blob = file.resolve()
        if blob in _whole or not re.fullmatch(r"[0-9a-f]{64}", blob.name):
            continue
        if sha256_file(blob) != blob.name:
            raise StudyError(f"{file}: damaged, or a truncated download: remove {blob}, and fetch it again")
        _whole.add(blob)


def _data_files(card: Path, what: str, config: str, split: str) -> list[str]:
    """The patterns of a split's files, from the `configs` in the head of the data set's card."""
    head = re.match(r"---\n(.*?)\n---", card.read_text(encoding="utf-8"), re.DOTALL)
    configs = (yaml.safe_load(head[1]) or {}).get("configs", []) if head else []
    for entry in configs:
        if entry["config_name"] == config:
            for files in entry["data_files"]:
                if files["split"] == split:
                    return [files["path"]] if isinstance(files["path"], str) else list(files["path"])
    known = ", ".join(entry["config_name"] for entry in configs) or "none: it may hold a loading script"
    raise StudyError(f"{what}: {card} names no such configuration and split; its configurations: {known}")


def command(repo: str, patterns: Iterable[str], revision: str | None = None) -> str:
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
