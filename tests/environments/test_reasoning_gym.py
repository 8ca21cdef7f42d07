"""Generators of reasoning-gym: the right answer scores 1, the same task is the same everywhere, nothing of an answer is run."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from itertools import islice

import pytest

pytest.importorskip("reasoning_gym")

from agentloop import environments  # noqa: E402
from agentloop.environments import reasoning_gym  # noqa: E402
from agentloop.errors import SettingError  # noqa: E402
from agentloop.rollout.grammar import answer_text, parse  # noqa: E402

SLOW = {"sokoban", "zebra_puzzles", "puzzle24", "quantum_lock", "rearc", "sudoku", "arc_agi"}
"""A question of these takes more than a tenth of a second to make."""


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    monkeypatch.setattr(environments, "_ENVIRONMENTS", dict(environments._ENVIRONMENTS))


def generators() -> list[str]:
    from reasoning_gym.factory import DATASETS

    return [name for name in sorted(DATASETS) if name not in reasoning_gym.LEFT_OUT]


def some(name: str, count: int, split: str = "train") -> list:
    return list(islice(environments.get(f"reasoning-gym:{name}").stream(split, 0), count))


@pytest.mark.parametrize(
    "generator", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in generators()]
)
def test_the_right_answer_scores_one_as_a_model_says_it(generator):
    environment = environments.get(f"reasoning-gym:{generator}")
    tasks = some(generator, 2 if generator in SLOW else 10)
    assert tasks and environment.tools(tasks[0]) == {}
    for task in tasks:
        assert environment.verify(task, parse(answer_text(task.answer)).text) == 1.0
        assert [parse(turn).text for turn in environment.expert(task)] == [task.answer]
        assert environment.verify(task, None) == 0.0
        assert environment.verify(task, "certainly not this") < 0.5


def test_of_those_left_out_each_has_its_reason():
    for generator, reason in reasoning_gym.LEFT_OUT.items():
        with pytest.raises(SettingError, match=f"{generator} is left out: {reason}"):
            environments.get(f"reasoning-gym:{generator}")


@pytest.mark.parametrize(
    "name", [name for name, why in reasoning_gym.LEFT_OUT.items() if why == reasoning_gym.NO_ANSWER]
)
def test_those_without_an_answer_have_none(name):
    from reasoning_gym import create_dataset

    assert create_dataset(name, size=5, seed=0)[0]["answer"] is None


def test_splits_have_no_question_in_common_and_seeds_give_others():
    train, heldout = (some("leg_counting", 100, split) for split in ("train", "heldout"))
    assert not {task.question for task in train} & {task.question for task in heldout}
    environment = environments.get("reasoning-gym:leg_counting")
    assert [task.id for task in environment.tasks("train", 20, 0)] == [task.id for task in train[:20]]
    assert {task.id for task in environment.tasks("train", 20, 1)} != {task.id for task in train[:20]}


def test_a_task_is_verified_in_another_process():
    """What a verifier needs beside the answer is made again there, whatever the hashes of texts are."""
    names = [name for name in generators() if name not in SLOW]
    code = (
        "import json, sys\nfrom agentloop import environments\nfrom agentloop.records import Task\n"
        "for row in json.load(sys.stdin):\n    task = Task(**row)\n"
        "    print(environments.get(task.environment).verify(task, task.answer))"
    )
    tasks = [asdict(task) for name in names for task in some(name, 3)]
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(tasks),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": "12345"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1.0"] * len(tasks)


def test_another_question_of_the_same_seed_is_a_fault():
    (task,) = some("chain_sum", 1)
    other = type(task)(task.environment, task.family, "What is 1 + 1?", "2", "train", task.payload)
    with pytest.raises(SettingError, match="the installed reasoning-gym makes another question of seed"):
        environments.get("reasoning-gym:chain_sum").verify(other, "2")


@pytest.mark.parametrize("generator", sorted(reasoning_gym.EVALUATED))
def test_nothing_of_an_answer_is_run(generator, tmp_path, monkeypatch):
    """Its verifier evaluates an answer: with this one it would leave a file."""
    monkeypatch.setattr(reasoning_gym, "LEFT_OUT", {})
    (task,) = some(generator, 1)
    trace = tmp_path / "trace"
    written = f"open({str(trace)!r}, 'w')"
    environment = environments.get(f"reasoning-gym:{generator}")
    for answer in (f"[{written}]", written, f"({written}, {task.answer})", "9**9**9**9", "9 * *9"):
        assert environment.verify(task, answer) < 0.5
    assert not trace.exists()
    monkeypatch.setattr(reasoning_gym, "EVALUATED", {})
    for answer in (f"[{written}]", written):
        environment.verify(task, answer)
    assert trace.exists(), "without the check it is run: the generator needs it"


def test_a_wrong_number_with_the_right_digits_is_not_solved():
    environment = environments.get("reasoning-gym:gcd")
    task = next(task for task in some("gcd", 50) if task.answer.isdigit())
    assert environment.verify(task, f"1{task.answer}") < 0.5 and environment.verify(task, f"{task.answer}1") < 0.5


def test_an_answer_of_several_lines_is_asked_for_on_one():
    (task,) = some("rotate_matrix", 1)
    assert task.question.endswith("Write the answer on one line, with \\n where a new line begins.")
    assert "\n" not in task.answer and "\\n" in task.answer
    environment = environments.get("reasoning-gym:rotate_matrix")
    assert environment.verify(task, task.answer.replace("\\n", "\n")) == 1.0
    assert environment.verify(task, task.answer.replace("\\n", " ")) < 1.0


def test_options_and_several_generators():
    environment = environments.get("reasoning-gym:chain_sum,min_terms=2,max_terms=2,size=40,seed=3")
    tasks = list(environment.stream("train", 0)) + list(environment.stream("heldout", 0))
    assert 30 < len(tasks) <= 40 and {task.payload["seed"] for task in tasks} == {3}
    assert all(task.question.count("+") + task.question.count(" - ") == 1 for task in tasks)
    both = some("gcd+lcm", 40)
    assert {task.family for task in both} == {"gcd", "lcm"}
    environment = environments.get("reasoning-gym:gcd+lcm")
    assert all(environment.verify(task, task.answer) == 1.0 for task in both)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "reasoning-gym has no generator 'nothing'"),
        ("", "reasoning-gym has no generator ''"),
        ("gcd+gcd", "names a generator twice"),
        ("gcd,nothing=1", "gcd: TypeError: .*nothing"),
        ("gcd,min_numbers=0", "gcd: AssertionError"),
        ("gcd,min_numbers", "'min_numbers' is no option; write it as"),
        ("gcd,size=0", "size must be a whole number of at least 1"),
        ("gcd,seed=1.5", "seed must be a whole number of at least 0"),
    ],
)
def test_a_name_that_will_not_do(name, message):
    with pytest.raises(SettingError, match=f"^environment: reasoning-gym:.*{message}"):
        environments.get(f"reasoning-gym:{name}")
