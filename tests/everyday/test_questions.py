"""Files of questions as people's editors, scripts and spreadsheets leave them: read as they are meant, or refused in a line."""

import json
import os
import random

import pytest

from agentloop.environments.json_rows import MOST_NESTED
from agentloop.environments.question_file import QuestionFile, read_questions
from agentloop.environments.questions import same_answer
from agentloop.errors import SettingError
from agentloop.records import Task

CAFE, CAFE_APART = "Where is the caf\u00e9?", "Where is the cafe\u0301?"


def line(**row):
    return json.dumps({"question": "How many?", "answer": "1"} | row)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "questions.jsonl"


def refused(file):
    """The one line about it."""
    with pytest.raises(SettingError) as error:
        read_questions(file)
    message = str(error.value)
    assert message.startswith(f"environment: {file}") and len(message.splitlines()) == 1 and len(message) < 400
    return message.removeprefix(f"environment: {file}")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_ends_of_lines_and_a_byte_order_mark(file, end, mark):
    file.write_bytes(mark + end.join([line(question="a"), "", line(question="b"), ""]).encode())
    assert [question.text for question in read_questions(file)] == ["a", "b"]


def test_files_with_marks_that_were_joined(file):
    file.write_bytes(b"".join(b"\xef\xbb\xbf" + line(question=name).encode() + b"\n" for name in "ab"))
    assert [question.text for question in read_questions(file)] == ["a", "b"]


@pytest.mark.parametrize("sign", ["\u2028", "\u2029", "\u0085", "\x7f", "\u00a0", "\ufeff", "\U0001f600"])
def test_a_text_holds_whatever_json_lets_it_hold(file, sign):
    file.write_text(json.dumps({"question": f"a{sign}b", "answer": f"c{sign}d"}, ensure_ascii=False) + "\n")
    [question] = read_questions(file)
    assert (question.text, question.answer) == (f"a{sign}b", f"c{sign}d")


@pytest.mark.parametrize("sign", ["\\u000b", "\\u000c", "\\u001c", "\\n", "\\r"])
def test_escaped_signs_that_end_lines_elsewhere(file, sign):
    file.write_text(f'{{"question": "a{sign}b", "answer": "1"}}\n')
    assert len(read_questions(file)) == 1


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        ("utf-16", ": is UTF-16; save it as UTF-8"),
        ("utf-32", ": is UTF-32; save it as UTF-8"),
        ("utf-16-le", ", line 1: holds a null character"),
        ("latin-1", ", line 2: is not UTF-8 (byte 0xe9); save it as UTF-8"),
    ],
)
def test_another_encoding(file, encoding, message):
    text = line() + "\n" + json.dumps({"question": "caf\u00e9", "answer": "1"}, ensure_ascii=False) + "\n"
    file.write_bytes(text.encode(encoding))
    assert refused(file).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (line(question=None), "its question must be text, not null"),
        (line(answer=None), "its answer must be text or a number, not null"),
        (line(question=""), "its question is empty"),
        (line(question=" \t\n"), "its question is empty"),
        (line(question="\u200b\ufeff"), "its question is empty"),
        (line(answer=" "), "its answer is empty"),
        (line(question=7), "its question must be text, not 7"),
        (line(answer=True), "its answer must be text or a number, not true"),
        (line(answer=["1", "2"]), 'its answer must be text or a number, not ["1", "2"]'),
        (line(answer={"value": 1}), 'its answer must be text or a number, not {"value": 1}'),
        (line(family=[]), "its family must be text or a number, not []"),
        (line(split=["train"]), "split must be train or heldout"),
        (line(question="a\0b"), "its question has a null character"),
        (line(question="a\ud83d"), "it has half of a surrogate pair"),
        (line(unit={"of": "\udc00"}), "it has half of a surrogate pair"),
        (line(unit=float("nan")), "has NaN, which is no JSON"),
        (line(unit=float("-inf")), "has -Infinity, which is no JSON"),
        ('{"question": "a", "answer": 1e400}', "has the number 1e400, which is too large"),
        ('{"question": "a", "answer": ' + "9" * 5000 + "}", "has a number of more than 4300 digits"),
        ('{"question": "a", "answer": "1", "question": "b"}', "has 'question' twice"),
        ('{"question": "a", "answer": "1", "unit": {"k": 1, "k": 2}}', "has 'k' twice"),
        (
            '{"question": "a", "answer": "1", "unit": ' + "[" * 100_000,
            f"it has more than {MOST_NESTED} lists and objects inside each other",
        ),
        (
            line(unit=json.loads("[" * 300 + "]" * 300)),
            f"it has more than {MOST_NESTED} lists and objects inside each other",
        ),
        ("[" * 100_000, f"it has more than {MOST_NESTED} lists and objects inside each other"),
        ("null", "is not a JSON object"),
        ("question,answer", "is not a JSON object"),
        ("'question'", "is not a JSON object"),
        (line() + line(), "is not a JSON object"),
    ],
)
def test_a_bad_line_is_refused_and_named(file, text, message):
    file.write_text(f"{line()}\n\n{text}\n")
    assert refused(file).startswith(f", line 3: {message}")


@pytest.mark.parametrize("content", ["", "\n", " \r\n\t\n", "\ufeff"])
def test_a_file_without_questions(file, content):
    file.write_text(content)
    assert refused(file) == ": it has no questions"


def test_what_is_no_file_of_text_is_not_waited_for(tmp_path):
    assert refused(tmp_path).startswith(": a directory without files of rows (.parquet, ")
    os.mkfifo(tmp_path / "pipe")
    assert refused(tmp_path / "pipe") == ": not to be read: no regular file"
    (tmp_path / "zero").symlink_to("/dev/zero")
    assert refused(tmp_path / "zero") == ": not to be read: no regular file"
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    assert refused(tmp_path / "dangling") == ": no such file"
    with (tmp_path / "sparse").open("wb") as sparse:
        sparse.truncate(1 << 40)
    assert refused(tmp_path / "sparse") == ": not to be read: larger than 1 GiB"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(file):
    file.write_text(line())
    file.chmod(0)
    assert refused(file) == ": not to be read: Permission denied"


def test_a_very_long_line(file):
    file.write_text(line(unit="x" * 50_000_000) + "\n")
    [question] = read_questions(file)
    assert len(question.payload["unit"]) == 50_000_000


def test_as_much_nesting_as_is_said(file):
    deep = json.loads("[" * (MOST_NESTED - 1) + "]" * (MOST_NESTED - 1))  # and the line's own object
    file.write_text(line(unit=deep))
    [question] = read_questions(file)
    assert Task("units", "all", question.text, question.answer, "train", question.payload).id.startswith("task_")


@pytest.mark.parametrize(
    ("answer", "text"),
    [("7", "7"), ("0.10", "0.10"), ("1234567890.12345678901", "1234567890.12345678901"), ("1e3", "1e3")],
)
def test_a_number_is_the_answer_as_it_is_written(file, answer, text):
    file.write_text(f'{{"question": "a", "answer": {answer}, "of": {answer}}}')
    [question] = read_questions(file)
    assert question.answer == text and question.payload == {"of": json.loads(answer)}


def test_the_same_question_twice(file):
    file.write_text(f"{line()}\n{line(answer=1.0)}\n")
    assert len({question.text for question in read_questions(file)}) == 1
    file.write_text(f"{line()}\n{line(answer=2)}\n")
    assert refused(file) == ", line 2: the question is there before, with another answer"
    file.write_text(f"{line()}\n{line(answer=2, database='other')}\n")
    assert len(read_questions(file)) == 2


def test_the_same_question_in_two_encodings_is_one(file):
    """Else one could be trained on and the other held out."""
    file.write_text(f"{line(question=CAFE)}\n{line(question=CAFE_APART)}\n")
    assert [question.text for question in read_questions(file)] == [CAFE]
    file.write_text(f"{line(question=CAFE, split='train')}\n{line(question=CAFE_APART, split='heldout')}\n")
    assert refused(file) == ", line 2: the question is there before, in another split"


def test_null_counts_as_not_given_where_a_default_exists(file):
    file.write_text(line(family=None, split=None))
    [question] = read_questions(file)
    assert (question.family, question.split) == ("all", None)


@pytest.mark.parametrize(
    ("answer", "truth", "same"),
    [
        ("caf\u00e9", "cafe\u0301", True),
        ("CAFE\u0301  noir", "Caf\u00e9 Noir", True),
        ("\ud55c\uad6d", "\u1112\u1161\u11ab\u1100\u116e\u11a8", True),
        ("cafe", "caf\u00e9", False),
        ("x\u00b2", "x2", False),
        ("46.0", "46", True),
    ],
)
def test_answers_are_compared_as_they_look(answer, truth, same):
    assert same_answer(answer, truth) is same and same_answer(truth, answer) is same


def test_the_file_is_named_and_not_the_setting_that_asked_for_tasks(file, tmp_path):
    from agentloop.campaign import suites
    from agentloop.settings import load

    code = (
        "from pathlib import Path\nfrom agentloop.environments import QuestionFile\n"
        "class Own(QuestionFile):\n    name = 'own_questions'\n    path = Path(__file__).with_name('questions.jsonl')\n"
        "    def tools(self, task): return {}\n"
    )
    (tmp_path / "own.py").write_text(code)
    settings = load([f"environment={tmp_path / 'own.py'}", "evaluate.tasks=2"], profile="demo")
    file.write_text("{\n")
    with pytest.raises(SettingError) as error:
        suites.planned_looks(settings)
    assert str(error.value) == f"environment: {file}, line 1: is not a JSON object"
    file.write_text("".join(line(question=f"How many is {n}?") + "\n" for n in range(4)))
    with pytest.raises(
        SettingError, match="^evaluate.tasks: own_questions has . heldout tasks, fewer than the 2 asked"
    ):
        suites.planned_looks(settings)


def test_every_random_text_is_read_as_it_was_or_refused_in_a_line(file):
    rng = random.Random(0)
    for _ in range(200):
        content = bytes(
            rng.choice(b'{}[]":,\\nul019.eE-\x00\n\r \xe9\xff\xef\xbb\xbf') for _ in range(rng.randrange(60))
        )
        file.write_bytes(content)
        try:
            assert isinstance(read_questions(file), list)
        except SettingError as error:
            assert str(error).startswith(f"environment: {file}") and len(str(error).splitlines()) == 1


def test_the_class_reads_a_path_given_as_text(file):
    file.write_text(line())

    class Own(QuestionFile):
        name = "own"
        path = str(file)

        def tools(self, task):
            return {}

    assert [question.text for question in Own().questions(random.Random(0))] == ["How many?"]
