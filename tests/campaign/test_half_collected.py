"""A shard that is half collected: the next call takes what is finished as it is, and plays the rest."""

import asyncio
import dataclasses
from types import SimpleNamespace

import pytest
from made_by_hand import episode, sum_task

from agentloop.campaign.shard import complete
from agentloop.errors import FailureBudgetError
from agentloop.records import Attempt
from agentloop.rollout.collection import ShardPlan, unfinished
from agentloop.store import journal
from agentloop.store.shards import Footer, read_shard

EPISODES = [episode(sum_task(number)) for number in range(8)]
ONE = EPISODES[0]
SHARD = ShardPlan(ONE.policy, ONE.sampling, ONE.seed, tuple((each.task, each.sample) for each in EPISODES))
TRIED = dataclasses.replace(EPISODES[1], attempts=(Attempt("a world has died", 1.0),))


@pytest.fixture
def campaign(tmp_path):
    return SimpleNamespace(name="main", settings=SimpleNamespace(paths=SimpleNamespace(shards=tmp_path)))


def collect(campaign, play):
    """Returns the ids that were told of."""
    told = []
    complete_it = complete(
        campaign, SHARD, play, iteration=1, purpose="collect", on_episode=lambda each: told.append(each.id)
    )
    try:
        asyncio.run(complete_it)
    except FailureBudgetError:
        pass
    return told


def test_what_is_finished_is_taken_and_what_failed_is_tried_again(campaign, tmp_path):
    about = {"policy": ONE.policy, "sampling": ONE.sampling, "seed": ONE.seed}

    async def half(played, ended):
        assert played == {}
        for each in (EPISODES[4], TRIED, EPISODES[2]):
            ended(each)
        ended(unfinished(EPISODES[0].task, 0, **about))
        raise FailureBudgetError("too much fails")

    assert collect(campaign, half) == [EPISODES[place].id for place in (4, 1, 2, 0)]
    assert [each.name for each in tmp_path.iterdir()] == [f"{SHARD.id}.journal"]

    async def rest(played, ended):
        assert played == {each.id: each for each in (EPISODES[4], TRIED, EPISODES[2])}
        for each in EPISODES:
            if each.id not in played:
                ended(each)
        return [played.get(each.id, each) for each in EPISODES]

    assert collect(campaign, rest) == [EPISODES[place].id for place in (4, 1, 2, 0, 3, 5, 6, 7)]
    assert [each.name for each in tmp_path.iterdir()] == [f"{SHARD.id}.parquet"]
    assert read_shard(SHARD.path(tmp_path)) == [EPISODES[0], TRIED, *EPISODES[2:]]


def test_nothing_is_played_where_only_the_writing_is_missing(campaign, tmp_path):
    about = Footer(SHARD.id, len(EPISODES), "another", 3, "collect")  # which had planned the same episodes
    with journal.opened(SHARD.path(tmp_path), about, SHARD.trajectories) as kept:
        for each in reversed(EPISODES):
            kept.append(each)

    async def nobody(played, ended):
        raise AssertionError("nothing is to be played")

    assert len(collect(campaign, nobody)) == len(EPISODES)
    assert read_shard(SHARD.path(tmp_path)) == EPISODES


def test_two_that_play_the_same_shard_write_it_once(campaign, tmp_path):
    async def both():
        first_is_at_work = asyncio.Event()
        second_has_ended = asyncio.Event()

        async def first(played, ended):
            first_is_at_work.set()
            await second_has_ended.wait()
            return EPISODES

        async def second(played, ended):
            for each in EPISODES:
                ended(each)
            return [dataclasses.replace(each, seconds=each.seconds + 1) for each in EPISODES]

        about = {"iteration": 1, "purpose": "collect", "on_episode": lambda each: None}
        running = asyncio.create_task(complete(campaign, SHARD, first, **about))
        await first_is_at_work.wait()
        await complete(campaign, SHARD, second, **about)
        second_has_ended.set()
        await running

    asyncio.run(both())
    assert [each.name for each in tmp_path.iterdir()] == [f"{SHARD.id}.parquet"]
    assert [each.seconds for each in read_shard(SHARD.path(tmp_path))] == [each.seconds + 1 for each in EPISODES]
