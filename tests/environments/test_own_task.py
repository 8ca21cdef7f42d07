"""The user's own task: docs/own-task.md as it is written there, and the mistakes in such files."""

import json
import re
from pathlib import Path

import pytest

from agentloop import environments
from agentloop.environments import Environment, Question
from agentloop.errors import SettingError
from agentloop.tools import ToolError

PAGE = Path(__file__).parents[2] / "docs" / "own-task.md"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the page's two files; what is registered in a test is forgotten after it."""
    monkeypatch.setattr(environments, "_ENVIRONMENTS", dict(environments._ENVIRONMENTS))
    text = PAGE.read_text()
    for name, language in (("units.jsonl", "json"), ("units.py", "python")):
        (block,) = re.findall(rf"`tasks/{name}`:\n\n```{language}\n(.*?)```", text, re.DOTALL)
        (tmp_path / name).write_text(block)
    return tmp_path


def questions(folder, rows):
    (folder / "units.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_page(folder):
    units = environments.get(str(folder / "units.py"))
    assert environments.get("units").name == "units"
    tasks = [task for split in ("train", "heldout") for task in units.stream(split, 0)]
    assert len(tasks) == 2
    tools = units.tools(tasks[0])
    assert tools["metres"].call("rod") == "5.0292" and tools["calculate"].call("5*20.1168") == "100.584"
    with pytest.raises(ToolError, match="unknown unit mile"):
        tools["metres"].call("mile")
    for task in tasks:
        assert units.verify(task, f" {task.answer}0 ") == 1.0
        assert units.verify(task, None) == units.verify(task, "1") == units.verify(task, "nan") == 0.0


def test_a_long_answer_in_words(folder):
    answer = "the quick brown fox jumps over the lazy dog and runs away"
    questions(folder, [{"question": "What happened?", "answer": answer, "split": "train"}])
    (units, task) = (unit := environments.get(str(folder / "units.py"))), unit.tasks("train", 1, seed=0)[0]
    assert units.verify(task, f"The  {answer.removeprefix('the ')} ") == 1.0
    assert units.verify(task, f"{answer}s") == 0.0


def test_splits_are_disjoint_and_the_same_in_every_run(folder):
    questions(folder, [{"question": f"How long is {n}?", "answer": n, "unit": "rod"} for n in range(200)])
    units = environments.get(str(folder / "units.py"))
    train, heldout = units.tasks("train", 100, seed=0), units.tasks("heldout", 20, seed=0)
    assert not {task.question for task in train} & {task.question for task in heldout}
    assert units.tasks("train", 50, seed=0, skip=50) == train[50:]
    assert train[0].payload == {"unit": "rod"}


def test_training_tasks_begin_again_and_held_out_ones_do_not(folder):
    questions(folder, [{"question": f"How long is {n}?", "answer": n} for n in range(100)])
    units = environments.get(str(folder / "units.py"))
    first, second = ({task.question for task in units.tasks("train", 60, seed=0, skip=skip)} for skip in (0, 60))
    assert first != second and first & second
    with pytest.raises(SettingError, match="units has .* heldout tasks, fewer than the 60 asked for"):
        units.tasks("heldout", 60, seed=0)
    with pytest.raises(SettingError, match="units has .* train tasks, fewer than the 101 asked for"):
        units.tasks("train", 101, seed=0)


def test_the_files_own_splits(folder):
    rows = [{"question": str(n), "answer": n, "split": "heldout" if n < 5 else "train"} for n in range(20)]
    questions(folder, rows)
    units = environments.get(str(folder / "units.py"))
    assert {task.question for task in units.tasks("heldout", 5, seed=3)} == set("01234")
    questions(folder, [*rows, {"question": "1", "answer": "1", "split": "train"}])
    with pytest.raises(SettingError, match="units.jsonl, line 21: the question is there before, in another split"):
        units.tasks("heldout", 5, seed=3)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1: is not a JSON object"),
        ("[]", "line 1: is not a JSON object"),
        ('{"question": "a"}', "line 1: has no 'answer'"),
        ('{"question": "a", "answer": "b", "split": "dev"}', "line 1: split must be train or heldout, not 'dev'"),
    ],
)
def test_a_bad_line_is_named(folder, line, message):
    (folder / "units.jsonl").write_text(line)
    with pytest.raises(SettingError, match=f"units.jsonl, {message}"):
        environments.get(str(folder / "units.py")).tasks("train", 1, seed=0)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("x = 1", "defines 0 environments"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("from agentloop.environments import QuestionFile\nclass A(QuestionFile):\n    name = 'a'", "A lacks tools"),
        (
            "from agentloop.environments import Environment\nclass A(Environment):\n    name = 'arithmetic'\n"
            "    def tools(self, task): return {}\n    def verify(self, task, answer): return 0.0\n"
            "    def questions(self, rng): return iter(())",
            "is named 'arithmetic', and there is another",
        ),
    ],
)
def test_a_bad_file_is_named(folder, code, message):
    (folder / "bad.py").write_text(code)
    with pytest.raises(SettingError, match=f"bad.py.*{message}"):
        environments.get(str(folder / "bad.py"))


def test_a_file_that_is_not_there():
    with pytest.raises(SettingError, match="environment: there is no file .*tasks/none.py"):
        environments.get("tasks/none.py")


@pytest.mark.parametrize(
    "question, answer, payload, reason",
    [
        ("a\ud83d", "1", {}, "half of a surrogate pair"),
        ("a", "\udc00", {}, "half of a surrogate pair"),
        ("a", "1", {"k": "\ud83d"}, "half of a surrogate pair"),
        ("a", "1", {"k": {1}}, "Object of type set is not JSON serializable"),
        ("a", "1", {"k": 10**5000}, "Exceeds the limit"),
    ],
)
def test_a_question_that_cannot_be_stored_is_one_line(question, answer, payload, reason):
    class Strange(Environment):
        name = "strange"

        def questions(self, rng):
            yield Question("all", question, answer, payload, "train")

        def tools(self, task):
            return {}

        def verify(self, task, answer):
            return 0.0

    with pytest.raises(
        SettingError, match=f"^environment: strange: the question 'a.?' cannot be stored: {reason}"
    ) as raised:
        Strange().tasks("train", 1, 0)
    assert "\n" not in str(raised.value) and str(raised.value).encode()
