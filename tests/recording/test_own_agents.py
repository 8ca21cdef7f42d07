"""Agents of one's own, each in a process of its own: what they print is the answer, and whatever they do ends with them."""

import asyncio
from pathlib import Path

import psutil
import pytest
from scripted_policy import Scripted

from agentloop import environments
from agentloop import settings as configuration
from agentloop.campaign import own_agent
from agentloop.cli import doctor
from agentloop.errors import FailureBudgetError, SettingError
from agentloop.recording.command import AgentCommand
from agentloop.recording.recorder import Recorder, processes
from agentloop.records import Sampling
from agentloop.rollout.collection import plan, run_shard

AGENTS = Path(__file__).with_name("agents")


class Policy(Scripted):
    async def ready(self):
        pass

    async def lost(self):
        return None


@pytest.fixture(scope="module")
def tasks():
    return environments.get("arithmetic").tasks("train", 3, 0)


@pytest.fixture
def play(tmp_path, bare, tasks, monkeypatch):
    """Plays one episode of each task: (trajectories, policy)."""
    for name in ("PREFECT_API_KEY", "VLLM_API_KEY", "NOTIFY_WEBHOOK"):
        monkeypatch.setenv(name, "secret")

    def played(command, *texts, count=1, sampling=None, **limits):
        options = [
            f"collect.{name}={value}"
            for name, value in {"attempts": 1, "max_failed": 0, "episode_seconds": 60, **limits}.items()
        ]
        settings = configuration.load([f"paths.data={tmp_path}", f"agent.command={command}", *options], profile="demo")
        settings.export()
        sampling = sampling or Sampling(max_turns=3, max_turn_tokens=60, max_tokens=400)
        [shard] = plan(tasks[:count], 1, policy="policy_x", sampling=sampling, seed=0, shard_episodes=10)
        policy = Policy(bare, *texts)

        async def shard_played():
            async with Recorder(agents) as recorder:
                return await run_shard(
                    shard,
                    policy=policy,
                    prompt=bare,
                    open_world=recorder.open,
                    play=recorder.play,
                    limits=settings.collect,
                )

        with processes(settings) as agents:
            return asyncio.run(shard_played()), policy

    return played


def function(name):
    return f"{AGENTS / 'functions.py'}:{name}"


@pytest.mark.parametrize("command", [function("plain"), function("later"), f"sh {AGENTS / 'agent.sh'}"])
def test_what_an_agent_says_is_the_answer_and_what_the_model_said_is_recorded(play, tasks, command):
    [trajectory], policy = play(command, "So it is\nAnswer: 42")
    assert (trajectory.status, trajectory.answer) == ("answered", "42")
    assert trajectory.token_ids == (*policy.asked[0].prompt_ids, *policy.given[0].token_ids)
    assert trajectory.logprobs[-len(policy.given[0].token_ids) :] == tuple(policy.given[0].logprobs)
    assert [turn.role for turn in trajectory.turns] == ["user", "model"] and trajectory.turns[0].text == tasks[
        0
    ].question
    assert trajectory.starts == (0,) and not trajectory.attempts


def test_an_agent_finds_its_endpoint_in_its_variables_and_no_secret_of_the_run(play):
    [trajectory], _ = play(function("by_variables"), "yes")
    assert trajectory.answer == "yes![]"


def test_every_episode_has_a_process_of_its_own(play):
    trajectories, _ = play(function("fresh"), "yes", count=3)
    assert [trajectory.answer for trajectory in trajectories] == ["1", "1", "1"]


def test_an_episode_repeats(play):
    [[first], one], [[second], other] = (play(function("plain"), "Answer: 42") for _ in range(2))
    assert [asked.seed for asked in one.asked] == [asked.seed for asked in other.asked]
    assert (first.id, first.token_ids, first.turns) == (second.id, second.token_ids, second.turns)


@pytest.mark.parametrize(
    "command, complaint",
    [
        (function("silent"), "agent.command: the agent ended without having asked the model"),
        (function("failing"), "agent.command: agent: KeyError: 'lost'"),
        (function("refused"), "agent.command: agent: HTTPError: HTTP Error 400: Bad Request; the endpoint had refused: n is not supported"),
        (f"sh {AGENTS / 'agent.sh'} fail", "agent.command: agent: AgentFault: it ended with exit code 3: no luck"),
    ],
)  # fmt: skip
def test_an_agent_that_fails_is_a_failed_attempt(play, command, complaint):
    with pytest.raises(FailureBudgetError) as raised:
        play(command, "yes")
    assert complaint in str(raised.value)


def test_an_agent_that_met_a_limit_is_a_result(play):
    for name in ("insisting", "giving_up"):
        [trajectory], policy = play(
            function(name), "yes", sampling=Sampling(max_turns=2, max_turn_tokens=60, max_tokens=400)
        )
        assert (trajectory.status, trajectory.answer, len(policy.given)) == ("turn_limit", None, 2)
    [trajectory], _ = play(function("quiet"), "yes")
    assert (trajectory.status, trajectory.answer) == ("malformed", None)


def gone(word):
    return not [each for each in psutil.process_iter(["cmdline"]) if word in (each.info["cmdline"] or [])]


def test_an_agent_that_takes_too_long_is_killed_with_what_it_started(play):
    with pytest.raises(FailureBudgetError, match="the episode took longer than collect.episode_seconds = 2"):
        play(function("hanging"), "yes", episode_seconds=2)
    assert gone("31415")


def test_what_a_command_leaves_behind_ends_with_its_episode(play):
    [trajectory], _ = play(f"sh {AGENTS / 'agent.sh'} leave", "yes")
    assert trajectory.answer == "yes" and gone("27182")


@pytest.mark.parametrize(
    "command, complaint",
    [
        ("no-such-program --x", "agent.command: there is no program 'no-such-program', or it may not be run"),
        (f"{AGENTS / 'agent.sh'}", f"agent.command: there is no program '{AGENTS / 'agent.sh'}', or it may not be run"),
        ("'open", 'agent.command: "\'open" is no command line (No closing quotation)'),
        ("no/such.py:run", "agent.command: there is no file "),
        (function("not_there"), f"agent.command: {AGENTS / 'functions.py'} has no function not_there"),
        (function("not_callable"), f"agent.command: {AGENTS / 'functions.py'} has no function not_callable"),
        (
            function("wrong_arguments"),
            f"agent.command: {AGENTS / 'functions.py'}: wrong_arguments must take (question, *, base_url",
        ),
    ],
)
def test_an_agent_that_cannot_be_started_is_refused_in_one_line(command, complaint):
    with pytest.raises(SettingError) as raised:
        AgentCommand.read(command).check()
    assert str(raised.value).startswith(complaint) and "\n" not in str(raised.value)


def test_what_an_agent_consists_of_names_it(tmp_path):
    file, beside, other = (tmp_path / name for name in ("agent.py", "beside.py", "other.py"))
    for each in (file, beside, other):
        each.write_text("import beside\n", encoding="utf-8")
    commands = [f"{file}:run", f"python {file}", f"python {file} --deep"]
    names = [AgentCommand.read(each).name for each in commands]
    assert len({*names}) == 3
    other.write_text("import beside  # not the agent's\n", encoding="utf-8")
    assert [AgentCommand.read(each).name for each in commands] == names
    beside.write_text("x = 1\n", encoding="utf-8")
    assert not {AgentCommand.read(each).name for each in commands} & {*names}


def test_doctor_tells_of_an_agent_that_cannot_be_started(tmp_path):
    for command, ok in ((function("plain"), True), ("no-such-program", False)):
        [check] = doctor._agent(configuration.load([f"agent.command={command}"], profile="demo"))
        assert check.ok is ok and (check.found == command) is ok
    assert doctor._agent(configuration.load(profile="demo")) == []


def test_a_world_that_speaks_has_no_part_in_it(tmp_path):
    file = tmp_path / "game.py"
    file.write_text(
        "from agentloop.environments import Environment, Question, Session\n"
        "class Game(Environment):\n    name = 'game'\n"
        "    def questions(self, rng):\n        yield from (Question('all', str(n), str(n), {}) for n in range(50))\n"
        "    def open(self, task):\n        return Session({})\n"
        "    def verify(self, task, answer):\n        return 0.0\n",
        encoding="utf-8",
    )
    settings = configuration.load([f"environment={file}", f"agent.command={function('plain')}"], profile="demo")
    with pytest.raises(SettingError, match="^agent.command: the environment .* opens a session of its own"):
        own_agent.check(settings)
