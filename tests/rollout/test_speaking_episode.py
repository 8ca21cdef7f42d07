"""Episodes in worlds that speak, through real worlds: what is put to whom, how they end, and what is stored of it."""

import asyncio
import dataclasses
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from agentloop import environments
from agentloop import settings as configuration
from agentloop.naming import content_id
from agentloop.records import Sampling, Turn
from agentloop.rollout.collection import plan, run_shard
from agentloop.rollout.episode import run_episode
from agentloop.rollout.grammar import answer_text, call_text
from agentloop.rollout.prompt import MAX_RESULT_CHARACTERS, PromptFormat, described
from agentloop.store.shards import read_shard, write_shard
from agentloop.teaching.script import Script, ScriptedPolicy, by_session
from agentloop.worlds.pool import Worlds
from agentloop.worlds.stage import WorldDescription
from agentloop.worlds.toolbox import ToolDescription

FILE = str(Path(__file__).parents[1] / "worlds" / "tasks_that_speak.py")
TOOL = ToolDescription("calculate", "(expression: str) -> str", "Evaluates.")


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    settings = configuration.load(
        [f"paths.data={tmp_path_factory.mktemp('speaking')}", "collect.attempts=1", "collect.max_failed=9"],
        profile="demo",
    )
    settings.export()
    return settings


@pytest.fixture(scope="module")
def worlds(settings):
    with Worlds(settings, [FILE, "arithmetic"]) as worlds:
        yield worlds


@pytest.fixture(scope="module")
def tokenizer(settings):
    return AutoTokenizer.from_pretrained(settings.model_directory())


@pytest.fixture
def play(worlds, tokenizer):
    """`play(*turns, **payload)` is the trajectory of an episode in which the model says these turns."""

    def one(*turns, describe_tools=False, limits=(), **payload):
        prompt = PromptFormat(tokenizer, describe_tools)
        task = environments.get(FILE).tasks("train", 1, 0)[0]
        task = dataclasses.replace(task, payload=payload)
        policy = ScriptedPolicy(by_session([Script(task, turns)], policy="p", seed=0), prompt)
        sampling = Sampling(**{"max_turn_tokens": 400, "max_tokens": 30_000, "max_turns": len(turns)} | dict(limits))

        async def episode():
            async with worlds.open(task, session="s") as world:
                return await run_episode(
                    task, 0, policy="p", generate=policy, prompt=prompt, world=world, sampling=sampling, seed=0
                )

        played = asyncio.run(episode())
        assert [turn.start for turn in played.turns] == [0, *(turn.end for turn in played.turns[:-1])]
        assert played.turns[-1].end == len(played.token_ids) == len(played.mask) == len(played.logprobs)
        return played

    return one


def told(played):
    return [(turn.role, turn.text, turn.reward) for turn in played.turns[1:]]


def test_a_turn_is_answered_by_a_plain_user_turn(play, tokenizer):
    played = play("one", "reward")
    assert (played.status, played.answer, played.outcome) == ("turn_limit", None, {"turns": ["one", "reward"]})
    assert told(played) == [
        ("model", "one", None),
        ("user", "1 turns", None),
        ("model", "reward", 0.25),
        ("user", "warm", None),
    ]
    rendered = tokenizer.apply_chat_template(
        [
            {"role": "user", "content": played.task.question},
            {"role": "model", "content": "one"},
            {"role": "user", "content": "1 turns"},
            {"role": "model", "content": "reward"},
            {"role": "user", "content": "warm"},
        ],
        tokenize=False,
        add_generation_prompt=True,
    )
    assert tokenizer.decode(list(played.token_ids)) == rendered


def test_the_world_ends_the_episode_and_its_last_word_is_stored_without_tokens(play):
    played = play("one", "over", "never said")
    assert (played.status, played.answer, played.outcome) == ("ended", None, {"turns": ["one", "over"]})
    assert told(played)[-2:] == [("model", "over", 1.0), ("user", "it is over", None)]
    assert played.turns[-1].start == played.turns[-1].end == len(played.token_ids) and played.mask[-1]


def test_a_world_with_nothing_to_say_ends_the_episode_without_a_word(play):
    played = play("one", "nothing", "never said")
    assert (played.status, played.turns[-1].text) == ("ended", "nothing")


def test_an_answer_is_the_last_turn_that_the_world_is_told_of(play):
    played = play("reward", answer_text("over"))
    assert (played.status, played.answer) == ("answered", "over")
    assert played.outcome == {"turns": ["reward", "Answer: over"]}
    assert told(played)[-2:] == [("model", "Answer: over", None), ("user", "2 turns", None)]
    assert played.turns[-1].start == played.turns[-1].end


def test_where_there_is_no_answer_it_is_a_turn_like_any_other(play):
    played = play(answer_text("5"), "over", answers=False)
    assert (played.status, played.answer) == ("ended", None)
    assert played.outcome == {"turns": ["Answer: 5", "over"]}


def test_calls_and_turns_side_by_side(play):
    broken = "```tool_code\npush(\n```"
    played = play("one", call_text("push"), broken, "```python\n1\n```", call_text("win"), tools=True)
    assert played.outcome == {"turns": ["one", "```python\n1\n```"]}
    assert played.status == "ended"
    assert [(turn.role, turn.text, turn.tool, turn.error) for turn in played.turns if turn.role != "model"][1:] == [
        ("user", "1 turns", None, None),
        ("tool", "pushed after 1 turns", "push", None),
        ("tool", "the call is not valid syntax", None, "the call is not valid syntax"),
        ("user", "2 turns", None, None),
        ("tool", "won", "win", None),
    ]
    assert played.turns[-2].reward == 2.0


def test_without_tools_the_fence_of_a_call_is_text(play):
    played = play(call_text("push"), "```tool_code\npush(\n```")
    assert len(played.outcome["turns"]) == 2 and not [turn for turn in played.turns if turn.role == "tool"]


def test_an_outcome_is_asked_for_however_the_episode_ends(play):
    cut = play("one", "two " * 300, limits={"max_turn_tokens": 50})
    assert (cut.status, cut.outcome) == ("token_limit", {"turns": ["one"]})


def test_long_observations_are_cut_visibly(play, tokenizer):
    played = play("long")
    shown = tokenizer.decode(list(played.token_ids[played.turns[-1].start :]), skip_special_tokens=True)
    assert f"{'x' * MAX_RESULT_CHARACTERS}\n[{30_000 - MAX_RESULT_CHARACTERS} characters left out]" in shown
    assert played.turns[-1].text.endswith("\n[10000 characters left out]")


def test_the_prompt_says_what_the_world_is(play):
    def opening(played):
        return played.turns[0]

    bare = play("one", instructions="Play.")
    assert opening(bare).end == opening(play("one")).end, "a model that was taught needs no instructions"
    text = described("Q", WorldDescription((TOOL,), speaks=True))
    assert "Any other turn of yours is answered, until the task is over." in text and text.count("Answer: ") == 1
    own = described("Q", WorldDescription(speaks=True, answers=False, instructions="You play a game."))
    assert own == "You play a game.\n\nQ"
    game = described("Q", WorldDescription((TOOL,), answers=False, instructions="Play."))
    assert game.startswith("Play.\n\nThese tools are there:\n\ncalculate(") and "Answer: " not in game
    played = play("one", describe_tools=True, instructions="You play a game.", answers=False)
    assert played.turns[0].end > opening(bare).end


def test_a_game_without_answers_asks_for_a_call():
    from agentloop.rollout.episode import read

    world = WorldDescription((TOOL,), answers=False)
    assert str(read("Answer: 5", world)) == str(read("hm", world)) == "end your turn with a call"
    assert str(read("```tool_code\nx(\n```", world)) == "the call is not valid syntax"


def test_the_prompt_of_tools_alone_is_what_it_was():
    """Its text names policies: this hash is that of version 1."""
    assert content_id("text", described("How much?", WorldDescription((TOOL,)))) == "text_c90c8335c53a580d"


def test_an_episode_of_tools_alone_asks_its_world_for_nothing_else(worlds, tokenizer):
    prompt = PromptFormat(tokenizer, describe_tools=False)
    arithmetic = environments.get("arithmetic")
    [task] = arithmetic.tasks("train", 1, 0)
    policy = ScriptedPolicy(by_session([Script(task, (answer_text("1"),))], policy="p", seed=0), prompt)
    asked = []

    async def episode():
        async with worlds.open(task, session="s") as world:
            ask = world._ask

            async def noted(request, who):
                asked.append(request["do"])
                return await ask(request, who)

            world._ask = noted
            return await run_episode(
                task, 0, policy="p", generate=policy, prompt=prompt, world=world, sampling=Sampling(), seed=0
            )

    played = asyncio.run(episode())
    assert (played.status, played.outcome, asked) == ("answered", None, [])


def test_an_attempt_that_its_world_failed_is_no_result(worlds, tokenizer, settings, tmp_path):
    prompt = PromptFormat(tokenizer, describe_tools=False)
    tasks = environments.get(FILE).tasks("train", 3, 0)
    sampling = Sampling(max_turn_tokens=400, max_tokens=3000)
    [shard] = plan(tasks, 1, policy="p", sampling=sampling, seed=0, shard_episodes=3)
    scripts = [
        Script(task, turns) for task, turns in zip(tasks, (("one", "over"), ("fail",), ("nothing",)), strict=True)
    ]
    played = asyncio.run(
        run_shard(
            shard,
            policy=ScriptedPolicy(by_session(scripts, policy="p", seed=0), prompt),
            prompt=prompt,
            open_world=worlds.open,
            limits=settings.collect,
        )
    )
    assert [each.status for each in played] == ["ended", "failed", "ended"]
    assert [attempt.error for attempt in played[1].attempts] == ["environment speaking: observe(): KeyError: 'x'"]
    write_shard(tmp_path / "a.parquet", played, purpose="collect", campaign="c", iteration=1)
    assert read_shard(tmp_path / "a.parquet") == [
        dataclasses.replace(each, logprobs=tuple(each.logprobs)) for each in played
    ]
    assert played[0].turns[3] == Turn("model", "over", played[0].turns[3].start, played[0].turns[3].end, reward=1.0)
