"""Agents on other people's libraries collect through the real vLLM: what it served is what is stored, selected and trained on."""

import asyncio
import importlib.util

import pytest

from agentloop import settings as configuration
from agentloop.campaign import collect, prepare
from agentloop.campaign.campaign import Campaign
from agentloop.curation import selection
from agentloop.errors import EmptySelectionError
from agentloop.project import CHECKOUT
from agentloop.store import datasets, trainable

pytestmark = pytest.mark.slow

AGENTS = {
    "openai_sdk": "openai",
    "agents_sdk": "agents",
    "pydantic_ai_agent": "pydantic_ai",
    "langgraph_agent": "langgraph",
    "smolagents_agent": "smolagents",
}
"""Examples, with the package that each needs; all but the first are no dependencies of agentloop's tests."""


def tasks_of(agent):
    # each of its turns is a prompt of three thousand tokens
    return 4 if agent == "smolagents_agent" else 16


def campaign_of(root, agent):
    options = {
        "paths.data": root,
        "campaign": agent.replace("_", "-"),
        "agent.command": CHECKOUT / "examples" / "own_agent" / f"{agent}.py:run",
        "collect.tasks": tasks_of(agent),
        "collect.samples": 2,
        "collect.concurrency": 4,
        "collect.shard_episodes": 16,
        "training.quantization": "none",
        # smolagents' system prompt alone has three thousand tokens of the tiny model
        "agent.max_tokens": 4096,
        "serving.max_model_len": 4096,
        "selection.max_tokens": 4096,
    }
    return Campaign.open(configuration.load([f"{name}={value}" for name, value in options.items()], profile="demo"))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("own")


@pytest.fixture(scope="module")
def server(root):
    with prepare.policies(campaign_of(root, "openai_sdk")) as server:
        yield server


@pytest.mark.parametrize("agent", AGENTS)
def test_what_vllm_served_is_what_is_trained_on(root, server, agent):
    if importlib.util.find_spec(AGENTS[agent]) is None:
        pytest.skip(f"{AGENTS[agent]} is not installed")
    campaign = campaign_of(root, agent)
    shards = collect.plan_collection(campaign, 1, None)

    async def played():
        await asyncio.gather(
            *(
                collect.collect_shard(campaign, server, shard, adapter=None, iteration=1, purpose="collect")
                for shard in shards
            )
        )

    async def served(row):
        async with server.client() as client:
            return await client.prompt_logprobs(server.serve(None), row.token_ids.tolist())

    with campaign.held():
        asyncio.run(played())
    counts = collect.ingest_shards(campaign, shards, adapter=None, iteration=1, purpose="collect")
    assert (counts["trajectories"], counts["failed"]) == (2 * tasks_of(agent), 0)
    names = [name for shard in shards for name in shard.trajectories]
    with campaign.database() as database:
        line = trainable.told(database, campaign.name, 1)
        rows = [part for row in datasets.tokens(database, names) for part in row.conversations()]
        calls = database.execute(
            "SELECT count(*) FROM v_tool_calls WHERE list_contains($names, trajectory)", {"names": names}
        )
        try:
            chosen = selection.select(database, "rejection", campaign.name, 1, campaign.settings.selection).dataset
        except EmptySelectionError:
            chosen = None
    print(f"{agent}: {line} {calls[0][0]} calls")
    assert "100 % are trainable" in line and calls[0][0] >= tasks_of(agent)
    assert campaign.policy(None).prompt.startswith("gemma-turns-1-bare/agent_")
    for row in sorted(rows, key=lambda row: len(row.token_ids))[:: max(1, len(rows) // 8)]:
        found = asyncio.run(served(row))
        theirs = [logprob for logprob, own in zip(found, row.mask[1:], strict=True) if own]
        assert theirs == pytest.approx(row.logprobs[row.mask].tolist(), abs=1e-3)
    if agent != "smolagents_agent":  # the tiny model has never met its system prompt
        assert chosen is not None and len(rows) == 2 * tasks_of(agent)
