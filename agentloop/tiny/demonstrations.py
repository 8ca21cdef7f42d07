"""Scripted demonstrations as trajectories, run through the same episode code as a real policy's.

The script stands where the model would be sampled: the prompt, the tool results and the turns come out token for token as
they do in collection, so the warm-started model meets in collection exactly what it was taught on.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from dataclasses import replace

from transformers import PreTrainedTokenizerFast

from agentloop.environments import Environment
from agentloop.environments.environment import Demonstration
from agentloop.records import Sampling, Trajectory
from agentloop.rollout.episode import run_episode
from agentloop.rollout.prompt import PromptFormat
from agentloop.teaching.script import Script, ScriptedPolicy, by_session
from agentloop.tiny.tokenizer import VOCABULARY, build_tokenizer
from agentloop.worlds.local import LocalWorld

_SAMPLING = Sampling(max_turn_tokens=1 << 16, max_tokens=1 << 20)
"""Generous: a script is never cut off."""

_POLICY = "demonstration"

VOCABULARY_DEMONSTRATIONS = 1000
"""Demonstrations that hold every word that the tokenizer is to know."""


def write(environment: Environment, count: int, seed: int, *, tasks: int | None = None) -> list[Demonstration]:
    """`count` demonstrations of tasks from the demonstration split: none of their questions is in train or held-out.

    They are of as many tasks, or of `tasks` in turn where these cost more than showing them again in another way.
    """
    rng = random.Random(f"demonstrations/{environment.name}/{seed}")
    drawn = environment.tasks("demonstration", min(count, tasks or count), seed)
    return [environment.demonstration(drawn[number % len(drawn)], rng) for number in range(count)]


def teach_tokenizer(
    environment: Environment, seed: int, *, tasks: int | None = None, vocabulary: int = VOCABULARY
) -> PreTrainedTokenizerFast:
    """The tokenizer of `vocabulary` tokens that knows the words of the environment's questions, calls, results and error
    messages. `tasks`: as for `write`."""
    texts = ["user\n", "model\n"]
    demonstrations = write(environment, VOCABULARY_DEMONSTRATIONS, seed, tasks=tasks)
    for trajectory in act(demonstrations, environment, build_tokenizer([])):
        texts += [turn.text for turn in trajectory.turns]
    return build_tokenizer(texts, vocabulary)


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
    acted: dict[tuple[str, ...], Trajectory] = {}
    for demonstration in demonstrations:
        about = (demonstration.task.id, *demonstration.turns)
        if about in acted:  # what is said twice goes twice as it went once
            trajectories.append(acted[about])
            continue
        script = Script(demonstration.task, demonstration.turns)
        # a flawed one may not end its world, and would go on without a word
        sampling = replace(_SAMPLING, max_turns=len(demonstration.turns))
        trajectories.append(
            await run_episode(
                demonstration.task,
                0,
                policy=_POLICY,
                generate=ScriptedPolicy(by_session([script], policy=_POLICY, seed=0), prompt),
                prompt=prompt,
                world=LocalWorld(environment, demonstration.task),
                sampling=sampling,
                seed=0,
            )
        )
        acted[about] = trajectories[-1]
    return trajectories
