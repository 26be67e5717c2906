"""The plan: runs counted as they will be computed, hours told from measured ones, what must be fetched."""

import hubs
import pytest
import shapes
import tinystudy
import yaml

from xltlib import StudyError, cli, plan
from xltlib.data import downloads, hub
from xltlib.params import Params, load
from xltlib.runs import Runs, closure
from xltlib.store import Store, write_json

PLAIN = {"seeds": 1, "objectives": ["none", "tlm"], "methods": ["standard"], "noise_tasks": []}


@pytest.fixture
def tiny(tiny):
    """A study with little in it, its folder the current one."""
    tiny.write_text(yaml.safe_dump(tinystudy.SMALL | PLAIN))
    return tiny


def told(capsys, profile) -> str:
    """What the command prints."""
    assert cli.main(["plan", str(profile), "-j", "2"]) == 0
    return capsys.readouterr().out


def rows(text: str) -> dict[str, list[str]]:
    return {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.strip()}


def test_a_new_study_has_nothing_to_tell_hours_from(tiny, capsys):
    text = told(capsys, tiny)
    assert rows(text)["encoder"] == ["2", "0", "0", "2", "not", "measured"]
    assert rows(text)["all"][:4] == ["9", "0", "0", "9"]
    assert "9 runs to compute with 2 processes: how long they take was never measured" in text
    assert "Downloads: none" in text
    assert rows(text)["S0-1"][:2] == ["6", "6"]  # all its runs are to do


def test_hours_are_those_of_like_runs(tiny, capsys):
    specs = tinystudy.fill(tiny)
    text = told(capsys, tiny)
    assert rows(text)["all"][:4] == [str(len(specs)), str(len(specs)), "0", "0"]
    assert "Nothing is to be computed." in text
    tiny.write_text(yaml.safe_dump(tinystudy.SMALL | PLAIN | {"seeds": 3, "methods": ["standard", "rs_rp"]}))
    text = told(capsys, tiny)
    assert rows(text)["text"][:4] == ["1", "1", "0", "0"]
    assert rows(text)["encoder"][:4] == ["6", "2", "0", "4"]
    assert "not measured" not in rows(text)["all"]
    assert "runs to compute with 2 processes: about 5 s" in text


def costs(*measured):
    """Costs told from (spec, seconds)."""
    found = plan.Costs(None, None, Params())
    found.finished = {spec.digest: spec.record | {"seconds": 1.0} for spec in closure(s for s, _ in measured)}
    found.finished |= {spec.digest: spec.record | {"seconds": seconds} for spec, seconds in measured}
    return found


def test_seconds_are_scaled_by_updates_and_sizes():
    params = Params()
    one = Runs(params)
    two = Runs(params.replace(continue_steps=2 * params.continue_steps, train_examples=20_000))
    told = costs(
        (one.encoder("tlm", 0), 20.0), (one.encoder("tlm", 1), 40.0), (one.transfer("nli", "none", 0), 9.0)
    )
    assert told.seconds(one.encoder("tlm", 5)) == pytest.approx(30.0)  # the median
    assert told.seconds(two.encoder("tlm", 5)) == pytest.approx(60.0)
    read = params.test_examples * 5 / 3  # the tests of five languages, which are only read
    expected = 9.0 * (20_000 * 2 + read) / (params.train_examples * 2 + read)
    assert told.seconds(two.transfer("nli", "none", 0)) == pytest.approx(expected)
    wide = told.seconds(one.encoder("tlm", 0, "hidden_size=128,num_heads=4"))
    assert 60 < wide < 120  # twice as wide: between two and four times the weights
    assert told.seconds(one.encoder("tlm", 1)) == 40.0, "measured itself"
    assert told.seconds(one.evaluation("typo", one.transfer("nli", "none", 0))) is None


def test_the_time_left_follows_the_measured_speed():
    runs = Runs(Params())
    one, two, three, four = (runs.encoder("tlm", seed) for seed in range(4))
    # the fourth is taken to be as long as the others are on average
    times = {one: 600.0, two: 600.0, three: 1500.0, four: None}
    assert plan.outlook(times, 2) == "4 runs to compute with 2 processes: about 30 min"
    half_as_fast = {one: 1260.0}  # with a minute that went as planned: (1260 + 60) / (600 + 60) is 2
    assert plan.time_left(times, half_as_fast, 2) == "about 50 min"
    assert plan.time_left(times, half_as_fast | {three: 3000.0}, 2) == "about 25 min"
    assert plan.time_left(times, half_as_fast | {three: 3000.0}, 2, later=2400.0) == "about 65 min"
    tiny = {one: 2.0, two: 598.0}
    assert plan.time_left(tiny, {one: 26.0}, 1) == "about 14 min", "imports of the first run do not tell"
    assert plan.time_left({one: None, two: None}, {one: 5.0}, 2) == ""
    assert [plan.duration(x) for x in (0, 88, 91, 6000)] == ["5 s", "90 s", "2 min", "1.7 h"]


PAPER = {
    "scale": "pretrained", "data": "real", "model": "mbert", "device": "cuda",
    "languages": ["en", "de", "ja"], "source": "en",
}  # fmt: skip


def paper(tmp_path, **more):
    profile = tmp_path / "params" / "tiny.yaml"
    profile.write_text(yaml.safe_dump(tinystudy.SMALL | PLAIN | PAPER | more))
    return profile


def test_a_study_on_real_languages_is_told_in_hours_of_a_gpu(tiny, tmp_path, capsys):
    profile = paper(tmp_path)
    text = told(capsys, profile)
    assert "Hours on a GPU: not measured" in text
    assert "Apache 2.0" in text
    assert rows(text)["transfer"][-2:] == ["not", "measured"]
    speed = {"gpu": "GPU 1", "date": "2026-01-02", "models": {"mbert": {"sequences_per_second": 0.01}}}
    write_json(tmp_path / "figures" / plan.THROUGHPUT, speed)
    text = told(capsys, profile)
    assert "Hours of one GPU 1, as measured on 2026-01-02 with mbert" in text
    each = 64 + 16 * 3 / 3
    assert float(rows(text)["transfer"][-1]) == pytest.approx(2 * each / 0.01 / 3600, abs=0.06)


def test_what_must_be_fetched(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "online", lambda: False)
    monkeypatch.delenv("XLT_DATA", raising=False)
    params = Params(**PAPER | {"profile": "paper", "tasks": ("nli", "paraphrase")})
    found = {each.what: each for each in downloads.downloads(params)}
    assert list(found) == [
        "model mbert", "opus100 (train)", "tatoeba (test)", "multinli (train)", "xnli (test)",
        "pawsx (train, test)",
    ]  # fmt: skip
    assert found["xnli (test)"].patterns == ("en/test*", "de/test*")
    assert "--include 'ja/test*'" in found["pawsx (train, test)"].command
    assert found["opus100 (train)"].patterns == ("de-en/train*", "en-ja/train*")
    assert not any(each.here for each in found.values())
    words = r"profile paper reads real languages from the hub(.|\n)*  model mbert: hf download"
    with pytest.raises(StudyError, match=words):
        downloads.require(params)
    rows = {"premise": ["a"], "hypothesis": ["b"], "label": [0]}
    table = pytest.importorskip("datasets").Dataset.from_dict(rows)
    hubs.fill(tmp_path, "datasets/facebook/xnli", {("en", "train"): table})
    assert found["multinli (train)"].here
    downloads.require(Params())
    assert downloads.downloads(Params()) == []


def test_the_published_recipes_are_parameters(root):
    params = load(root / "params" / "paper.yaml")
    assert params.scale == "paper"
    assert params.seeds >= 5
    assert {each.repo for each in downloads.downloads(params)} <= set(hub.PINNED)
    shape = shapes.shape("mbert")
    assert (params.vocab_size, params.hidden_size) == (shape.vocab_size, shape.hidden_size)
    assert (params.num_layers, params.num_heads) == (shape.num_hidden_layers, shape.num_attention_heads)


def test_notebooks_take_as_long_as_when_the_profile_was_published(tmp_path):
    runs, params = Runs(Params()), Params()
    costs = plan.Costs(Store(tmp_path / "runs"), tmp_path, params)
    assert costs.seconds(runs.notebook("06_claims", {}, "")) is None
    (tmp_path / params.profile).mkdir()
    write_json(tmp_path / params.profile / "manifest.json", {"notebook_seconds": {"06_claims": 12.5}})
    costs = plan.Costs(Store(tmp_path / "runs"), tmp_path, params)
    assert costs.seconds(runs.notebook("06_claims", {}, "")) == 12.5
    assert costs.seconds(runs.notebook("05_significance", {}, "")) is None
