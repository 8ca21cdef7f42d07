"""A session in its world: it speaks and has an outcome, and whatever else it does ends one attempt, in one line."""

import asyncio
import dataclasses
from pathlib import Path

import pytest

from agentloop import environments
from agentloop import settings as configuration
from agentloop.environments.check import check_tools, check_verifier
from agentloop.errors import SettingError, WorldError
from agentloop.worlds.local import LocalWorld
from agentloop.worlds.pool import Worlds
from agentloop.worlds.stage import WorldDescription
from agentloop.worlds.toolbox import MAX_CHARACTERS, Reply, ToolFault

FILE = str(Path(__file__).with_name("tasks_that_speak.py"))
SECONDS = 2.0


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    settings = configuration.load(
        [f"paths.data={tmp_path_factory.mktemp('sessions')}", f"collect.tool_seconds={SECONDS}"], profile="demo"
    )
    settings.export()
    with Worlds(settings, [FILE, "arithmetic"]) as worlds:
        yield worlds


@pytest.fixture(scope="module")
def task(worlds):
    return environments.get(FILE).tasks("train", 1, 0)[0]


def in_world(worlds, task, play, **payload):
    async def episode():
        async with worlds.open(dataclasses.replace(task, payload=payload), session="s") as world:
            return await play(world)

    return asyncio.run(episode())


def says(*turns):
    async def play(world):
        return [await world.observe(turn) for turn in turns]

    return play


async def outcome(world):
    return await world.outcome()


def test_it_is_told_of_turns_and_keeps_what_it_knows_for_its_outcome(worlds, task):
    async def play(world):
        assert not world.plain
        about = await world.describe()
        replies = [await world.observe(turn) for turn in ("one", "text", "reward", "over")]
        called = await world.call("push", (), {})
        won = await world.call("win", (), {})
        return about, replies, called, won, await world.outcome()

    about, replies, called, won, known = in_world(worlds, task, play, tools=True, answers=False, instructions="Play.")
    assert dataclasses.replace(about, tools=()) == WorldDescription(
        speaks=True, has_outcome=True, answers=False, instructions="Play."
    )
    assert [tool.name for tool in about.tools] == ["push", "win"]
    assert replies == [
        Reply("1 turns"),
        Reply("more"),
        Reply("warm", reward=0.25),
        Reply("it is over", reward=1.0, done=True),
    ]
    assert (called, won) == (Reply("pushed after 4 turns"), Reply("won", reward=2.0, done=True))
    assert known == {"turns": ["one", "text", "reward", "over"]}


def test_each_episode_has_a_session_of_its_own_and_chance_of_its_own(worlds, task):
    for _ in range(2):
        assert in_world(worlds, task, says("one")) == [Reply("1 turns")]


def test_nothing_to_say_is_no_reply_and_texts_are_bounded(worlds, task):
    nothing, long, half = in_world(worlds, task, says("nothing", "long", "half"))
    assert nothing is None
    assert (len(long.text), long.omitted) == (MAX_CHARACTERS, 30_000 - MAX_CHARACTERS)
    assert half.text.startswith("\N{REPLACEMENT CHARACTER}\n[1 characters that cannot be encoded are replaced]")


@pytest.mark.parametrize(
    ("turn", "fault"),
    [
        ("fail", "observe(): KeyError: 'x'"),
        ("exit", "observe(): SystemExit: 3"),
        ("number", "observe() returns int, not a text, an Observation or None"),
        ("no text", "observe() says 7, which is no text"),
        ("no reward", "observe(): the reward much is no finite number"),
        ("endless", "observe(): the reward nan is no finite number"),
        ("die", "observe(): its process ended with exit code 4"),
        ("hang", f"observe(): no answer within collect.tool_seconds = {SECONDS:g}"),
    ],
)
def test_a_session_that_fails_ends_the_attempt_in_one_line_that_names_its_environment(worlds, task, turn, fault):
    with pytest.raises(WorldError) as raised:
        in_world(worlds, task, says("one", turn))
    assert str(raised.value) == f"environment speaking: {fault}"
    assert in_world(worlds, task, says("one")) == [Reply("1 turns")]


@pytest.mark.parametrize(
    ("what", "fault"),
    [
        ("set", "outcome() returns what is not JSON: Object of type set is not JSON serializable"),
        ("nan", "outcome() returns what is not JSON: Out of range float values are not JSON compliant"),
        ("huge", "outcome() returns 30,002 characters of JSON, more than 20,000"),
        ("fail", "outcome(): LookupError: no outcome"),
        ("hang", f"outcome(): no answer within collect.tool_seconds = {SECONDS:g}"),
    ],
)
def test_an_outcome_that_cannot_be_stored_is_a_fault_of_the_environment(worlds, task, what, fault):
    with pytest.raises(WorldError) as raised:
        in_world(worlds, task, outcome, outcome=what)
    assert str(raised.value).startswith(f"environment speaking: {fault}")


def test_an_outcome_is_json_as_it_will_be_read(worlds, task):
    assert in_world(worlds, task, outcome, outcome="tuple") == {"moves": [1, 2], "half": "\N{REPLACEMENT CHARACTER}"}
    assert in_world(worlds, task, outcome, outcome="none") is None


def test_a_session_is_closed_after_its_episode_and_not_before(worlds, task, tmp_path):
    file = tmp_path / "closed"

    async def play(world):
        await world.observe("one")
        assert not file.exists()

    in_world(worlds, task, play, close=str(file))
    worlds.close()  # waits for what is being closed
    assert file.read_text() == "1"


@pytest.mark.parametrize(
    ("what", "fault"),
    [
        ("fail", "environment speaking: open(): LookupError: no such world"),
        ("none", "environment speaking: open() returns dict, not a Session"),
    ],
)
def test_a_session_that_does_not_open(worlds, task, what, fault):
    with pytest.raises(WorldError, match=f"^{fault.replace('(', '[(]').replace(')', '[)]')}$"):
        in_world(worlds, task, says("one"), open=what)


def test_tools_alone_are_plain_and_need_no_process_until_one_is_called(worlds):
    arithmetic = environments.get("arithmetic")
    [task] = arithmetic.tasks("train", 1, 0)

    async def play(world):
        assert world.plain and world._process is None
        about = await world.describe()
        assert (about.speaks, about.has_outcome, about.answers, about.instructions) == (False, False, True, None)
        assert await world.observe("?") is None and await world.outcome() is None
        return await world.call("calculate", ("1+2",), {})

    async def episode():
        async with worlds.open(task, session="s") as world:
            return await play(world)

    assert asyncio.run(episode()) == Reply("3")


def test_a_world_in_this_process_does_the_same(task):
    world = LocalWorld(environments.get(FILE), task)

    async def play():
        assert not world.plain
        return [await world.observe("reward"), await world.outcome()]

    assert asyncio.run(play()) == [Reply("warm", reward=0.25), {"turns": ["reward"]}]
    with pytest.raises(ToolFault, match="^environment speaking: observe"):
        asyncio.run(world.observe("fail"))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ("Own.open = lambda self, task: 5", "open() returns int, not a Session"),
        ("Own.open = lambda self, task: {}['x']", "open() for 'What is"),
        ("Game.tools = [1]", "the tools of its session are list, not a mapping"),
        ("Game.outcome = lambda self: {1}", "outcome(): TypeError: Object of type set is not JSON serializable"),
        ("Own.score = lambda self, *all: 1.0", "score(): says 1.0 of"),
        ("Own.score = lambda self, *all: {'fun': 1}", "score(): gives "),
        ("Own.score = lambda self, *all: {'success': 2}", "score(): says 2 of "),
        ("Own.score = lambda self, *all: {'success': 1, 'a b': 1}", "score(): 'a b' is no name of a score"),
        ("Own.score = lambda self, task, answer, outcome: outcome['x']", "score(): KeyError: 'x'"),
        ("del Own.open", "Own lacks tools"),
        ("del Own.score", "Own lacks verify"),
    ],
)
def test_a_file_whose_sessions_cannot_be_used_is_refused_before_anything_is_run(tmp_path, changed, message):
    file = tmp_path / "own.py"
    file.write_text(
        "from agentloop.environments import Environment, Question, Session\n"
        "class Game(Session):\n"
        "    def observe(self, turn): return turn\n"
        "    def outcome(self): return {}\n"
        "class Own(Environment):\n"
        "    name = 'own'\n"
        "    def questions(self, rng):\n"
        "        for number in range(99): yield Question('all', f'What is {number}?', '1', {})\n"
        "    def open(self, task): return Game()\n"
        "    def score(self, task, answer, outcome): return {'success': 0}\n" + changed + "\n",
        encoding="utf-8",
    )
    with pytest.raises(SettingError) as raised:
        environments.get(str(file))
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_a_file_with_sessions_is_accepted():
    environment = environments.get(FILE)
    check_tools(environment, seed=0)
    check_verifier(environment, seed=0)
