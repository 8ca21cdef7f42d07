"""The served rate: output tokens per second of episodes through this project's agent and client, as a collection has them.

A model with random weights never ends a turn, and a real one ends it when it likes. So that the rate is of the same work,
a turn's longest length is drawn for each, uniformly, and a turn that was cut off there counts as ended.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from agentloop.campaign.campaign import Campaign
from agentloop.rollout.collection import Policy, ShardPlan, plan, run_shard
from agentloop.serving.client import Completion
from agentloop.serving.policy_server import PolicyServer
from agentloop.serving.served_policy import ServedPolicy

_PROMPTS, _PROMPT_TOKENS = 16, 32
"""Of the answers whose uncertainty is measured."""


@dataclass(frozen=True)
class Request:
    prompt: tuple[int, ...]
    seed: int
    tokens: int = 0
    """That came back; 0 where the request failed."""


class PacedPolicy:
    """A policy whose turns end at a length that is drawn from the request's seed. `requests`: in the order of their sending."""

    def __init__(self, policy: Policy, lengths: range) -> None:
        self._policy, self._lengths = policy, lengths
        self.requests: list[Request] = []

    async def __call__(self, prompt_ids: Sequence[int], *, max_tokens: int, seed: int, session: str) -> Completion:
        longest = min(max_tokens, random.Random(seed).choice(self._lengths))
        place, request = len(self.requests), Request(tuple(prompt_ids), seed)
        self.requests.append(request)
        completion = await self._policy(prompt_ids, max_tokens=longest, seed=seed, session=session)
        self.requests[place] = dataclasses.replace(request, tokens=len(completion.token_ids))
        return dataclasses.replace(completion, finish_reason="stop")

    async def ready(self) -> None:
        await self._policy.ready()

    async def lost(self) -> str | None:
        return await self._policy.lost()


def turn_lengths(max_turn_tokens: int) -> range:
    """Return the range from an eighth to seven eighths of what a turn may have: half of it in the mean."""
    least = max(1, max_turn_tokens // 8)
    return range(least, max(least, max_turn_tokens - least) + 1)


def run_episodes(
    campaign: Campaign,
    shard: ShardPlan,
    open_policy: Callable[[], AbstractAsyncContextManager[Policy]],
    lengths: range,
    *,
    concurrency: int,
) -> tuple[list[Request], float]:
    """Run the shard's episodes, so many at once: (requests, seconds). The worlds must have been started."""
    limits = campaign.settings.collect.model_copy(update={"concurrency": concurrency})

    async def episodes() -> tuple[list[Request], float]:
        async with open_policy() as policy:
            paced = PacedPolicy(policy, lengths)
            started = time.perf_counter()
            await run_shard(shard, policy=paced, prompt=campaign.prompt, open_world=campaign.worlds.open, limits=limits)
            return paced.requests, time.perf_counter() - started

    return asyncio.run(episodes())


def measure(campaign: Campaign, server: PolicyServer, adapter: str | None, *, rounds: int) -> dict[str, Any]:
    """The rate with `collect.concurrency` episodes in flight, in so many rounds of as many; the first is told apart.

    The worlds must have been started. Raises ServerError, FailureBudgetError.
    """
    settings = campaign.settings
    concurrency = settings.collect.concurrency
    first, rest = (
        _shard(campaign, adapter, episodes, seed)
        for seed, episodes in enumerate((concurrency, (rounds - 1) * concurrency))
    )

    def open_policy() -> ServedPolicy:
        temperature = settings.collect.temperature
        stops = campaign.prompt.stop_token_ids
        return ServedPolicy(server, adapter, temperature=temperature, top_p=1.0, stop_token_ids=stops)

    lengths = turn_lengths(settings.agent.max_turn_tokens)
    measured = [run_episodes(campaign, shard, open_policy, lengths, concurrency=concurrency) for shard in (first, rest)]
    requests = [request for found, _ in measured for request in found]
    tokens = [sum(request.tokens for request in found) for found, _ in measured]
    seconds = [spent for _, spent in measured]
    return {
        "episodes": len(first.episodes) + len(rest.episodes),
        "in_flight": concurrency,
        "requests": len(requests),
        "mean_prompt_tokens": statistics.mean(len(request.prompt) for request in requests),
        "mean_output_tokens": statistics.mean(request.tokens for request in requests),
        "seconds": sum(seconds),
        "tokens_per_second": sum(tokens) / sum(seconds),
        "after_first_round_tokens_per_second": tokens[1] / seconds[1],
    }


def uncertainty(campaign: Campaign, server: PolicyServer) -> float:
    """Nats per token of the base's own answers to tasks at temperature 1: what the model's entropy is there."""
    tasks = campaign.training_tasks(1)[:_PROMPTS]
    longest = min(_PROMPT_TOKENS, campaign.settings.agent.max_turn_tokens)
    prompts = [campaign.prompt.opening(task.question) for task in tasks]

    async def answers() -> list[Completion]:
        name = await asyncio.to_thread(server.serve, None)
        async with server.client() as client:
            return await asyncio.gather(
                *(client.complete(name, prompt, max_tokens=longest, seed=seed) for seed, prompt in enumerate(prompts))
            )

    drawn = [logprob for answer in asyncio.run(answers()) for logprob in answer.logprobs]
    return -statistics.mean(drawn)


def _shard(campaign: Campaign, adapter: str | None, episodes: int, seed: int) -> ShardPlan:
    """Other tasks for another seed, several episodes of each, as a collection has them."""
    collect = campaign.settings.collect
    count = min(collect.tasks, -(-episodes // collect.samples))
    samples = -(-episodes // count)
    [shard] = plan(
        campaign.environment.tasks("train", count, campaign.settings.seed, skip=seed * count),
        samples,
        policy=campaign.policy(adapter).id,
        sampling=campaign.sampling(collect.temperature),
        seed=seed,
        shard_episodes=count * samples,
    )
    return shard
