"""A person's questions, put to a policy by the very loop that played its episodes: its prompt, its tools, its limits.

Each question is an episode of its own, because that is what the policy was trained on. Nothing is stored or scored.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from agentloop.campaign.campaign import Campaign
from agentloop.records import Task, Trajectory
from agentloop.rollout.episode import World, read, run_episode
from agentloop.rollout.grammar import CALL_FENCE, FENCE, GrammarError
from agentloop.serving.client import Completion, CompletionClient
from agentloop.worlds.stage import WorldDescription
from agentloop.worlds.toolbox import Reply


class Watcher(Protocol):
    """Told of an episode's turns as they end."""

    def said(self, words: str, call: str | None) -> None:
        """Take a turn of the model's, and the call that it ends with."""

    def replied(self, text: str, complaint: bool) -> None:
        """Take a tool's answer to the call, or its complaint about it, or what a session says to the turn."""

    def refused(self, complaint: str) -> None:
        """Take what the model is told of a turn that is neither a call nor an answer."""


def task_of(campaign: Campaign, question: str) -> Task:
    """Return a task that asks this question, with the tools of the first training task.

    Raises SettingError where the environment has none.
    """
    (first,) = campaign.environment.tasks("train", 1, campaign.settings.seed)
    return dataclasses.replace(first, question=question, answer="", family="own")


async def ask(
    campaign: Campaign,
    client: CompletionClient,
    model: str,
    task: Task,
    *,
    number: int,
    temperature: float,
    watcher: Watcher,
) -> Trajectory:
    """Play one episode with what is served as `model`. `number`: of the question, so that one asked again is drawn anew.

    Raises ServerError, WorldError, SettingError.
    """
    async with campaign.worlds.open(task, session=f"chat {number}") as world:
        watched = _WatchedWorld(world, watcher)
        generate = _Watched(campaign, client, model, temperature, watcher, watched)
        return await run_episode(
            task,
            number,
            policy=model,
            generate=generate,
            prompt=campaign.prompt,
            world=watched,
            sampling=campaign.sampling(temperature),
            seed=campaign.settings.seed,
        )


class _Watched:
    """The policy, whose turns the watcher is told of."""

    def __init__(
        self,
        campaign: Campaign,
        client: CompletionClient,
        model: str,
        temperature: float,
        watcher: Watcher,
        world: _WatchedWorld,
    ) -> None:
        self._prompt, self._world = campaign.prompt, world
        self._client, self._model, self._temperature, self._watcher = client, model, temperature, watcher

    async def __call__(self, prompt_ids: Sequence[int], *, max_tokens: int, seed: int, session: str) -> Completion:
        completion = await self._client.complete(
            self._model,
            prompt_ids,
            max_tokens=max_tokens,
            seed=seed,
            session=session,
            temperature=self._temperature,
            stop_token_ids=self._prompt.stop_token_ids,
        )
        text = self._prompt.decode(completion.token_ids)
        words, fence, call = text.strip().partition(CALL_FENCE)
        self._watcher.said(words.strip(), call.removesuffix(FENCE).strip() if fence else None)
        parsed = read(text, self._world.about)
        if isinstance(parsed, GrammarError) and completion.finish_reason == "stop":
            self._watcher.refused(str(parsed))
        return completion


class _WatchedWorld:
    """The world, whose answers the watcher is told of."""

    def __init__(self, world: World, watcher: Watcher) -> None:
        self._world, self._watcher = world, watcher
        self.about = WorldDescription()
        """As it was described, if it was."""

    @property
    def plain(self) -> bool:
        return self._world.plain

    async def describe(self) -> WorldDescription:
        self.about = await self._world.describe()
        return self.about

    async def call(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Reply:
        reply = await self._world.call(name, args, kwargs)
        self._watcher.replied(reply.text, reply.complaint)
        return reply

    async def observe(self, turn: str) -> Reply | None:
        reply = await self._world.observe(turn)
        if reply is not None:
            self._watcher.replied(reply.text, reply.complaint)
        return reply

    async def outcome(self) -> Any:
        return await self._world.outcome()
