"""`agentloop check TASK`: what is wrong with a task is named, and nothing is wrong with one that is right."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from agentloop import environments
from agentloop import settings as configuration
from agentloop.errors import SettingError
from agentloop.examination import answers, calls, opening, splits
from agentloop.examination.examination import examine
from agentloop.examination.subject import Subject
from agentloop.model_directory.tokenizer import load_tokenizer
from agentloop.project import CHECKOUT
from agentloop.rollout.prompt import PromptFormat
from agentloop.worlds.pool import Worlds
from agentloop.worlds.stage import WorldDescription

CODE = """
import asyncio, time
from pathlib import Path
from agentloop.environments import QuestionFile
from agentloop.tools import FunctionTool, ToolError

class Mine(QuestionFile):
    name = {name!r}
    path = Path(__file__).with_name("mine.jsonl")

    def tools(self, task):
        def half(number: int) -> str:
            "Half of a number."
            if number % 2:
                raise ToolError("odd")
            return str(number // 2)
        return {{"half": FunctionTool(half)}}
{more}
"""


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    monkeypatch.setattr(environments, "_ENVIRONMENTS", dict(environments._ENVIRONMENTS))


@pytest.fixture
def folder(tmp_path):
    questions(tmp_path, [(f"What is half of {2 * n}?", n) for n in range(60)])
    return tmp_path


def questions(folder, rows) -> None:
    lines = [json.dumps({"question": question, "answer": str(answer)}) for question, answer in rows]
    (folder / "mine.jsonl").write_text("\n".join(lines), encoding="utf-8")


def environment(folder, more: str = "") -> str:
    """Each has a name of its own: what the process has registered stays."""
    path = folder / "mine.py"
    path.write_text(CODE.format(name=f"mine-{folder.name}", more=more), encoding="utf-8")
    return str(path)


def subject(source: str, *words: str) -> Subject:
    return Subject.of(configuration.load([f"environment={source}", "evaluate.tasks=5", "collect.tasks=20", *words]))


@pytest.fixture(scope="module")
def prompt():
    return PromptFormat(load_tokenizer(CHECKOUT / "models" / "tiny"), True)


def tools_of(examined: Subject, prompt, tmp_path):
    """The parts on prompt and tools."""
    settings = examined.settings
    apart = settings.model_copy(update={"paths": settings.paths.model_copy(update={"data": tmp_path / "data"})})
    with Worlds(apart, [settings.environment]) as worlds:
        described = asyncio.run(calls.describe(examined, worlds))
        called = asyncio.run(calls.examine(examined, worlds, prompt, described))
    asked = {task.id: task.question for task in examined.tasks}
    openings = {name: prompt.opening(asked[name], described[name]) for name in described}
    return opening.examine(examined, prompt, openings, ids=True), called


def test_a_task_that_is_right(folder, prompt):
    examined = subject(environment(folder))
    shown, called = tools_of(examined, prompt, folder)
    verifier, split = answers.examine(examined), splits.examine(examined)
    assert [part.faults for part in (shown, called, verifier, split)] == [()] * 4
    text = "\n".join(line.removeprefix("| ") for line in shown.lines)
    assert "half(number: int) -> str\n    Half of a number." in text and text.startswith("<bos><start_of_turn>user\n")
    said = next(line for line in shown.lines if line.startswith("token ids: "))
    ids = json.loads(said.removeprefix("token ids: "))
    assert prompt.shown(ids) == text[: text.index("<start_of_turn>model\n") + len("<start_of_turn>model\n")]
    assert f"{len(ids)} tokens; of " in "\n".join(shown.lines)
    assert "  half() -> error: missing a required argument: 'number'" in called.lines
    assert "the tasks' own answers: 60 of 60 are right" in verifier.lines
    assert split.lines[0].endswith("held out") and len(examined.train) + len(examined.heldout) == 60


def test_a_bare_file_has_no_tools_and_its_prompt_speaks_of_none(folder, prompt):
    examined = subject(str(folder / "mine.jsonl"))
    shown, called = tools_of(examined, prompt, folder)
    assert called.lines[0] == "there are none: the model answers by itself"
    text = "\n".join(shown.lines)
    assert "tool" not in text and "Answer: the answer alone" in text
    assert answers.examine(examined).faults == ()


EXPERT = """
    def expert(self, task):
        number = task.question.split()[-1].rstrip("?")
        return [f"```tool_code\\nhalf({number})\\n```", f"Answer: {EXPRESSION}"]
"""


@pytest.mark.parametrize(("expression", "faults"), [("{int(number) // 2}", 0), ("{int(number) // 2 + 1}", 1)])
def test_the_expert_is_played(folder, prompt, expression, faults):
    _, called = tools_of(subject(environment(folder, EXPERT.replace("{EXPRESSION}", expression))), prompt, folder)
    assert len(called.faults) == faults
    assert any(line.startswith("  > half(") for line in called.lines)
    assert any(line.startswith("  < ") and line[4:].isdigit() for line in called.lines)
    if faults:
        assert "mine.jsonl, line " in called.faults[0] and "verify() gives its answer" in called.faults[0]


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("raise KeyError('x')", "tool broken: KeyError: 'x'"),
        ("os._exit(3)", "tool broken: its process ended with exit code 3"),
        ("time.sleep(60)", "tool broken: no answer within collect.tool_seconds = 1"),
    ],
)
def test_a_tool_that_does_not_complain(folder, prompt, body, fault):
    more = f"""
    def tools(self, task):
        import os
        def broken(number: int = 0) -> str:
            "It does not work."
            {body}
        return {{"broken": FunctionTool(broken)}}
"""
    _, called = tools_of(subject(environment(folder, more), "collect.tool_seconds=1"), prompt, folder)
    assert called.faults[0].startswith(fault) and "where it should complain to the model" in called.faults[0]


def test_an_opening_that_leaves_no_room(folder, prompt):
    long = " ".join(["long"] * 500)
    questions(folder, [(f"What is half of {2 * n}? {long if n == 7 else ''}", n) for n in range(60)])
    examined = subject(environment(folder), "agent.max_tokens=512")
    short = [task for task in examined.tasks if long not in task.question]
    (odd,) = (task for task in examined.tasks if long in task.question)
    openings = {task.id: prompt.opening(task.question, WorldDescription()) for task in (short[0], odd)}
    shown = opening.examine(examined, prompt, openings)
    (fault,) = shown.faults
    assert fault.startswith("agent.max_tokens: 1 of 2 openings take 512 tokens or more")
    assert fault.endswith("mine.jsonl, line 8")
    openings.pop(odd.id)
    assert opening.examine(examined, prompt, openings).faults == ()


VERIFIERS = {
    "return 1.0": "takes wrong answers for right: none at all",
    "return float(answer is not None)": "takes wrong answers for right: an empty one",
    "return float(bool(answer) and task.answer in answer)": "a list of many, the right one among them",
    "return float(bool(answer) and answer[0].isdigit() and ',' not in answer)": "another task's, at ",
    "return float(answer == task.answer and task.answer != '7')": "refuses the tasks' own answers at 1 of 60",
    "return 2.0": "says 2.0 of '",
    "return float(answer == task.answer and time.perf_counter_ns() % 2)": "verify() ",
    "raise ValueError('no')": "ValueError: no at",
}


@pytest.mark.parametrize("body", VERIFIERS)
def test_a_verifier_that_is_wrong(folder, body):
    # the file itself is refused where it raises, so the verifier is put in its place afterwards
    examined = subject(environment(folder))
    space = {"task": None}
    exec(f"import time\ndef verify(self, task, answer):\n    {body}", space)
    type(examined.environment).verify = space["verify"]
    faults = answers.examine(examined).faults
    assert any(VERIFIERS[body] in fault for fault in faults), faults


def test_rows_whose_answer_is_not_right_are_named(folder):
    examined = subject(
        environment(folder, "\n    def verify(self, task, answer):\n        return float(answer == task.answer)")
    )
    type(examined.environment).verify = lambda self, task, answer: float(
        answer == task.answer and answer not in ("3", "9")
    )
    (fault,) = answers.examine(examined).faults
    assert "mine.jsonl, line 4 ('3': 0)" in fault and "mine.jsonl, line 10 ('9': 0)" in fault


def test_an_answer_that_no_model_can_give(folder):
    questions(folder, [("What are the lines?", "one\ntwo"), *((f"What is {n}?", n) for n in range(20))])
    (fault,) = answers.examine(subject(environment(folder))).faults
    assert "1 of 21" in fault and fault.endswith("mine.jsonl, line 1")


def test_one_answer_for_everything(folder):
    questions(folder, [(f"Is {n} a number?", "yes") for n in range(30)])
    assert answers.examine(subject(environment(folder))).faults == (
        "every task has the answer 'yes': there is nothing to learn",
    )


def test_questions_that_are_on_both_sides(folder):
    story = (
        "A farmer walks to the market on a cold morning in March and sells apples to three of her oldest friends there"
    )
    rows = [{"question": f"What is half of {2 * n}?", "answer": n, "split": "train"} for n in range(30)]
    rows += [
        {"question": f"{story}, how many is {n}?", "answer": n, "split": ("train", "heldout")[n % 2]} for n in range(12)
    ]
    (folder / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (fault,) = splits.examine(subject(environment(folder))).faults
    assert fault.startswith("6 training questions are nearly held-out ones: ")
    assert "mine.jsonl, line 31 is nearly " in fault or "mine.jsonl, line 3" in fault


def test_too_few_tasks_are_said_as_a_run_would_say_it(folder):
    found = splits.examine(subject(environment(folder), "evaluate.tasks=59", "collect.tasks=60")).faults
    assert [fault.partition(":")[0] for fault in found] == ["evaluate.tasks", "collect.tasks"]


def check(*words, cwd: Path, **variables: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "agentloop", "check", *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        env={**variables, "PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin", "HOME": str(cwd)},
    )


def test_the_command(folder):
    (folder / "agentloop.toml").write_text(f'paths.models = "{CHECKOUT / "models"}"\n', encoding="utf-8")
    few = ("evaluate.tasks=5", "collect.tasks=20")
    environment(folder)
    before = {path.name for path in folder.iterdir()}
    done = check("mine.py", *few, cwd=folder)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "Nothing is wrong with mine.py."
    titles = [line for line in done.stdout.splitlines() if line and not line.startswith(" ")]
    assert titles[:-1] == ["Prompt", "Tools", "Verifier", "Splits", "A night"]
    assert "an iteration plays 160 episodes to train on and 40 to measure" in done.stdout
    # nothing is kept of it; torch, which comes with the tokenizer, makes a folder in the cache
    assert {path.name for path in folder.iterdir()} - before <= {"__pycache__", "data"}
    assert {path.name for path in folder.glob("data/*")} <= {"cache"}

    done = check("mine.jsonl", cwd=folder)
    assert done.returncode == 1
    assert done.stderr.startswith("wrong: evaluate.tasks: mine has ") and done.stderr.endswith("(and 1 more, above)\n")

    done = check("mine.py", "environment=arithmetic", cwd=folder)
    assert done.returncode == 2 and done.stderr == "error: environment: is given as well as mine.py; name one\n"


def test_a_built_in_environment_is_right():
    settings = configuration.load(["environment=database"])
    assert [part.faults for part in examine(settings, most=200)] == [()] * 5


def test_an_environment_that_is_not_there(folder):
    with pytest.raises(SettingError, match="there is no file .*none.csv"):
        next(examine(configuration.load([f"environment={folder / 'none.csv'}"])))
