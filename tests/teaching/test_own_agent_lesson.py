"""An agent of one's own is taught by playing itself: its prompts, its tools, its loop, and the words of a script or a teacher."""

import json
import shutil
import sqlite3
from collections import Counter
from itertools import islice

import pytest

from agentloop import environments
from agentloop.errors import SettingError
from agentloop.project import CHECKOUT
from agentloop.store.shards import read_shard

SHOP = CHECKOUT / "examples" / "shop_agent"
OWN = (
    f"environment={SHOP / 'questions.py'}",
    f"agent.command={SHOP / 'assistant.py'}:run",
    "agent.describe_tools=true",
    "agent.max_tokens=1024",
    "agent.max_turn_tokens=160",
    "selection.max_tokens=1024",
    "serving.max_model_len=1024",
)


@pytest.fixture(scope="module")
def shop():
    return environments.get(str(SHOP / "questions.py"))


@pytest.fixture
def asked(shop):
    return list(islice(shop.stream("train", 0), 10))


def episodes(teaching, planned):
    return [each for shard in planned.shards for each in read_shard(shard.path(teaching.settings.paths.shards))]


def test_queries_say_what_the_sales_do(shop):
    tasks = list(islice(shop.stream("train", 0), 300))
    assert Counter(task.family for task in tasks).keys() == {"spent", "most_pieces", "last_buyer", "regular", "dearer"}
    for task in tasks:
        assert shop.verify(task, shop.expert(task)[-1].removeprefix("Answer: ")) == 1.0, task
        assert shop.verify(task, "1 " + task.answer) == 0.0


def test_an_expert_speaks_to_the_agent(lesson):
    teaching = lesson.open("experts", *OWN)
    planned, judged = lesson.demonstrate(teaching)
    assert judged["tried"] == judged["accepted"] == 12
    prompt = teaching.campaign.prompt
    for each in episodes(teaching, planned):
        opening, *later = prompt.conversation(each.token_ids)
        assert "You are the assistant of a furniture shop" in opening and "query(" in opening
        assert [turn.text for turn in each.turns if turn.role == "model"] == later[::2]
        assert any(turn.role == "tool" for turn in each.turns), "the agent has called its own tool"
        for turn in each.turns:
            assert all(own == (turn.role == "model") for own in each.mask[turn.start : turn.end])
            if turn.role == "model":
                assert each.token_ids[turn.end - 1] == prompt.stop_token_ids[0]
    chosen = lesson.choose(teaching)
    assert chosen["rows"] == 12


@pytest.mark.slow
def test_the_agents_code_is_part_of_its_name(lesson, tmp_path):
    copy = tmp_path / "shop"
    shutil.copytree(SHOP, copy)
    words = [word.replace(str(SHOP), str(copy)) if word.startswith("agent.") else word for word in OWN]
    before = lesson.open("experts", *words)
    planned, _ = lesson.demonstrate(before)
    assert lesson.open("experts", *words).campaign.name == before.campaign.name
    file = copy / "assistant.py"
    file.write_text(file.read_text().replace("furniture shop", "shop for furniture"))
    after = lesson.open("experts", *words)
    again, judged = lesson.demonstrate(after)
    assert after.campaign.name != before.campaign.name and judged["accepted"] == 12
    assert not {shard.id for shard in planned.shards} & {shard.id for shard in again.shards}
    assert all("a shop for furniture" in after.campaign.prompt.shown(each.token_ids) for each in episodes(after, again))


def test_a_file_of_the_agents_conversations(lesson, asked, shop, tmp_path):
    """Only the words of the assistant are taken: what its tools say, they say again; what is wrong is not taught."""
    file = tmp_path / "logged.jsonl"
    rows = [_logged(task, shop.expert(task)) for task in asked]
    rows[0][-1]["content"] = "wrong"
    for message in rows[1]:
        if message["role"] == "tool":
            message["content"] = "what is not there"
    file.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    teaching = lesson.open(file, *OWN)
    planned, judged = lesson.demonstrate(teaching)
    assert (judged["tried"], judged["accepted"]) == (10, 9)
    assert all("what is not there" not in turn.text for each in episodes(teaching, planned) for turn in each.turns)


def _logged(task, turns):
    messages = [{"role": "system", "content": "of another time"}, {"role": "user", "content": task.question}]
    for number, turn in enumerate(turns[:-1]):
        sql = turn.partition("query(sql=")[2].rpartition(")\n")[0]
        function = {"name": "query", "arguments": json.dumps({"sql": eval(sql)})}
        messages.append(
            {"role": "assistant", "tool_calls": [{"id": f"c{number}", "type": "function", "function": function}]}
        )
        messages.append({"role": "tool", "tool_call_id": f"c{number}", "content": "1"})
    return [*messages, {"role": "assistant", "content": turns[-1].removeprefix("Answer: ")}]


@pytest.mark.slow
def test_a_mistake_goes_back_and_is_no_demonstration_of_anything_else(lesson, shop, asked, tmp_path):
    """A script may call what the agent does not have: the model is told, as it would be at work."""
    file = tmp_path / "logged.jsonl"
    rows = [_logged(task, shop.expert(task)) for task in asked[:3]]
    rows[0][2]["tool_calls"][0]["function"]["name"] = "look_up"
    file.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    teaching = lesson.open(file, *OWN)
    planned, judged = lesson.demonstrate(teaching)
    told = [turn.error for each in episodes(teaching, planned) for turn in each.turns if turn.error]
    assert told and all(error.startswith("error: there is no tool named look_up; there are: query") for error in told)
    assert judged["accepted"] >= 2


def test_a_teacher_reads_what_the_model_reads(lesson, expert_server, shop, monkeypatch):
    monkeypatch.setattr(expert_server, "environment", str(SHOP / "questions.py"))
    teaching = lesson.open(expert_server.url, *OWN, "teach.tasks=4", "teach.samples=1")
    planned, judged = lesson.demonstrate(teaching)
    assert (judged["tried"], judged["accepted"]) == (4, 4)
    first = expert_server.requests[0]["messages"][0]["content"]
    assert "You are the assistant of a furniture shop" in first and "tools" not in expert_server.requests[0]
    assert teaching.campaign.prompt.conversation(episodes(teaching, planned)[0].token_ids)[0].startswith(
        "Answer the question"
    )


@pytest.mark.parametrize("words", [("teach.calls=native",), ("agent.describe_tools=false",)])
def test_a_teacher_that_would_not_be_told_of_the_tools(lesson, words):
    with pytest.raises(
        SettingError, match=r"^teach\.calls: behind an agent of your own a teacher reads what the model reads"
    ):
        lesson.open("http://127.0.0.1:1/v1", *OWN, *words)


def test_the_tool_reads_alone(shop):
    with pytest.raises(sqlite3.OperationalError):
        from sales import connect

        connect(1).execute("DELETE FROM sales")
