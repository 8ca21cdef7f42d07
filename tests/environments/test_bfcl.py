"""Conversations of BFCL: the right calls, played through our protocol, satisfy the package's own checker; others do not."""

import json
from itertools import islice

import pytest

pytest.importorskip("bfcl_eval")

from agentloop import environments  # noqa: E402
from agentloop.environments import bfcl  # noqa: E402
from agentloop.environments.environment import Demonstration  # noqa: E402
from agentloop.errors import SettingError  # noqa: E402
from agentloop.tiny.demonstrations import act  # noqa: E402
from agentloop.tiny.tokenizer import build_tokenizer  # noqa: E402
from agentloop.worlds.stage import Stage  # noqa: E402


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    monkeypatch.setattr(environments, "_ENVIRONMENTS", dict(environments._ENVIRONMENTS))


@pytest.fixture
def environment():
    return environments.get("bfcl:multi_turn_base")


def conversation(environment, number: int):
    tasks = (task for split in ("train", "heldout") for task in environment.stream(split, 0))
    return next(task for task in tasks if task.payload["id"] == f"multi_turn_base_{number}")


@pytest.mark.parametrize("category", bfcl.CATEGORIES)
def test_the_right_calls_satisfy_the_packages_own_checker(category):
    environment = environments.get(f"bfcl:{category}")
    tasks = [task for split in ("train", "heldout") for task in environment.stream(split, 0)]
    assert len(tasks) == 199  # two conversations begin with the same words, so that one of them is met
    demonstrations = [Demonstration(task, "right", tuple(environment.expert(task))) for task in tasks]
    failed = [
        (trajectory.task.payload["id"], trajectory.outcome)
        for trajectory in act(demonstrations, environment, build_tokenizer([]))
        if trajectory.status != "ended"
        or environment.score(trajectory.task, None, trajectory.outcome) != {"success": 1.0, "turns": 1.0}
    ]
    assert failed == []


def test_what_is_not_done_is_not_solved(environment):
    for task in islice(environment.stream("heldout", 0), 10):
        stage = Stage.open(environment, task)
        replies = [stage.observe("I cannot do that.")]
        while not replies[-1].done:
            replies.append(stage.observe("Nor that."))
        outcome = stage.outcome()
        assert outcome["valid"] is False and outcome["turns"] == outcome["of"] == len(replies) and outcome["calls"] == 0
        assert environment.score(task, None, outcome) == {"success": 0.0, "turns": 1.0}


def test_one_turn_that_is_wrong_fails_the_episode(environment):
    task = conversation(environment, 0)
    stage = Stage.open(environment, task)
    assert stage.describe().speaks and {"cd", "mkdir", "mv"} <= {tool.name for tool in stage.describe().tools}
    assert "error" in stage.call("cd", ["no such folder"], {}).text.lower()
    assert stage.call("cd", [], {"folder": "document"}).text == json.dumps({"current_working_directory": "document"})
    assert "unexpected keyword argument" in stage.call("cd", [], {"place": "document"}).text
    second = stage.observe("Done.")
    assert "grep" in second.text and not second.done
    outcome = stage.outcome()
    assert outcome["error"] == "multi_turn:instance_state_mismatch" and outcome["turns"] == 2 and outcome["calls"] == 3


def test_episodes_share_no_services(environment):
    task = conversation(environment, 0)
    first, second = (Stage.open(environment, task) for _ in range(2))
    first.call("cd", ["document"], {})
    assert "document" in second.call("ls", [], {}).text and "document" not in first.call("ls", [], {}).text


def test_variants_of_a_conversation_are_in_one_split():
    splits = {}
    for category in bfcl.CATEGORIES:
        environment = environments.get(f"bfcl:{category}")
        for split in ("train", "heldout"):
            for task in environment.stream(split, 0):
                splits.setdefault(task.payload["id"].rpartition("_")[2], set()).add(split)
    assert len(splits) >= 199 and all(len(found) == 1 for found in splits.values())


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("multi_turn_long_context", "multi_turn_long_context is left out: "),
        ("multi_turn_miss_func", "multi_turn_miss_func is left out: "),
        ("simple_python", "there is no 'simple_python'; there are multi_turn_base, "),
    ],
)
def test_a_wrong_name_is_told_in_one_line(name, fault):
    with pytest.raises(SettingError, match=fault):
        environments.get(f"bfcl:{name}")


def test_another_version_is_refused(monkeypatch):
    monkeypatch.setattr(bfcl, "VERSION", "2020.1.1")
    with pytest.raises(SettingError, match=r"bfcl-eval is 2026\.3\.23, not 2020\.1\.1: pip install"):
        environments.get("bfcl:multi_turn_base")
