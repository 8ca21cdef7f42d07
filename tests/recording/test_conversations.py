"""What the agent sends again keeps its ids; what was sampled is trained on once, and only as it was sampled."""

import asyncio
import json

import pytest

from agentloop.recording.chat import read_request
from agentloop.recording.refusal import Refused
from agentloop.rollout.grammar import call_text
from agentloop.rollout.prompt import result_text
from agentloop.worlds.stage import WorldDescription

ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds two numbers.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
        },
    },
}
USER = {"role": "user", "content": "What is 1 + 2?"}


def ask(episode, *messages, tools=(ADD,), **options):
    body = {"model": "agentloop", "messages": list(messages), "tools": list(tools), **options}
    return episode.answer(read_request(json.loads(json.dumps(body))))


def echoed(answer, **changes):
    """The assistant's message as a client sends it back."""
    message = {"role": "assistant", "content": answer.message.text or None}
    if answer.message.calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in answer.message.calls
        ]
    return message | changes


def result(answer, text="3"):
    return {"role": "tool", "tool_call_id": answer.message.calls[0].id, "content": text}


def as_it_was_sampled(episode, policy):
    """Each completion is in the trajectory's ids after exactly the prompt that it was given; nothing else is trainable."""
    whole, starts = episode.conversations.joined()
    ends = [*starts[1:], len(whole.token_ids)]
    rows = [whole.token_ids[start:end] for start, end in zip(starts, ends)]
    covered = [False] * len(whole.token_ids)
    for asked, given in zip(policy.asked, policy.given):
        wanted, first = asked.prompt_ids + given.token_ids, len(asked.prompt_ids)
        places = [
            start + first
            for start, row in zip(starts, rows)
            if row[: len(wanted)] == wanted and all(whole.mask[start + first : start + len(wanted)])
        ]
        assert len(places) == 1, "trained on once, after its own prompt"
        covered[places[0] : places[0] + len(given.token_ids)] = [True] * len(given.token_ids)
        assert whole.logprobs[places[0] : places[0] + len(given.token_ids)] == given.logprobs
    assert whole.mask == covered
    assert [turn.start for turn in whole.turns] == [0, *(turn.end for turn in whole.turns[:-1])]
    assert whole.turns[-1].end == len(whole.token_ids)
    return whole, starts


def test_a_conversation_only_grows(begin, prompt):
    async def play():
        episode, policy = begin("I add.\n" + call_text("add", (1,), {"b": 2}), "It is\nAnswer: 3")
        first = await ask(episode, USER)
        assert first.finish_reason == "tool_calls"
        assert [call.name for call in first.message.calls] == ["add"]
        assert json.loads(first.message.calls[0].arguments) == {"a": 1, "b": 2}
        last = await ask(episode, USER, echoed(first), result(first))
        assert (last.message.text, last.finish_reason) == ("3", "stop")
        return episode, policy

    episode, policy = asyncio.run(play())
    whole, starts = as_it_was_sampled(episode, policy)
    assert starts == (0,)
    assert [turn.role for turn in whole.turns] == ["user", "model", "tool", "model"]
    assert (whole.turns[1].tool, json.loads(whole.turns[1].arguments)) == ("add", [[1], {"b": 2}])
    assert (whole.turns[2].tool, whole.turns[2].text) == ("add", "3")
    tools = [tool.description for tool in read_request({"model": "m", "messages": [USER], "tools": [ADD]}).tools]
    opening = prompt.opening(USER["content"], WorldDescription(tuple(tools)))
    assert whole.token_ids == opening + policy.given[0].token_ids + prompt.tool_result("3") + policy.given[1].token_ids


@pytest.mark.parametrize(
    "change",
    [
        lambda message: message | {"content": "I add."},
        lambda message: message | {"content": ""},
        lambda message: {name: value for name, value in message.items() if name != "content"},
        lambda message: message | {"content": [{"type": "text", "text": " I add. "}]},
        lambda message: message | {"name": "assistant", "refusal": None, "audio": None, "function_call": None},
        lambda message: (
            message | {"tool_calls": [{"id": "other", "function": {"name": "add", "arguments": '{ "b":2,\n"a": 1 }'}}]}
        ),
    ],
)
def test_however_a_client_writes_it_the_message_is_the_same(begin, change):
    async def play():
        episode, policy = begin("I add.\n" + call_text("add", (1, 2)), "Answer: 3")
        first = await ask(episode, USER)
        await ask(
            episode,
            USER | {"content": [{"type": "text", "text": USER["content"]}]},
            change(echoed(first)),
            result(first),
        )
        return episode, policy

    episode, policy = asyncio.run(play())
    _, starts = as_it_was_sampled(episode, policy)
    assert starts == (0,)


@pytest.mark.parametrize(
    "rewrite",
    [
        lambda messages: [{"role": "system", "content": "Be brief."}, *messages],
        lambda messages: [messages[0] | {"content": "What is 1 + 2, now?"}, *messages[1:]],
        lambda messages: [messages[0], messages[1] | {"content": "I thought."}, *messages[2:]],
        lambda messages: [messages[0], messages[1], messages[2] | {"content": "4"}, *messages[3:]],
        lambda messages: [{"role": "user", "content": "Summary: 1 + 2 was added."}, *messages[3:]],
    ],
)
def test_a_rewritten_history_is_another_conversation(begin, rewrite):
    async def play():
        episode, policy = begin(call_text("add", (1, 2)), call_text("add", (3, 4)), "Answer: 7")
        first = await ask(episode, USER)
        messages = [USER, echoed(first), result(first)]
        second = await ask(episode, *messages)
        last = await ask(episode, *rewrite(messages), echoed(second), result(second, "7"))
        assert last.message.text == "7"
        return episode, policy

    episode, policy = asyncio.run(play())
    whole, starts = as_it_was_sampled(episode, policy)
    assert len(starts) == 2
    again = [turn for turn in whole.turns if turn.start >= starts[1]]
    assert "history" in [turn.role for turn in again]
    assert [turn.role for turn in again].count("model") == 1


def test_a_turn_that_is_shown_again_keeps_its_ids(begin, prompt):
    async def play():
        # the spaces are the model's own: rendered from the message they would be lost
        episode, policy = begin("```tool_code\nadd( 1,  2 )\n```", "Answer: 3")
        first = await ask(episode, USER)
        await ask(episode, {"role": "user", "content": "Briefly: 1 + 2?"}, echoed(first), result(first))
        return episode, policy

    episode, policy = asyncio.run(play())
    whole, starts = as_it_was_sampled(episode, policy)
    (shown,) = [turn for turn in whole.turns if turn.role == "history"]
    assert whole.token_ids[shown.start : shown.end] == policy.given[0].token_ids


def test_another_list_of_tools_is_another_conversation_where_the_prompt_shows_it(begin, prompt):
    async def play():
        episode, policy = begin(call_text("add", (1, 2)), "Answer: 3")
        first = await ask(episode, USER)
        twice = json.loads(json.dumps(ADD).replace('"add"', '"plus"'))
        await ask(episode, USER, echoed(first), result(first), tools=[ADD, twice])
        return episode, policy

    episode, policy = asyncio.run(play())
    _, starts = as_it_was_sampled(episode, policy)
    assert len(starts) == (2 if prompt.describes_tools else 1)


def test_the_same_request_twice_gives_two_turns_that_begin_alike(begin):
    async def play():
        episode, policy = begin("Answer: 1", "Answer: 2", "Answer: 3")
        for _ in range(2):
            await ask(episode, USER)
        first, second = policy.asked
        assert first.prompt_ids == second.prompt_ids and first.seed != second.seed
        await ask(episode, USER, {"role": "assistant", "content": "1"}, {"role": "user", "content": "Sure?"})
        return episode, policy

    episode, policy = asyncio.run(play())
    whole, starts = as_it_was_sampled(episode, policy)
    assert len(starts) == 2  # the third goes on from the first answer


def test_conversations_side_by_side_do_not_mix(begin):
    async def play():
        episode, policy = begin("Answer: yes")
        questions = [{"role": "user", "content": f"Question {number}?"} for number in range(3)]
        answers = await asyncio.gather(*(ask(episode, question) for question in questions))
        again = [
            ask(episode, question, echoed(answer), {"role": "user", "content": "Sure?"})
            for question, answer in zip(questions, answers)
        ]
        await asyncio.gather(*again)
        return episode, policy

    episode, policy = asyncio.run(play())
    whole, starts = as_it_was_sampled(episode, policy)
    assert len(starts) == 3


def test_two_that_go_on_from_the_same_place_are_two(begin):
    async def play():
        episode, policy = begin("Answer: yes")
        first = await ask(episode, USER)
        words = [{"role": "user", "content": text} for text in ("Sure?", "Why?")]
        await asyncio.gather(*(ask(episode, USER, echoed(first), word) for word in words))
        return episode, policy

    episode, policy = asyncio.run(play())
    whole, starts = as_it_was_sampled(episode, policy)
    assert len(starts) == 2
    assert [turn.role for turn in whole.turns] == ["user", "model", "user", "model", "user", "history", "user", "model"]


def test_results_and_words_that_come_together_are_one_turn(begin, prompt):
    async def play():
        episode, policy = begin(call_text("add", (1, 2)), "Answer: 3")
        first = await ask(episode, USER)
        await ask(episode, USER, echoed(first), result(first), {"role": "user", "content": "Hurry."})
        return episode, policy

    episode, policy = asyncio.run(play())
    whole, _ = as_it_was_sampled(episode, policy)
    assert [turn.role for turn in whole.turns] == ["user", "model", "user", "model"]
    turn = whole.turns[2]
    assert whole.token_ids[turn.start : turn.end] == prompt.user_turn(result_text("3") + "\n\nHurry.")


def test_what_the_agent_wrote_for_the_model_is_not_trained_on(begin, prompt):
    async def play():
        episode, policy = begin("Answer: 5")
        call = {"id": "x", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}}
        shot = [USER, {"role": "assistant", "content": None, "tool_calls": [call]}, {"role": "tool", "tool_call_id": "x", "content": "3"},
                {"role": "assistant", "content": "3"}, {"role": "user", "content": "And 2 + 3?"}]  # fmt: skip
        await ask(episode, *shot)
        return episode, policy

    episode, policy = asyncio.run(play())
    whole, _ = as_it_was_sampled(episode, policy)
    assert [turn.role for turn in whole.turns] == ["user", "history", "tool", "history", "user", "model"]
    assert whole.turns[1].text == call_text("add", kwargs={"a": 1, "b": 2})
    assert whole.turns[2].tool == "add"


@pytest.mark.parametrize("added", ["Hurry.", None])
def test_a_request_that_led_nowhere_is_no_turn_of_the_model(begin, prompt, added):
    """It asks again with more words, or with an answer of its own instead of the model's."""

    async def play():
        episode, policy = begin(call_text("add", (1, 2)), "Answer: 4", "Answer: 3")
        first = await ask(episode, USER)
        messages = [USER, echoed(first), result(first)]
        await ask(episode, *messages)
        more = [{"role": "user", "content": added}] if added else [{"role": "assistant", "content": "It is 3."}, USER]
        await ask(episode, *messages, *more)
        return episode, policy

    episode, policy = asyncio.run(play())
    whole, starts = as_it_was_sampled(episode, policy)
    turns = [turn for turn in whole.turns if turn.start >= starts[1]]
    roles = [turn.role for turn in turns]
    assert roles == (
        ["user", "history", "user", "model"] if added else ["user", "history", "tool", "history", "user", "model"]
    )
    model = prompt.first_turn("")[-2:]  # <start_of_turn>model, and the line's end with what comes before it
    for turn in turns[1:]:
        if turn.role in ("history", "model"):
            assert whole.token_ids[turn.start - 2 : turn.start] == model
        else:
            assert whole.token_ids[turn.start - 1] == prompt.stop_token_ids[0]


def test_turns_of_the_model_in_a_row_are_one(begin, prompt):
    async def play():
        episode, policy = begin("Answer: 5")
        await ask(episode, USER, {"role": "assistant", "content": "Wait."}, {"role": "assistant", "content": "3"}, USER)
        return episode, policy

    episode, policy = asyncio.run(play())
    whole, _ = as_it_was_sampled(episode, policy)
    assert [turn.role for turn in whole.turns] == ["user", "history", "user", "model"]
    turn = whole.turns[1]
    assert whole.token_ids[turn.start : turn.end] == prompt.spoken("Wait.\n3")


@pytest.mark.parametrize(
    "said, complaint, tool",
    [
        ("```tool_code\nadd(1, \n```", "the call is not valid syntax", None),
        (call_text("multiply", (1, 2)), "error: there is no tool named multiply; there are: add", "multiply"),
        (call_text("add", (1,)), "error: missing a required argument: 'b'", "add"),
        (call_text("add", (1, "2")), "error: b must be of type int", "add"),
    ],
)
def test_a_mistake_is_told_to_the_model_and_not_to_the_agent(begin, prompt, said, complaint, tool):
    async def play():
        episode, policy = begin(said, "Answer: 3")
        answer = await ask(episode, USER)
        assert answer.message.text == "3" and not answer.message.calls
        assert answer.completion_tokens == sum(len(given.token_ids) for given in policy.given)
        return episode, policy

    episode, policy = asyncio.run(play())
    whole, _ = as_it_was_sampled(episode, policy)
    assert [turn.role for turn in whole.turns] == ["user", "model", "tool", "model"]
    assert (whole.turns[2].error, whole.turns[2].tool) == (complaint, tool)
    assert policy.asked[0].seed != policy.asked[1].seed


def test_mistakes_up_to_the_limit_are_kept(begin):
    async def play():
        episode, policy = begin("```tool_code\nadd(1\n```", max_turns=2)
        with pytest.raises(Refused, match="^agent.max_turns = 2"):
            await ask(episode, USER)
        assert episode.limit == "malformed"
        return episode, policy

    episode, policy = asyncio.run(play())
    whole, _ = as_it_was_sampled(episode, policy)
    assert [turn.role for turn in whole.turns] == ["user", "model", "tool", "model", "tool"]


def test_words_without_a_call_are_an_answer_as_they_stand(begin):
    async def play():
        episode, _ = begin("Let me see: ```python\n1 + 2\n```")
        assert (await ask(episode, USER)).message.text == "Let me see: ```python\n1 + 2\n```"
        episode, _ = begin("Answer: 3")
        assert (await ask(episode, USER, tools=())).message.text == "Answer: 3"

    asyncio.run(play())


def test_a_call_that_must_be_is_asked_for(begin):
    final = {
        "type": "function",
        "function": {
            "name": "final_answer",
            "parameters": {"type": "object", "properties": {"answer": {}}, "required": ["answer"]},
        },
    }

    async def play():
        episode, policy = begin("Well.", call_text("add", (1, 2)))
        answer = await ask(episode, USER, tool_choice="required")
        assert answer.finish_reason == "tool_calls" and len(policy.asked) == 2
        named = {"type": "function", "function": {"name": "add"}}
        episode, policy = begin("Answer: 3", call_text("add", (1, 2)))
        assert (await ask(episode, USER, tool_choice=named)).message.calls[0].name == "add"
        episode, policy = begin(call_text("add", (1, 2)), "Answer: 3")
        assert (await ask(episode, USER, tool_choice="none")).message.text == "3"
        episode, policy = begin("Answer: 3")
        answer = await ask(episode, USER, tools=[ADD, final], tool_choice="required")
        assert json.loads(answer.message.calls[0].arguments) == {"answer": "3"} and len(policy.asked) == 1

    asyncio.run(play())


def test_the_limits_are_the_campaigns(begin, prompt):
    async def play():
        episode, policy = begin("Answer: 1", max_turns=1)
        await ask(episode, USER)
        for count in range(1, 9):
            with pytest.raises(Refused, match="^agent.max_turns = 1") as refused:
                await ask(episode, USER, {"role": "assistant", "content": "1"}, USER)
            assert refused.value.code == "turn_limit" and episode.over.done() == (count == 8)
        assert episode.limit == "turn_limit"

        episode, policy = begin("Answer: 1", max_tokens=10)
        with pytest.raises(Refused, match="^agent.max_tokens = 10") as refused:
            await ask(episode, {"role": "user", "content": "long " * 50})
        assert refused.value.code == "context_length_exceeded" and not policy.asked

        episode, policy = begin("One and two make three.", "Answer: 3", max_turn_tokens=5)
        cut = await ask(episode, USER)
        assert (cut.finish_reason, cut.completion_tokens, episode.limit) == ("length", 5, "token_limit")
        assert (await ask(episode, USER, echoed(cut), {"role": "user", "content": "Go on."})).prompt_tokens > 5
        whole, starts = as_it_was_sampled(episode, policy)
        assert len(starts) == 1 and whole.token_ids[whole.turns[2].start] == prompt.stop_token_ids[0]

        episode, policy = begin("One and two make three.")
        short = await ask(episode, USER, max_completion_tokens=3)
        assert (short.finish_reason, short.completion_tokens, episode.limit) == ("length", 3, None)

    asyncio.run(play())


def test_a_stop_text_ends_the_turn_as_if_the_model_had_been_stopped_there(begin, prompt):
    async def play():
        episode, policy = begin("One. Observation: two. Three.")
        answer = await ask(episode, USER, stop=["Observation:"], tools=())
        assert (answer.message.text, answer.finish_reason) == ("One.", "stop")
        whole, _ = episode.conversations.joined()
        turn = whole.turns[-1]
        sampled = policy.given[0].token_ids
        assert whole.token_ids[turn.start : turn.end] == sampled[: turn.end - turn.start] and all(
            whole.mask[turn.start :]
        )
        assert "Observation:" in prompt.decode(sampled[: turn.end - turn.start])
        assert "Observation:" not in prompt.decode(sampled[: turn.end - turn.start - 1])

    asyncio.run(play())


def test_an_answer_that_nobody_heard_is_not_trained_on(begin):
    async def play():
        episode, policy = begin("Answer: 1", "Answer: 2")
        episode.not_heard(await ask(episode, USER))
        await ask(episode, USER)
        whole, starts = episode.conversations.joined()
        assert len(starts) == 2
        assert sum(whole.mask) == len(policy.given[1].token_ids) and whole.mask.index(True) > starts[1]

    asyncio.run(play())
