"""Tasks that are given up: decided by their first samples alone, whatever order they end in and however often it begins again."""

import asyncio
import random
from contextlib import asynccontextmanager

import pytest

from agentloop.records import Sampling, Task, Trajectory
from agentloop.rollout.collection import ShardPlan, plan, run_shard
from agentloop.settings import Collect
from agentloop.store.shards import shard_id

SAMPLES, FIRST, TASKS = 6, 3, 30
SAMPLING = Sampling()
TASK = [Task("arithmetic", "sum", f"{number}?", "1", "train") for number in range(TASKS)]
ABOUT = {"policy": "policy_1", "sampling": SAMPLING, "seed": 0}


def is_solved(task: Task, sample: int) -> bool:
    """A third of the tasks is never solved, a third only by late samples."""
    number = TASK.index(task)
    return (number + sample) % 3 == 0 if number % 3 == 0 else sample > FIRST if number % 3 == 1 else False


def planned(**changes) -> list[ShardPlan]:
    return plan(TASK, SAMPLES, **{"shard_episodes": 40, "give_up_after": FIRST, **ABOUT, **changes})


class Idle:
    async def ready(self): ...

    async def lost(self): ...


@asynccontextmanager
async def nowhere(task, *, session):
    yield None


def collect(shard: ShardPlan, chance: random.Random, *, concurrency=8, failing=(), played=None):
    begun = []

    async def play(task, sample, **_) -> Trajectory:
        begun.append((task.id, sample))
        await asyncio.sleep(chance.random() / 1000)
        if (task.id, sample) in failing:
            raise RuntimeError("a world has died")
        answer = "1" if is_solved(task, sample) else "2"
        return Trajectory("policy_1", task, sample, SAMPLING, 0, "answered", answer, (1,), (True,), (0.0,), (), 0.0)

    async def solved(trajectory):
        await asyncio.sleep(chance.random() / 1000)
        return trajectory.answer == "1"

    limits = Collect(concurrency=concurrency, attempts=1, max_failed=100)
    running = run_shard(
        shard, policy=Idle(), prompt=None, open_world=nowhere, limits=limits, play=play, solved=solved,
        played=played or {},
    )  # fmt: skip
    return asyncio.run(running), begun


def statuses(trajectories) -> dict[tuple[str, int], str]:
    return {(each.task.id, each.sample): each.status for each in trajectories}


def expected(shard: ShardPlan) -> dict[tuple[str, int], str]:
    return {
        (task.id, sample): "answered" if sample < FIRST or TASK.index(task) % 3 == 0 else "not_sampled"
        for task, sample in shard.episodes
    }


def test_shards_hold_whole_groups_and_have_other_names_only_where_something_may_be_missing():
    shards = planned()
    assert [len(shard.episodes) for shard in shards] == [36] * 5
    for shard in shards:
        assert {sum(task == other for other, _ in shard.episodes) for task, _ in shard.episodes} == {SAMPLES}
        assert shard.id == shard_id(shard.trajectories, given_up_after=FIRST) != shard_id(shard.trajectories)
    assert [each.give_up_after for each in plan(TASK[:1], 1, shard_episodes=40, give_up_after=1, **ABOUT)] == [None]
    assert planned(give_up_after=SAMPLES) == planned(give_up_after=None)
    assert planned(give_up_after=2)[0].id != planned()[0].id
    assert len(plan(TASK, SAMPLES, shard_episodes=4, give_up_after=FIRST, **ABOUT)[0].episodes) == SAMPLES


@pytest.mark.parametrize("seed", range(8))
def test_the_first_samples_decide_in_whatever_order_they_end(seed):
    shard, chance = planned()[0], random.Random(seed)
    found, begun = collect(shard, chance, concurrency=chance.choice([1, 2, 7, 64]))
    assert statuses(found) == expected(shard)
    assert [each.id for each in found] == list(shard.trajectories)
    assert len(begun) == sum(each.status == "answered" for each in found)
    left = {each.id: each for each in found if each.status == "answered" and chance.random() < 0.5}
    again, rest = collect(shard, chance, played=left)
    assert statuses(again) == expected(shard) and len(rest) == len(begun) - len(left)


def test_nothing_is_given_up_on_an_episode_that_failed():
    shard = planned()[0]
    hopeless = TASK[2]
    found, _ = collect(shard, random.Random(0), failing={(hopeless.id, 1)})
    assert [statuses(found)[hopeless.id, sample] for sample in range(SAMPLES)] == [
        "answered", "failed", *["answered"] * 4
    ]  # fmt: skip
    assert statuses(found)[TASK[5].id, 4] == "not_sampled"
