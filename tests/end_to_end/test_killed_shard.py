"""SIGKILL in the middle of a shard, with the real vLLM: what was finished is not played again, and nothing else differs."""

import os
import pickle
import signal
import subprocess
import sys
import time

from agentloop.campaign import collect
from agentloop.campaign.campaign import Campaign
from agentloop.store import journal
from agentloop.store.shards import Footer, read_shard

COLLECT = """
import asyncio, pickle, sys
from agentloop.campaign import collect, prepare
from agentloop.campaign.campaign import Campaign
settings, shard = pickle.load(sys.stdin.buffer)
campaign = Campaign.open(settings)
with campaign.held(), prepare.policies(campaign) as server:
    asyncio.run(collect.collect_shard(campaign, server, shard, adapter=None, iteration=1, purpose="collect"))
"""
FINISHED = 5


def start(home, settings, shard):
    process = subprocess.Popen(
        [sys.executable, "-c", COLLECT],
        stdin=subprocess.PIPE,
        env=home.environment,
        cwd=home.project,
        start_new_session=True,
    )
    process.stdin.write(pickle.dumps((settings, shard)))
    process.stdin.close()
    return process


def test_no_finished_episode_is_played_again(home, tmp_path):
    shard = collect.plan_collection(Campaign.open(home.settings()), 1, None)[0]
    settings = home.settings(f"paths.data={tmp_path}", "collect.concurrency=2")
    path = shard.path(settings.paths.shards)
    file = journal.path_of(path)
    killed = start(home, settings, shard)
    while not file.exists() or file.read_bytes().count(b"\n") <= FINISHED:
        assert killed.poll() is None and not path.exists()
        time.sleep(0.002)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()

    about = Footer(shard.id, len(shard.episodes), "demo", 1, "collect")
    with journal.opened(path, about, shard.trajectories) as kept:
        finished = kept.played
    assert FINISHED <= len(finished) < len(shard.episodes)
    assert start(home, settings, shard).wait() == 0
    assert not file.exists()
    played = {each.id: each for each in read_shard(path)}
    assert all(played[name] == each for name, each in finished.items())  # the seconds that each took, too

    def said(path):
        return [(each.id, each.token_ids, each.status, each.answer) for each in read_shard(path)]

    assert said(path) == said(shard.path(home.settings().paths.shards))
