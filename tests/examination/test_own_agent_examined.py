"""`agentloop check` with an agent of one's own: the prompt that its requests make, and what it makes of the expert's turns."""

import pytest

from agentloop import environments
from agentloop import settings as configuration
from agentloop.examination.examination import examine
from agentloop.project import CHECKOUT

SHOP = CHECKOUT / "examples" / "shop_agent"
ASSISTANT = (SHOP / "assistant.py").read_text()


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    monkeypatch.setattr(environments, "_ENVIRONMENTS", dict(environments._ENVIRONMENTS))


def parts_of(agent, *words):
    """The parts by their titles, and whatever is wrong."""
    settings = configuration.load(
        [
            f"environment={SHOP / 'questions.py'}",
            f"agent.command={agent}",
            "agent.describe_tools=true",
            "agent.max_tokens=1024",
            "serving.max_model_len=1024",
            "agent.max_turn_tokens=160",
            *words,
        ],
        profile="demo",
    )
    parts = {part.title: part for part in examine(settings, most=40)}
    return parts, [fault for part in parts.values() for fault in part.faults]


def test_an_agent_that_is_right():
    parts, faults = parts_of(f"{SHOP / 'assistant.py'}:run")
    assert faults == []
    text = "\n".join(line.removeprefix("| ") for line in parts["Prompt"].lines)
    assert text.startswith("<bos><start_of_turn>user\n") and "You are the assistant of a furniture shop" in text
    assert "query(sql: str) -> str" in text
    said = parts["Agent"].lines
    assert any(line.startswith("  > query(sql=") for line in said) and said[-1].startswith(
        "the expert solves 5 of 5 tasks"
    )
    assert "Tools" not in parts


@pytest.mark.parametrize(
    ("was", "becomes", "words", "fault"),
    [
        ("    database = connect", "    raise KeyError('shop')\n    database = connect", (), "KeyError: 'shop'"),
        (
            "    messages = [",
            "    return 'asked nobody'\n    messages = [",
            (),
            "the agent ended without having asked the model",
        ),
        ("tools=[TOOL]", "tools=[TOOL], n=2", (), "n is not supported by agentloop's endpoint"),
        (
            "    messages = [",
            "    import time\n    time.sleep(600)\n    messages = [",
            ("collect.episode_seconds=1",),
            "the episode took longer than collect.episode_seconds = 1",
        ),
    ],
)
def test_an_agent_that_fails(tmp_path, was, becomes, words, fault):
    (tmp_path / "sales.py").write_text((SHOP / "sales.py").read_text())
    assert was in ASSISTANT
    (tmp_path / "assistant.py").write_text(ASSISTANT.replace(was, becomes))
    _, (told, *others) = parts_of(f"{tmp_path / 'assistant.py'}:run", *words)
    assert told.startswith("the agent fails at ") and fault in told and others == []


def test_an_agent_that_lacks_what_the_expert_calls(tmp_path):
    (tmp_path / "sales.py").write_text((SHOP / "sales.py").read_text())
    (tmp_path / "assistant.py").write_text(ASSISTANT.replace('"name": "query"', '"name": "look_up"'))
    parts, (fault,) = parts_of(f"{tmp_path / 'assistant.py'}:run")
    assert fault.startswith("expert(): fails at 5 of 5 tasks")
    assert "each of its calls is refused: 'error: there is no tool named query" in fault
    assert any("there is no tool named query; there are: look_up" in line for line in parts["Agent"].lines)
