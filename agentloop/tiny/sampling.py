"""Success of a small model, sampled in this process: many episodes in lockstep batches, without a server.

For the tiny model's own bootstrap and tests, where starting vLLM costs more than the sampling. Collection and evaluation
of the loop always go through vLLM.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import DynamicCache, Gemma3nForCausalLM, PreTrainedTokenizerFast

from agentloop.environments import Environment
from agentloop.records import Sampling, Task, Trajectory
from agentloop.rollout.episode import run_episode
from agentloop.rollout.prompt import PromptFormat
from agentloop.worlds.local import LocalWorld

GATHER_SECONDS = 0.02
"""Requests that arrive within this time share a batch."""


@dataclass(frozen=True)
class _Continuation:
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: str


@dataclass(frozen=True)
class _Request:
    prompt_ids: tuple[int, ...]
    max_tokens: int
    seed: int
    reply: asyncio.Future[_Continuation]


class TorchPolicy:
    """Continues prompts with a model in this process; every request is drawn from its own seed."""

    def __init__(self, model: Gemma3nForCausalLM, stop_token_ids: Sequence[int], temperature: float) -> None:
        self._model, self._stop, self._temperature = model, frozenset(stop_token_ids), temperature
        self._waiting: list[_Request] = []

    async def __call__(self, prompt_ids: Sequence[int], *, max_tokens: int, seed: int, session: str) -> _Continuation:
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_later(GATHER_SECONDS, self._answer)
        request = _Request(tuple(prompt_ids), max_tokens, seed, loop.create_future())
        self._waiting.append(request)
        return await request.reply

    def _answer(self) -> None:
        batch, self._waiting = self._waiting, []
        for request, continuation in zip(batch, self._continue(batch)):
            request.reply.set_result(continuation)

    @torch.no_grad()
    def _continue(self, batch: Sequence[_Request]) -> list[_Continuation]:
        steps = max(request.max_tokens for request in batch)
        draws = torch.stack(
            [torch.rand(steps, generator=torch.Generator().manual_seed(request.seed)) for request in batch]
        )
        width = max(len(request.prompt_ids) for request in batch)
        ids = torch.tensor([[0] * (width - len(request.prompt_ids)) + list(request.prompt_ids) for request in batch])
        mask = torch.tensor(
            [[0] * (width - len(request.prompt_ids)) + [1] * len(request.prompt_ids) for request in batch]
        )
        cache = DynamicCache(config=self._model.config)
        tokens: list[list[int]] = [[] for _ in batch]
        logprobs: list[list[float]] = [[] for _ in batch]
        ended = [False] * len(batch)
        for step in range(steps):
            positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
            logits = (
                self._model(
                    input_ids=ids,
                    attention_mask=mask,
                    position_ids=positions,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
                .logits[:, -1]
                .float()
            )
            cumulative = (logits / self._temperature).softmax(-1).cumsum(-1)
            chosen = torch.searchsorted(cumulative, draws[:, step : step + 1] * cumulative[:, -1:]).clamp(
                max=logits.shape[-1] - 1
            )
            scores = logits.log_softmax(-1).gather(-1, chosen)
            for row, request in enumerate(batch):
                if not ended[row] and step < request.max_tokens:
                    tokens[row].append(int(chosen[row, 0]))
                    logprobs[row].append(float(scores[row, 0]))
                    ended[row] = tokens[row][-1] in self._stop
            if all(done or step + 1 >= request.max_tokens for done, request in zip(ended, batch)):
                break
            ids, mask = chosen, torch.cat([mask, torch.ones_like(chosen)], dim=-1)
        return [
            _Continuation(tuple(row_tokens), tuple(row_logprobs), "stop" if done else "length")
            for row_tokens, row_logprobs, done in zip(tokens, logprobs, ended)
        ]


def sample(
    model: Gemma3nForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    environment: Environment,
    tasks: Sequence[Task],
    samples: int,
    sampling: Sampling,
    seed: int = 0,
) -> list[list[Trajectory]]:
    """`samples` episodes of every task, without tool descriptions: [tasks][samples]."""
    prompt = PromptFormat(tokenizer, describe_tools=False)
    policy = TorchPolicy(model, prompt.stop_token_ids, sampling.temperature)

    async def run() -> list[Trajectory]:
        return await asyncio.gather(
            *(
                run_episode(
                    task,
                    index,
                    policy="in-process",
                    generate=policy,
                    prompt=prompt,
                    world=LocalWorld(environment, task),
                    sampling=sampling,
                    seed=seed,
                )
                for task in tasks
                for index in range(samples)
            )
        )

    flat = asyncio.run(run())
    return [flat[first : first + samples] for first in range(0, len(flat), samples)]
