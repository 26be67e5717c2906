"""`xlt score`: every official form of gold and predictions, ids before lines, and no mutation in silence."""

import gzip
import json

import official
import pytest
from official import write

from xltlib import StudyError
from xltlib.cli import main
from xltlib.data.tasks import SETS, load
from xltlib.evaluation import score_files

NLI = ["entailment", "neutral", "neutral", "entailment", "neutral", "contradiction"]  # 5 of 6 are right
BINARY = [0, 1, 1, 1, 0, 1]
ANSWERS = {f"q-{i}": f"Ende{i - 1}" if i % 2 else "falsch" for i in range(6)}


def lines(values) -> str:
    return "".join(f"{value}\n" for value in values)


def objects(key, ids, values) -> str:
    return lines(json.dumps({key: i, "label": x}) for i, x in zip(ids, values, strict=True))


def records(table: str) -> list[dict]:
    header, *rows = (line.split("\t") for line in table.splitlines())
    return [dict(zip(header, row, strict=True)) for row in rows]


PAWSX, XCOPA = range(5, 17, 2), range(3, 9)
GOLD = {  # form -> (set, content)
    "xnli": ("xnli", official.xnli("de")),
    "xnli, original": ("xnli", official.xnli_original()),
    "xnli, labels": ("xnli", lines(official.NLI * 2)),
    "xnli, JSON lines": ("xnli", lines(json.dumps(record) for record in records(official.xnli_original()))),
    "pawsx": ("pawsx", official.pawsx("de")),
    "xcopa": ("xcopa", official.xcopa("de")),
    "xquad": ("xquad", json.dumps(official.questions("de"))),
    "mlqa, articles": ("mlqa", json.dumps(official.questions("de")["data"])),
}  # fmt: skip
TABLE = "id\tsentence1\tsentence2\tlabel\n" + lines(
    f"{i}\ta\tb\t{x}" for i, x in zip(reversed(PAWSX), reversed(BINARY), strict=True)
)
PREDICTED = {  # set -> form -> content, all saying the same
    "xnli": {"lines": lines(NLI), "JSON lines": lines(json.dumps({"label": x}) for x in NLI)},
    "pawsx": {
        "lines": lines(BINARY),
        "JSON lines": objects("id", reversed(PAWSX), reversed(BINARY)),
        "table": TABLE,
    },
    "xcopa": {
        "lines": lines(BINARY),
        "JSON lines, shuffled": objects("idx", reversed(XCOPA), reversed(BINARY)),
        "JSON lines": objects("idx", XCOPA, BINARY),
    },
    "xquad": {"object": json.dumps(ANSWERS)},
    "mlqa": {"object": json.dumps(ANSWERS, indent=1)},
}
FORMS = [(gold, form) for gold, (name, _) in GOLD.items() for form in PREDICTED[name]]
LANGUAGES = {"xcopa": "sw"}


def scored(folder, name: str, gold: str, predicted: str) -> list:
    """The metrics and the scores of each example, without ids."""
    paths = write(folder / "gold", gold), write(folder / "predicted", predicted)
    result = score_files(name, *paths, LANGUAGES.get(name, "de"))
    metrics = [result[x] for x in ("accuracy", "exact_match", "f1") if x in result]
    return [*metrics, *result["scores"].values()]


@pytest.mark.parametrize(("gold", "form"), FORMS)
def test_every_form_of_gold_and_predictions(tmp_path, gold, form):
    name, text = GOLD[gold]
    found = scored(tmp_path, name, text, PREDICTED[name][form])
    if name in ("xquad", "mlqa"):
        assert found[:2] == [50, 50]
        assert [x["f1"] for x in found[2:]] == [0, 1] * 3
    else:
        assert found == [pytest.approx(100 * 5 / 6), 1, 1, 0, 1, 1, 1]


def test_a_question_in_another_language_is_judged_by_that_of_its_context(tmp_path):
    paths = (
        write(tmp_path / "gold", GOLD["mlqa, articles"][1]),
        write(tmp_path / "predicted", json.dumps(ANSWERS)),
    )
    pairs = [score_files("mlqa", *paths, language) for language in ("de|en", "de")]
    assert pairs[0]["f1"] == pairs[1]["f1"] == 50


@pytest.mark.parametrize(
    ("command", "gold", "predicted", "accuracy"),
    [
        # XCOPA: both files carry `idx`, and their orders differ
        ("xcopa --language sw", objects("idx", (0, 1), (1, 0)), objects("idx", (1, 0), (0, 1)), 100),
        ("xnli --language de", official.xnli_original(3), lines(NLI[:3]), 200 / 3),
        ("xnli --language zh", official.xnli_original(3), lines(["neutral"] * 3), 100 / 3),
        # the spelling of XNLI's translated training files
        ("xnli --language de", lines(["entailment", "neutral", "contradictory"]),
         lines(NLI[:3]), 200 / 3),
        ("xnli --language de", lines(["entailment", "neutral", "contradictory"]),
         lines(["entailment", "neutral", "contradiction"]), 100),
    ],
)  # fmt: skip
def test_what_was_once_scored_wrongly_or_not_at_all(tmp_path, capsys, command, gold, predicted, accuracy):
    paths = write(tmp_path / "gold", gold), write(tmp_path / "predicted", predicted)
    assert main(["score", *command.split(), *map(str, paths)]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == pytest.approx(accuracy)


def answer(text) -> str:
    return json.dumps(official.squad(("q1", "Wo?", "am Fluss", 0, text))["data"])


PAWS = "id\tsentence1\tsentence2\tlabel\n1\ta\tb\t1\n"
REFUSALS = [  # set, gold, predictions, what the error says after the path
    ("mlqa", answer(5), '{"q1": "Wald"}', r"gold: question 'q1': answers\[0\]: text: found 5, expected"),
    ("mlqa", answer("am"), '{"q1": ["am"]}', r"predicted: the answer to 'q1': found a list of 1, exp"),
    ("mlqa", answer("am"), '{"q1": null}', r"predicted: the answer to 'q1': found None, expected a text"),
    ("mlqa", answer("am"), '["am"]', r"predicted:1: found a list of 1, expected an object"),
    ("mlqa", answer("am"), '{"q1": "am", "q1": "Wald"}', r"predicted:1: not read: 'q1' stands twice"),
    ("mlqa", answer("am"), '{"q2": "am"}', r"predicted: 1 of 1 ids have no prediction, first 'q1'"),
    ("mlqa", answer("am"), '{"q1": "am", "q2": "a"}', r"predicted: 1 ids are not in the gold file, first"),
    ("mlqa", answer(""), '{"q1": "am"}', r"gold: question 'q1': no label or answer in any row, as in XTREME"),
    ("mlqa", "[]", "{}", r"gold: no row of the language de"),
    ("mlqa", '[{"paragraphs": 1}]', "{}", r"gold\[0\]: paragraphs: found 1, expected a list"),
    ("pawsx", PAWS + "2\tc\td\n3\te\tf\t0\n", "1\n0\n0\n", r"gold:3: 3 columns found, 4 expected"),
    ("pawsx", PAWS.replace("label", "score") + "2\tc\td\t1\n", "1\n0\n", r"gold:2: no label; expected 0, 1"),
    ("pawsx", PAWS.replace("id", "label") + "2\tc\td\t1\n", "1\n0\n", r"gold:1: 'label' stands there twice"),
    ("pawsx", "a\tb\tc\td\te\tf\n", "1\n", r"gold:1: 6 columns found, a header expected"),
    ("pawsx", "0\n1\n", objects("id", "012", [1, 0, 0]), r"predicted: 1 ids are not in the gold file"),
    ("pawsx", "0\n1\n", objects("id", "01", [1, None]), r"predicted:2: no label; expected"),
    ("pawsx", "0\n1\n", "1\n0\n0\n", r"predicted: 3 labels for 2 gold labels; one label a line"),
    ("xcopa", objects("idx", (0, 1), (1, 0)), '{"idx": 0, "label": 1}\n[1, 2]\n',
     r"predicted:2: found a list of 2, expected an object"),
    ("xcopa", objects("idx", (0, 1), (1, 0)), objects("idx", (0, 0), (1, 0)),
     r"predicted:2: id '0' was already at .*predicted:1"),
    ("xcopa", objects("idx", (0, 1), (1, 0)), objects("idx", (1, 2), (1, 0)), r"1 of 2 ids have no pred"),
    ("xcopa", objects("idx", (0, 1), (1, 0)), '{"idx": 0, "label": 1}\n{"label": 0}\n',
     r"predicted:2: no id, though other rows have one"),
    ("xcopa", objects("idx", (0, 0), (1, 0)), "1\n0\n", r"gold:2: id '0' was already at .*gold:1"),
    ("xcopa", objects("idx", (0, [1]), (1, 0)), "1\n0\n",
     r"gold:2: idx: found a list of 1, expected a text or a whole number"),
    ("xnli", "neutral\nentailment\n", "neutral\n1\n", r"predicted:2: label '1' is not known; expected"),
    ("xnli", "neutral\nentailment\n", "neutral\n\n", r"predicted:2: label '' is none; expected entailment"),
    ("xnli", "a\tb\nc\td\n", "neutral\nneutral\n", r"gold:1: no label"),
    ("xnli", "neutral\nneutral\n", "neutral\nneutral\n", r"gold:1: all 2 rows have label 1"),
    ("xnli", official.xnli_original().replace("\nde\t", "\nel\t"), "neutral\n",
     r"gold: no row of the language de; it has 'el, en, zh'"),
    ("xnli", "x" * 10**6 + "\n", "neutral\n", r"gold:1: label 'x{50,60}… is not known"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "gold", "predicted", "reason"), REFUSALS)
def test_one_error_names_place_finding_and_expectation(tmp_path, capsys, name, gold, predicted, reason):
    with pytest.raises(StudyError, match=reason) as error:
        scored(tmp_path, name, gold, predicted)
    assert len(str(error.value)) < 400


def test_an_answer_counts_wherever_it_is_said_to_stand(tmp_path):
    """The official programs read the texts of gold answers and no offsets."""
    assert scored(tmp_path, "mlqa", answer("Fluss"), '{"q1": "Fluss"}')[0] == 100


def test_labels_beside_are_of_gold_alone(tmp_path):
    """A test file without labels, given as predictions by mistake, is not scored by the gold beside it."""
    path = write(tmp_path / "test-de.tsv", "a\tb\nc\td\n")
    write(tmp_path / "test.labels.tsv", "genre\tlabel\nfiction\tneutral\nfiction\tentailment\n")
    predicted = write(tmp_path / "predicted", "neutral\nneutral\n")
    assert score_files("xnli", path, predicted, "de")["accuracy"] == 50
    with pytest.raises(StudyError, match=r"test-de\.tsv:1: no label"):
        score_files("xnli", path, path, "de")


def test_one_language_of_a_file_of_all(tmp_path):
    """TyDiQA's files of all languages are told apart by the prefix of their ids; so are predictions."""
    russian, swahili = (official.questions("en", prefix)["data"] for prefix in ("russian", "swahili"))
    gold = write(tmp_path / "gold", json.dumps({"data": russian + swahili}))
    answers = {f"{prefix}-{i}": "Ende0" for prefix in ("russian", "swahili") for i in range(6)}
    result = score_files("tydiqa", gold, write(tmp_path / "predicted", json.dumps(answers)), "sw")
    assert list(result["scores"]) == [f"swahili-{i}" for i in range(6)]
    with pytest.raises(StudyError, match="gold: no row of the language fi"):
        score_files("tydiqa", gold, tmp_path / "predicted", "fi")


def test_ids_that_no_terminal_can_show_are_printed_as_ascii(tmp_path, capsys):
    gold = write(tmp_path / "gold", '{"idx": "\\ud800", "label": 1}\n{"idx": "größer", "label": 0}\n')
    predicted = write(tmp_path / "predicted", gold.read_text("utf-8").replace("0}", "1}"))
    assert main(["score", "xcopa", str(gold), str(predicted), "--language", "sw", "--per-example"]) == 0
    assert json.loads(capsys.readouterr().out)["scores"] == {"\ud800": 1, "größer": 0}


def test_a_set_without_the_language(tmp_path):
    gold = write(tmp_path / "gold", "neutral\nentailment\n")
    with pytest.raises(StudyError, match="xnli has no language 'ja'; it has ar"):
        score_files("xnli", gold, gold, "ja")


def test_real_files_in_every_language(data_dir, tmp_path):
    for language in SETS["xquad"].languages:
        gold = data_dir / f"xquad/xquad.{language}.json.gz"
        answers = {e.id: e.answers[0][1] for e in load("xquad", "test", language, data_dir)}
        result = score_files("xquad", gold, write(tmp_path / "predicted", json.dumps(answers)), language)
        assert (result["exact_match"], result["f1"], result["examples"]) == (100, 100, 1190)
    labels = gzip.decompress((data_dir / "xnli/test.labels.tsv.gz").read_bytes()).decode().split("\n")[1:-1]
    predicted = write(tmp_path / "predicted", lines(line.split("\t")[1] for line in labels))
    for gold in ("xnli/test.labels.tsv.gz", "xnli/test-sw.tsv.gz"):
        assert score_files("xnli", data_dir / gold, predicted, "sw")["accuracy"] == 100
    gold = data_dir / "tydiqa/tydiqa-goldp-v1.1-dev/tydiqa.goldp.ru.dev.json.gz"
    with pytest.raises(StudyError, match=r"question 'russian-.*: no label or answer in any row, as in XTREM"):
        score_files("tydiqa", gold, write(tmp_path / "predicted", "{}"), "ru")
