"""More tasks than an environment has: the line names the setting and the largest number that works, and it does."""

import json
import re

import pytest
from typed import mistake

OWN = """
from pathlib import Path
from agentloop.environments import QuestionFile
class Few(QuestionFile):
    name = "few"
    path = Path(__file__).with_name("questions.jsonl")
    def tools(self, task): return {}
"""
TRAIN, HELDOUT = 30, 11


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """An environment of 30 training and 11 held-out tasks."""
    splits = ["train"] * TRAIN + ["heldout"] * HELDOUT
    lines = [
        json.dumps({"question": f"How many is {n}?", "answer": str(n), "split": split})
        for n, split in enumerate(splits)
    ]
    tmp_path = tmp_path_factory.mktemp("few")
    (tmp_path / "questions.jsonl").write_text("\n".join(lines))
    (tmp_path / "few.py").write_text(OWN)
    return f"environment={tmp_path / 'few.py'}"


def remedy(said: str) -> str:
    return re.search(r"[a-z._]+=\d+", said.partition("asked for")[2])[0]


@pytest.mark.parametrize(
    ("command", "words", "line"),
    [
        (
            ["run", "--dry-run"],
            ["collect.tasks=20"],
            "evaluate.tasks: few has 11 heldout tasks, fewer than the 200 asked for; set evaluate.tasks=11",
        ),
        (
            ["run", "--dry-run"],
            ["evaluate.tasks=5"],
            "collect.tasks: few has 30 train tasks, fewer than the 256 asked for; set collect.tasks=30",
        ),
        (
            ["eval", "--dry-run"],
            [],
            "evaluate.tasks: few has 11 heldout tasks, fewer than the 200 asked for; set evaluate.tasks=11",
        ),
        (
            ["eval", "--dry-run", "--unseen"],
            ["evaluate.tasks=6"],
            "evaluate.tasks: few has 11 heldout tasks, fewer than the 12 asked for: 6 for verdicts and 6 that no verdict sees; "
            "a campaign with evaluate.tasks=5 leaves enough",
        ),
        (
            ["eval", "--dry-run", "--unseen"],
            ["evaluate.tasks=5", "gate.max_tasks=10"],
            "evaluate.tasks: few has 11 heldout tasks, fewer than the 15 asked for: 10 for verdicts and 5 that no verdict sees; "
            "a campaign with evaluate.tasks=3 leaves enough",
        ),
    ],
)
def test_the_largest_number_is_named_and_works(agentloop, few, command, words, line):
    result = agentloop(*command, few, *words)
    assert result[0] == 2 and result[2] == f"error: {line}\n"
    enough = remedy(line)
    code, _, errors = agentloop(*command, few, "collect.tasks=20", "evaluate.tasks=5", *words, enough)
    assert code == 0, errors
    name, _, most = enough.partition("=")
    assert agentloop(*command, few, "collect.tasks=20", "evaluate.tasks=5", *words, f"{name}={int(most) + 1}")[0] == 2


def test_an_evaluation_does_not_ask_for_training_tasks(agentloop, few):
    assert agentloop("eval", "--dry-run", few, "evaluate.tasks=11", "collect.tasks=99")[0] == 0


def test_a_guard_is_named_with_its_setting(agentloop, few):
    guard = few.partition("=")[2]
    words = ["run", "--dry-run", f'gate.guards={{"{guard}" = {{tasks = 12}}}}']
    assert mistake(agentloop(*words)).endswith(
        f"gate.guards.{guard}.tasks: few has 11 heldout tasks, fewer than the 12 asked for; set gate.guards.{guard}.tasks=11"
    )
    assert agentloop(*words[:2], f'gate.guards={{"{guard}" = {{tasks = 11}}}}')[0] == 0


def test_more_looks_than_there_are_tasks_for_are_not_taken(agentloop, few):
    """gate.max_tasks is a limit, not a wish: what the environment has decides, and the outline says how far it goes."""
    words = ["run", "--dry-run", few, "collect.tasks=20", "evaluate.tasks=5", "gate.max_tasks=1000"]
    code, output, _ = agentloop(*words)
    assert code == 0 and "up to 10 where it is not clear" in output


def test_a_run_says_it_where_nothing_looked_before(few, data):
    """As a deployment on the Prefect server does, which prints no outline."""
    from agentloop import environments
    from agentloop import settings as configuration
    from agentloop.campaign import collect
    from agentloop.campaign.campaign import Campaign
    from agentloop.errors import SettingError

    settings = configuration.load([few, "evaluate.tasks=5", f"paths.data={data}"])
    campaign = Campaign(settings, environments.get(settings.environment), data, "base_1")
    with pytest.raises(SettingError, match="^collect.tasks: few has 30 train tasks, .*; set collect.tasks=30$"):
        collect.plan_collection(campaign, 1, None)
