"""Test session settings: offline, one thread, no windows; what is slow only on request."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # a lookup without a network otherwise waits half a minute
os.environ["MPLBACKEND"] = "Agg"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = "1"  # several threads on few cores lose, and sums depend on their number
sys.modules["rfc3987_syntax"] = None  # a grammar of addresses that nbformat would take a second to import
ROOT = Path(__file__).resolve().parent.parent
os.environ["PYTHONPATH"] = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"  # for processes that a test starts

import numpy as np
import official
import pytest
import tinydata
from tiny import params

from xltlib import pool
from xltlib.data.tasks import SETS
from xltlib.runs import Runs
from xltlib.store import Result, Store

# what takes seconds to import, as torch does, is imported where tests need it: not where xdist leads them
LONG = (  # files of tests, the longest first: two processes that begin with these end together
    "test_golden", "test_notebooks", "test_page", "test_runs", "test_cli", "test_real_study", "test_study",
    "test_transfer", "test_pretraining", "test_gpu", "test_drawing", "test_training", "test_open_questions",
)  # fmt: skip
OFFICIAL_ROWS = 6  # examples in each split of the made-up sets
REAL = Path(os.environ.get("XLT_DATA", ROOT / "../shared/data")).resolve()  # before a test names another


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the tests marked slow too")


def pytest_collection_modifyitems(config, items):
    places = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONG)))
    for item in items:
        if "slow" in item.keywords and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="slow: runs with --slow"))


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root folder."""
    return ROOT


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data, named by XLT_DATA; a test that needs it is skipped where it is absent."""
    if not REAL.is_dir():
        pytest.skip(f"no real data: XLT_DATA should name its folder, and {REAL} is not one")
    return REAL


@pytest.fixture(scope="session")
def official_dir(tmp_path_factory) -> Path:
    """A folder with every set and corpus in the publishers' formats, made up, a few examples each."""
    return official.make(tmp_path_factory.mktemp("official"), OFFICIAL_ROWS)


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory) -> Path:
    """The made-up folder of a study in English and Spanish, which no test changes."""
    return tinydata.make(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(params=["generated", "published"])
def data_name(request) -> str:
    """Which of two folders `data` is."""
    return request.param


@pytest.fixture
def data(request, data_name, monkeypatch) -> Path:
    """The made-up folder, whose numbers of examples are official in the test; then that of the real data."""
    if data_name == "published":
        return request.getfixturevalue("data_dir")
    for counts in (x for each in SETS.values() for x in each.counts.values()):
        for name in counts:
            monkeypatch.setitem(counts, name, OFFICIAL_ROWS)
    return request.getfixturevalue("official_dir")


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> Path:
    """The profile of a small study; the study's folder is the current one."""
    import tinystudy  # imports much that most tests do without

    for name in ("XLT_FRESH", "XLT_FIGURES", "XLT_JOBS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XLT_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tinystudy.make(tmp_path)


@pytest.fixture(scope="session")
def made_up_runs(tmp_path_factory) -> Path:
    """The folder `runs` of the small study with results of all its runs, to be copied."""
    import tinystudy

    root = tmp_path_factory.mktemp("filled")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLT_ROOT", str(root))
        tinystudy.fill(tinystudy.make(root))
    return root / "runs"


@pytest.fixture
def threads(monkeypatch) -> None:
    """Workers of the pool are threads of this process: they start at once, and do the same."""
    monkeypatch.setattr(pool, "ProcessPoolExecutor", lambda jobs, *settings: ThreadPoolExecutor(jobs))


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator that draws the same in every test."""
    return np.random.default_rng(0)


@pytest.fixture
def scores(rng) -> tuple[np.ndarray, np.ndarray]:
    """Scores (K, R, N) of two systems: three settings, six seeds, 200 items."""
    from simulated import two_systems

    return two_systems(rng)


@pytest.fixture(scope="session")
def store(tmp_path_factory) -> Store:
    """A store that tests share: a run that several of them ask for is computed once."""
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="session")
def text(store) -> Result:
    """The text of the small study, computed in the store."""
    return pool.compute(Runs(params()).text(), store)


@pytest.fixture(scope="session")
def tokenizer(text):
    """The tokenizer that was trained on the text."""
    from xltlib.data.text import tokenizer_of

    return tokenizer_of(text)
