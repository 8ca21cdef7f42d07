"""Attempts, failures and their budget: real worlds, and a policy that says what the test wants it to say."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from agentloop import environments
from agentloop import settings as configuration
from agentloop.errors import FailureBudgetError, ServerError, told
from agentloop.records import Sampling
from agentloop.rollout.collection import plan, run_shard
from agentloop.rollout.prompt import PromptFormat
from agentloop.worlds.pool import Worlds

FILE = str(Path(__file__).parents[1] / "worlds" / "tasks_that_fail.py")
EPISODES = 20


@dataclass
class Said:
    token_ids: list[int]
    logprobs: list[float]
    finish_reason: str = "stop"


@dataclass
class Scripted:
    """Calls `first`, then answers. `by_task`: another first call for some episodes, by their place in the shard."""

    encode: object
    stop: int
    first: str = "count()"
    by_task: dict[int, str] = field(default_factory=dict)
    refusals: int = 0
    """Requests that still fail because the server is gone."""
    restarts: int = 0
    gone: str | None = None
    places: dict[str, int] = field(default_factory=dict)

    async def __call__(self, prompt_ids, *, max_tokens, seed, session):
        if self.refusals:
            self.refusals -= 1
            self.gone = "vLLM ended with exit code -9"
            raise ServerError("connection refused")
        place = self.places.setdefault(session, len(self.places))
        called = b"```tool_output" in bytes(self.text(prompt_ids), "utf-8")
        call = self.by_task.get(place, self.first)
        text = "Answer: done" if called else f"```tool_code\n{call}\n```"
        ids = [*self.encode(text, add_special_tokens=False, split_special_tokens=True), self.stop]
        return Said(ids, [-1.0] * len(ids))

    def text(self, ids):
        return self.decode(ids)

    async def ready(self):
        if self.gone:
            self.gone, self.restarts = None, self.restarts + 1

    async def lost(self):
        return self.gone


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    root = tmp_path_factory.mktemp("collection")
    return configuration.load([f"paths.data={root}", "collect.tool_seconds=60", "collect.attempts=2"], profile="demo")


@pytest.fixture(scope="module")
def worlds(settings):
    settings.export()
    with Worlds(settings, [FILE]) as worlds:
        yield worlds


@pytest.fixture
def collect(settings, worlds):
    tokenizer = AutoTokenizer.from_pretrained(settings.model_directory())
    prompt = PromptFormat(tokenizer, describe_tools=False)

    def run(*, limits=(), **script):
        policy = Scripted(tokenizer.encode, prompt.stop_token_ids[0], **script)
        policy.decode = prompt.decode
        tasks = environments.get(FILE).tasks("train", EPISODES, 0)
        sampling = Sampling(max_turn_tokens=200, max_tokens=2000)
        [shard] = plan(tasks, 1, policy="scripted", sampling=sampling, seed=0, shard_episodes=EPISODES)
        chosen = settings.collect.model_copy(update=dict(limits))
        trajectories = asyncio.run(
            run_shard(shard, policy=policy, prompt=prompt, open_world=worlds.open, limits=chosen)
        )
        assert [each.id for each in trajectories] == list(shard.trajectories)
        return trajectories, policy

    return run


def test_undisturbed(collect):
    trajectories, _ = collect()
    assert {(each.status, each.answer, each.attempts) for each in trajectories} == {("answered", "done", ())}
    assert {turn.text for each in trajectories for turn in each.turns if turn.role == "tool"} == {"1"}


def test_an_episode_that_keeps_failing_is_recorded_and_the_others_are_not_touched(collect):
    trajectories, _ = collect(by_task={3: "fail('key')"})
    [failed] = [each for each in trajectories if each.status == "failed"]
    assert [attempt.error for attempt in failed.attempts] == ["tool fail: KeyError: 'missing'"] * 2
    assert (failed.answer, failed.token_ids, failed.turns) == (None, (), ())
    assert sum(each.status == "answered" and not each.attempts for each in trajectories) == EPISODES - 1


@pytest.mark.parametrize(
    "limit, failing, stops",
    [(0.05, 1, False), (0.05, 2, True), (0.2, 4, False), (0.2, 5, True), (3, 3, False), (3, 4, True), (0, 1, True)],
)
def test_the_budget_is_a_share_or_a_number(collect, limit, failing, stops):
    script = {"by_task": dict.fromkeys(range(failing), "die(3)"), "limits": {"max_failed": limit, "attempts": 1}}
    if not stops:
        trajectories, _ = collect(**script)
        assert sum(each.status == "failed" for each in trajectories) == failing
        return
    summary = (
        f"^collect.max_failed: {failing} of {EPISODES} episodes failed, more than {limit:g} allows: "
        f"{failing} × tool die: its process ended with exit code 3$"
    )
    with pytest.raises(FailureBudgetError, match=summary):
        collect(**script)


def test_the_summary_names_the_most_frequent_causes(collect):
    calls = {0: "fail('key')", 1: "fail('key')", 2: "die(3)", 3: "fail('exit')"}
    with pytest.raises(FailureBudgetError) as raised:
        collect(by_task=calls, limits={"max_failed": 3, "attempts": 1, "concurrency": 1})
    assert str(raised.value).endswith(
        "4 of 20 episodes failed, more than 3 allows: 2 × tool fail: KeyError: 'missing'; "
        "1 × tool die: its process ended with exit code 3; 1 × tool fail: SystemExit: 3"
    )


def test_attempts_that_a_lost_server_ended_do_not_count_but_are_kept(collect):
    trajectories, policy = collect(refusals=3 * EPISODES, limits={"attempts": 1, "max_failed": 0})
    assert {each.status for each in trajectories} == {"answered"} and policy.restarts
    attempts = [attempt.error for each in trajectories for attempt in each.attempts]
    assert attempts == ["vLLM ended with exit code -9"] * (3 * EPISODES)


def test_an_episode_that_takes_too_long_has_failed(collect):
    trajectories, _ = collect(by_task={0: "hang()"}, limits={"episode_seconds": 8, "attempts": 1, "max_failed": 1})
    errors = [attempt.error for each in trajectories for attempt in each.attempts]
    assert errors == ["the episode took longer than collect.episode_seconds = 8"]


def test_what_no_attempt_can_bring_is_told_in_one_line(collect, monkeypatch):
    """At the machine's limit of threads asking after the server fails in every episode at once."""

    async def lost(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(Scripted, "lost", lost)
    with pytest.raises(RuntimeError) as raised:
        collect(by_task={3: "fail('key')", 4: "fail('key')"})
    line = told(raised.value)
    assert line.startswith("the machine's limit of processes and threads") and "collect.concurrency" in line
