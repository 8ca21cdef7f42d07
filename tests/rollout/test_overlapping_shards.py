"""Shards of one collection side by side: they share the slots, and none waits for the slowest episode of another."""

import asyncio

import pytest
from transformers import AutoTokenizer

from agentloop import environments
from agentloop import settings as configuration
from agentloop.records import Sampling
from agentloop.rollout.collection import plan, run_shard
from agentloop.rollout.episode import session_of
from agentloop.rollout.prompt import PromptFormat
from agentloop.serving.client import Completion
from agentloop.worlds.pool import Worlds

SLOTS, EPISODES = 3, 6
"""In flight at once; of one shard."""


class Slow:
    """Answers at once, but to the first question only when `others` questions were answered."""

    def __init__(self, stop: int, others: int) -> None:
        self.stop, self.others = stop, others
        self.answered = self.running = self.most = 0
        self.enough = asyncio.Event()
        self.order: list[str] = []

    async def __call__(self, prompt_ids, *, max_tokens, seed, session):
        self.order.append(session)
        self.running += 1
        self.most = max(self.most, self.running)
        if len(self.order) == 1:
            await self.enough.wait()
        await asyncio.sleep(0)
        self.running -= 1
        self.answered += 1
        if self.answered == self.others:
            self.enough.set()
        return Completion([self.stop], [0.0], "stop")

    async def ready(self):
        pass

    async def lost(self):
        return None


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return configuration.load([f"paths.data={tmp_path_factory.mktemp('side')}"], profile="demo")


@pytest.fixture(scope="module")
def worlds(settings):
    settings.export()
    with Worlds(settings, ["arithmetic"]) as worlds:
        yield worlds


def test_the_next_shard_fills_the_slots_that_the_slowest_episode_leaves(settings, worlds):
    prompt = PromptFormat(AutoTokenizer.from_pretrained(settings.model_directory()), describe_tools=False)
    tasks = environments.get("arithmetic").tasks("train", 2 * EPISODES, 0)
    sampling = Sampling(max_turns=1, max_turn_tokens=20, max_tokens=200)
    shards = plan(tasks, 1, policy="slow", sampling=sampling, seed=0, shard_episodes=EPISODES)

    async def side_by_side() -> Slow:
        policy = Slow(prompt.stop_token_ids[0], others=2 * EPISODES - 1)
        slots = asyncio.Semaphore(SLOTS)
        async with asyncio.timeout(60):
            await asyncio.gather(
                *(
                    run_shard(
                        shard,
                        policy=policy,
                        prompt=prompt,
                        open_world=worlds.open,
                        limits=settings.collect,
                        slots=slots,
                    )
                    for shard in shards
                )
            )
        return policy

    policy = asyncio.run(side_by_side())
    # had the second shard waited for the first one's end, the first question would still wait for its answers
    assert policy.answered == 2 * EPISODES
    assert policy.most == SLOTS
    first = {session_of("slow", task, sample, 0) for task, sample in shards[0].episodes}
    assert set(policy.order[:SLOTS]) <= first, "who waits longest is next"
