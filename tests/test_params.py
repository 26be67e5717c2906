"""Parameters: what is accepted, and how what cannot be used is refused."""

import ast
import re

import pytest
import yaml

from xltlib import StudyError, cli
from xltlib import params as P
from xltlib.params import Params


@pytest.fixture
def read(tmp_path):
    """Read a text as the file p.yaml."""

    def read(text: str | bytes, **overrides: str) -> Params:
        path = tmp_path / "p.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return P.load(path, overrides)

    return read


def test_what_is_given_wins_over_the_defaults_and_set_over_the_file(read):
    found = read("seeds: 5\nmask_rate: 0.4\nmethods: [standard, rs-rp]\n", seeds="6", source="src")
    assert found == Params().replace(seeds=6, mask_rate=0.4, methods=("standard", "rs-rp"))


def test_a_whole_number_does_for_a_number_and_becomes_one(read):
    assert repr(read("pretrain_lr: 1").pretrain_lr) == "1.0"


def test_a_byte_order_mark_is_passed_over(read):
    assert read(b"\xef\xbb\xbfseeds: 4").seeds == 4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seeds: 3\nsede: 4", ["p.yaml, line 2", "'sede'", "did you mean seeds?"]),
        ("'': 3", ["line 1", "no parameter ''"]),
        ("seeds: 3\nalpha: 0.1\nseeds: 4", ["line 3", "seeds is given twice"]),
        ("pretrain_lr: 1e-5", ["pretrain_lr", "'1e-5'", "write 1.0e-5"]),
        ("seeds: '3'", ["found '3' (str)", "a valid integer", "without quotes"]),
        ("seeds: 3.0", ["found 3.0 (float)", "write 3"]),
        ("seeds: true", ["found True (bool)", "a valid integer"]),
        ("seeds:", ["found None", "a valid integer"]),
        ("freeze_embeddings: 1", ["found 1 (int)", "a valid boolean"]),
        ("languages: [src, no]", ["found False (bool)", "in quotes"]),
        ("source: no", ["found False (bool)", "in quotes"]),
        ("tasks: [no]", ["found False (bool)", "in quotes"]),
        ("source: 7", ["found 7 (int)", "in quotes"]),
        ("languages: src", ["found 'src' (str)", "a list, such as [src]"]),
        ("languages: []", ["at least 1 item"]),
        ("languages: [src, near, near]", ["found 'near'", "each item once"]),
        ("scale: mechanisms", ["found 'mechanisms'", "'mechanism', 'reduced'", "mechanism?"]),
        ("mask_rate: .nan", ["found nan", "a finite number"]),
        ("mask_rate: 1.5", ["found 1.5", "less than or equal to 0.9"]),
        ("seeds: 0", ["found 0", "greater than or equal to 1"]),
        ("seeds: 201", ["found 201", "less than or equal to 200"]),
        ("profile: ../elsewhere", ["'../elsewhere'", "match pattern '^([a-z][a-z0-9_-]*)$'"]),
        ("seeds: 3\nsource: de", ["line 2", "source: found 'de'", "one of languages"]),
        ("languages: [src]", ["languages", "at least one target"]),
        ("pair_languages: [src]", ["pair_languages: found ('src',)", "two or more of languages"]),
        ("pair_languages: [src, xx]", ["'xx'", "two or more of languages"]),
        ("model: mbert", ["model: found 'mbert'", "none, since the languages are synthetic"]),
        ("model_layers: 6", ["model_layers: found 6", "0, since there is no published model"]),
        ("cut_subwords: true", ["false, since there is no published model"]),
        ("hidden_size: 65", ["hidden_size: found 65", "multiple of num_heads = 2"]),
        ("- seeds", ["lines such as `seeds: 3`, found ['seeds']"]),
        ("# nothing yet", ["lines such as `seeds: 3`, found None"]),
        ("seeds: [", ["line 2", "not valid YAML"]),
        ("seeds: 3\n---\nseeds: 4", ["line 2", "another document"]),
        ("seeds: 010", ["line 1", "010 is octal"]),
        ("seeds: 3\nmask_rate: 1:30.5", ["line 2", "1:30.5", "base 60"]),
        ("<<: {seeds: 3}", ["line 1", "<< is not read"]),
        ("seeds: 3\n# " + "x" * 2**20, ["1,048,587 characters: no profile is that large"]),
        ("seeds: !!python/name:os.system", ["line 1", "not valid YAML"]),
        ("languages: !!set {src, near}", ["line 1", "not valid YAML: could not determine a constructor"]),
        ("compile: !!bool maybe", ["p.yaml: not valid YAML: 'maybe'"]),
        ("1: 4\n1.0: 5", ["two names that YAML takes for one value"]),
        ("seeds: !!int [3]", ["line 1", "not valid YAML: expected a scalar node"]),
        ("seeds: 1" + "0" * 5000, ["not valid YAML: Exceeds the limit"]),
        ("", ["p.yaml: the file is empty"]),
        (b"profile: \xff", ["p.yaml:1", "byte 0xff is not UTF-8"]),
        ("pretrain_steps: 100000000000000000000", ["less than or equal to 100000000"]),
        ("profile: " + "x" * 5000 + "!", ["profile", "match pattern"]),
        ("x" * 900 + ": 3", ["no parameter"]),
        ("questions: [7]", ["found 7", "0, 1, 2, 3 or 4"]),
    ],
)
def test_a_refusal_names_the_place_what_was_found_and_what_is_expected(read, text, words):
    with pytest.raises(StudyError) as refused:
        read(text)
    message = str(refused.value)
    assert "p.yaml" in message
    assert len(message) < 300
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("seed", "4", "did you mean seeds?"),
        ("seeds", "four", "found 'four'"),
        ("seeds", "", "found None"),
        ("seeds", "[", "not valid YAML"),
        ("num_heads", "5", "a multiple of num_heads = 5"),
    ],
)
def test_a_refused_override_names_itself(read, name, value, words):
    with pytest.raises(StudyError, match=r"(--set|p\.yaml)") as refused:
        read("seeds: 3", **{name: value})
    assert words in str(refused.value)


def test_a_missing_file_is_named_with_those_beside_it(tmp_path):
    (tmp_path / "quick.yaml").write_text("seeds: 3")
    with pytest.raises(StudyError, match=r"quik\.yaml: there is no such file; there is quick\.yaml"):
        P.load(tmp_path / "quik.yaml")
    with pytest.raises(StudyError, match="cannot be read"):
        P.load(tmp_path)


def test_parameters_are_checked_however_they_are_made():
    with pytest.raises(StudyError, match="found 'three'"):
        Params(seeds="three")
    with pytest.raises(StudyError, match="multiple of num_heads"):
        Params().replace(hidden_size=65)
    assert Params(languages=["src", "far"]).languages == ("src", "far")
    assert hash(Params()) == hash(Params(languages=["src", "near", "mid", "far", "low"]))


def test_a_notebooks_other_names_do_not_count_and_misspelt_ones_do():
    ipython = {"In": [""], "Out": {}, "exit": "x", "quit": "x", "_": 3, "_oh": {}, "__name__": "__main__"}
    imported = {"ast": ast, "load": P.load, "Params": Params}
    assert P.from_notebook(ipython | imported | {"seeds": 4}).seeds == 4
    for value in (4, None, "4", [4]):
        with pytest.raises(StudyError, match=r"the notebook's parameters: .*'sedes'.*seeds\?"):
            P.from_notebook(ipython | {"sedes": value})
    with pytest.raises(StudyError, match="expected a multiple"):
        P.from_notebook({"hidden_size": 31})
    kept = {"results": [object()], "found": {"a": 1}, "empty": []}  # what cells make, when they are run again
    assert P.from_notebook(ipython | kept | {"seeds": 4}).seeds == 4


def test_the_plain_form_survives_yaml(tmp_path):
    before = Params(seeds=6, tasks=("qa",), finetune_lr=1e-5)
    path = tmp_path / "p.yaml"
    path.write_text(yaml.safe_dump(P.to_dict(before)))
    assert P.load(path) == before


def test_the_table_has_every_parameter_with_its_meaning(capsys):
    cli.main(["params"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(Params.model_fields)
    fields = Params.model_fields.values()
    assert all(f.description in line for f, line in zip(fields, lines[1:], strict=True))


def test_every_profile_loads_and_is_named_as_its_file(root):
    texts = {path: path.read_text() for path in sorted((root / "params").glob("*.yaml"))}
    profiles = [path for path, text in texts.items() if re.search("^profile:", text, re.MULTILINE)]
    assert "quick" in [path.stem for path in profiles]
    assert all(P.load(path).profile == path.stem for path in profiles)


def test_no_import_takes_a_parameters_place_unseen():
    with pytest.raises(StudyError, match="the notebook's parameters: questions"):
        P.from_notebook({"questions": re})
    assert P.from_notebook({"noise_tasks": []}).noise_tasks == ()


@pytest.mark.parametrize(
    ("text", "scale"),
    [
        ("data: synthetic", "mechanism"),
        ("data: real", "reduced"),
        ("data: real\nmodel: multilingual-e5-small", "pretrained"),
        ("data: real\nmodel: mbert", "pretrained"),  # some thousand examples
        ("data: real\nmodel: mbert\ntrain_examples: 392702\ntest_examples: 5010", "paper"),
        ("data: real\nmodel: mbert\ntrain_examples: 392702\ntest_examples: 2000", "pretrained"),
        ("data: real\nmodel: my-model\ntrain_examples: 392702\ntest_examples: 5010", "pretrained"),
        (
            "data: real\nmodel: mbert\ntrain_examples: 392702\ntest_examples: 5010\nofficial_counts: false",
            "pretrained",
        ),
    ],
)
def test_the_scale_is_that_of_data_and_model(read, text, scale):
    for other in ("mechanism", "reduced", "pretrained", "paper"):
        if other == scale:
            assert read(f"{text}\nscale: {scale}").scale == scale
            continue
        with pytest.raises(StudyError, match=f"scale: found '{other}' .*: expected \"{scale}\", since "):
            read(f"{text}\nscale: {other}")
