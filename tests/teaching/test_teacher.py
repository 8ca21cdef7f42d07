"""A teacher behind an endpoint: what it says is taught, what the endpoint refuses ends the run in one line."""

import json

import pytest
from aiohttp import web

from agentloop.errors import FailureBudgetError, TeacherError
from agentloop.rollout.grammar import parse
from agentloop.store.shards import read_shard

KEY = "sk-a-key-that-nobody-must-see"


@pytest.mark.parametrize("calls", ["text", "native", "bare"])
def test_its_words_become_the_students_tokens(lesson, expert_server, calls):
    teaching = lesson.open(expert_server.url, f"teach.calls={calls}")
    planned, judged = lesson.demonstrate(teaching)
    assert judged["tried"] == judged["accepted"] == 12
    first = expert_server.requests[0]
    assert first["model"] == "expert" and first["temperature"] == 0.7
    assert ("tools" in first) == (calls == "native")
    assert ("To call a tool" in first["messages"][0]["content"]) == (calls == "text")
    for shard in planned.shards:
        for each in read_shard(shard.path(teaching.settings.paths.shards)):
            for turn in each.turns:
                if turn.role == "model":
                    ids = each.token_ids[turn.start : turn.end]
                    assert ids == tuple(teaching.campaign.prompt.spoken(turn.text))
    assert judged["spent"] == {
        "requests": len(expert_server.requests),
        "prompt_tokens": 100 * len(expert_server.requests),
        "completion_tokens": 10 * len(expert_server.requests),
        "seconds": judged["spent"]["seconds"],
    }
    (policy,) = lesson.rows(teaching, "SELECT base FROM policies")
    assert policy[0].startswith("teacher_")


def test_native_calls_are_shown_to_the_teacher_as_calls(lesson, expert_server):
    lesson.demonstrate(lesson.open(expert_server.url, "teach.calls=native"))
    longest = max((request["messages"] for request in expert_server.requests), key=len)
    assert [message["role"] for message in longest[:3]] == ["user", "assistant", "tool"]
    call = longest[1]["tool_calls"][0]
    assert call["function"]["name"] == "calculate" and longest[2]["tool_call_id"] == call["id"]
    assert eval(json.loads(call["function"]["arguments"])["expression"]) == float(longest[2]["content"])
    (tool,) = expert_server.requests[0]["tools"]
    assert tool["function"]["parameters"] == {
        "type": "object",
        "properties": {"expression": {"type": "string"}},
        "required": ["expression"],
    }


def test_a_mistake_goes_back_to_it_and_what_is_wrong_is_not_taught(lesson, expert_server):
    wrong = {"choices": [{"message": {"content": "Answer: -1"}, "finish_reason": "stop"}]}
    unread = {"choices": [{"message": {"content": "I am not sure."}, "finish_reason": "stop"}]}
    expert_server.faults = [web.json_response(wrong), web.json_response(unread)]
    teaching = lesson.open(expert_server.url, "teach.concurrency=1")
    _, judged = lesson.demonstrate(teaching)
    assert judged["tried"] == 12 and judged["accepted"] <= 11
    complaint = "end your turn with a call or an answer"
    assert any(complaint in message["content"] for each in expert_server.requests for message in each["messages"])


def test_shards_that_are_there_are_not_asked_for_again(lesson, expert_server):
    lesson.demonstrate(lesson.open(expert_server.url))
    asked = len(expert_server.requests)
    teaching = lesson.open(expert_server.url)
    planned, _ = lesson.demonstrate(teaching)
    assert len(expert_server.requests) == asked
    planned.shards[1].path(teaching.settings.paths.shards).unlink()
    lesson.demonstrate(lesson.open(expert_server.url))
    tasks = {task.question for task, _ in planned.shards[1].episodes}
    assert all(any(task in each["messages"][0]["content"] for task in tasks) for each in expert_server.requests[asked:])


def test_a_rate_limit_is_waited_for(lesson, expert_server):
    limited = [web.json_response({"error": {"message": "slow down"}}, status=429, headers={"Retry-After": "1"})]
    expert_server.faults = [*limited, web.json_response({}, status=429)]
    _, judged = lesson.demonstrate(lesson.open(expert_server.url, "teach.concurrency=1"))
    assert judged["accepted"] == 12
    assert expert_server.requests[:1] * 3 == expert_server.requests[:3]  # the same turn until it is answered
    assert judged["spent"]["requests"] == len(expert_server.requests)


def test_what_passes_is_tried_again(lesson, expert_server):
    expert_server.faults = [web.Response(status=500, text="busy"), web.Response(status=503), 5.0]
    teaching = lesson.open(expert_server.url, "teach.concurrency=1", "teach.request_seconds=2")
    assert lesson.demonstrate(teaching)[1]["accepted"] == 12


@pytest.mark.parametrize(
    "fault, message",
    [
        (lambda: web.json_response({"error": {"message": f"bad key {KEY}"}}, status=401), "401 bad key … "),
        (lambda: web.json_response({"error": {"message": "no model x"}}, status=404), "404 no model x"),
        (lambda: web.Response(text="<html>\nwelcome"), "the answer is not a JSON object: <html> welcome"),
        (lambda: web.json_response([1]), "the answer is not a JSON object"),
        (lambda: web.json_response({"choices": []}), "the answer is no chat completion"),
        (lambda: web.Response(status=302, headers={"Location": "http://elsewhere"}), "302"),
        (lambda: web.json_response({"error": {"code": "insufficient_quota", "message": "pay"}}, status=429), "429 pay"),
    ],
)
def test_what_another_try_would_not_mend_ends_the_run_in_one_line(lesson, expert_server, monkeypatch, fault, message):
    monkeypatch.setenv("TEACHERS_KEY", KEY)
    expert_server.faults = [fault() for _ in range(40)]
    teaching = lesson.open(expert_server.url, "teach.key_variable=TEACHERS_KEY")
    with pytest.raises(TeacherError) as told:
        lesson.demonstrate(teaching)
    said = str(told.value)
    assert said.startswith(f"{expert_server.url}/chat/completions: ") and message in said and "\n" not in said
    assert KEY not in said and "Bearer " + KEY in expert_server.keys


def test_nobody_listens(lesson):
    with pytest.raises(TeacherError, match=r"^http://127.0.0.1:9/v1/chat/completions: .*\(4 tries\)$"):
        lesson.demonstrate(lesson.open("http://127.0.0.1:9", "teach.teacher_model=any"))


def test_it_takes_too_long(lesson, expert_server):
    expert_server.faults = [60.0] * 100
    teaching = lesson.open(expert_server.url, "teach.request_seconds=0.3")
    with pytest.raises(TeacherError, match=r"no answer within teach.request_seconds = 0.3 \(4 tries\)$"):
        lesson.demonstrate(teaching)


def test_one_conversation_that_is_refused_is_one_episode(lesson, expert_server):
    too_long = {"error": {"message": "too many tokens"}}
    expert_server.faults = [web.json_response(too_long, status=400) for _ in range(2)]
    teaching = lesson.open(expert_server.url, "teach.concurrency=1", "collect.max_failed=1")
    assert lesson.demonstrate(teaching)[1]["tried"] == 11
    expert_server.faults = [web.json_response(too_long, status=400) for _ in range(40)]
    with pytest.raises(FailureBudgetError, match="400 too many tokens"):
        lesson.demonstrate(lesson.open(expert_server.url, "teach.tasks=3", "collect.max_failed=1"))


@pytest.mark.parametrize(
    "models, message", [((), r"serves 0 models \(none\)"), (("a", "b"), r"serves 2 models \(a, b\)")]
)
def test_which_of_its_models(lesson, expert_server, models, message):
    expert_server.models = models
    with pytest.raises(TeacherError, match=rf"/v1/models: {message}; set teach.teacher_model$"):
        lesson.demonstrate(lesson.open(expert_server.url))


def test_the_key_is_stored_nowhere(lesson, expert_server, monkeypatch, capfd):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    teaching = lesson.open(expert_server.url)
    lesson.demonstrate(teaching)
    assert set(expert_server.keys) == {f"Bearer {KEY}"}
    said = capfd.readouterr()
    assert KEY not in said.out + said.err
    files = [file for file in teaching.settings.paths.data.rglob("*") if file.is_file()]
    assert files and not any(KEY.encode() in file.read_bytes() for file in files)
    assert KEY not in teaching.settings.model_dump_json()


def test_text_beside_a_call_is_kept(lesson):
    from agentloop.teaching.teacher import _said

    call = {"function": {"name": "query", "arguments": "{\"sql\": \"SELECT 'it''s'\"}"}}
    said = _said({"content": "I look it up.", "tool_calls": [call, call]})
    assert said.startswith("I look it up.\n```tool_code\nquery(sql=")
    assert parse(said).kwargs == {"sql": "SELECT 'it''s'"}


def test_what_an_endpoint_does_not_take_is_left_out(lesson, expert_server):
    said = [
        "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.",
        "Unsupported value: 'temperature' does not support 0.7",
    ]
    expert_server.faults = [web.json_response({"error": {"message": each}}, status=400) for each in said]
    _, judged = lesson.demonstrate(lesson.open(expert_server.url, "teach.concurrency=1", "teach.shard_episodes=12"))
    assert judged["accepted"] == judged["tried"] == 12
    last = expert_server.requests[-1]
    assert last["max_completion_tokens"] == 1024 and "seed" in last and not last.keys() & {"max_tokens", "temperature"}
