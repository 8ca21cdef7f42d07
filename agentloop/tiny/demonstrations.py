"""Scripted demonstrations as trajectories, run through the same episode code as a real policy's.

The script stands where the model would be sampled: the prompt, the tool results and the turns come out token for token as
they do in collection, so the warm-started model meets in collection exactly what it was taught on.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Sequence

from transformers import PreTrainedTokenizerFast

from agentloop.environments import Environment
from agentloop.environments.environment import Demonstration
from agentloop.records import Sampling, Trajectory
from agentloop.rollout.episode import run_episode
from agentloop.rollout.prompt import PromptFormat
from agentloop.teaching.script import Script, ScriptedPolicy, by_session
from agentloop.tiny.tokenizer import build_tokenizer
from agentloop.worlds.local import LocalWorld

_SAMPLING = Sampling(max_turns=8, max_turn_tokens=1024, max_tokens=16384)
"""Generous: a script is never cut off."""

_POLICY = "demonstration"

VOCABULARY_DEMONSTRATIONS = 1000
"""Of each environment; they hold every word that the tokenizer is to know."""


def write(environment: Environment, count: int, seed: int) -> list[Demonstration]:
    """`count` demonstrations of tasks from the demonstration split: none of their questions is in train or held-out."""
    rng = random.Random(f"demonstrations/{environment.name}/{seed}")
    return [environment.demonstration(task, rng) for task in environment.tasks("demonstration", count, seed)]


def teach_tokenizer(environments: Sequence[Environment], seed: int) -> PreTrainedTokenizerFast:
    """The tokenizer that knows the words of the environments' questions, calls, results and error messages."""
    spelling = build_tokenizer([])
    texts = ["user\n", "model\n"]
    for environment in environments:
        for trajectory in act(write(environment, VOCABULARY_DEMONSTRATIONS, seed), environment, spelling):
            texts += [turn.text for turn in trajectory.turns]
    return build_tokenizer(texts)


def act(
    demonstrations: Iterable[Demonstration], environment: Environment, tokenizer: PreTrainedTokenizerFast
) -> list[Trajectory]:
    """The demonstrations as episodes, the tools really called, without descriptions of the tools in the prompt."""
    return asyncio.run(_act(demonstrations, environment, tokenizer))


async def _act(
    demonstrations: Iterable[Demonstration], environment: Environment, tokenizer: PreTrainedTokenizerFast
) -> list[Trajectory]:
    prompt = PromptFormat(tokenizer, describe_tools=False)
    trajectories = []
    for demonstration in demonstrations:
        script = Script(demonstration.task, demonstration.turns)
        trajectories.append(
            await run_episode(
                demonstration.task,
                0,
                policy=_POLICY,
                generate=ScriptedPolicy(by_session([script], policy=_POLICY, seed=0), prompt),
                prompt=prompt,
                world=LocalWorld(environment, demonstration.task),
                sampling=_SAMPLING,
                seed=0,
            )
        )
    return trajectories
