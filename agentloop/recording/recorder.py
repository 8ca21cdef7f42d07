"""Episodes that an agent of one's own plays: it is started for each, asks the endpoint, and what it prints is the answer."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from agentloop.errors import WorldError
from agentloop.recording import process
from agentloop.recording.command import SETTING
from agentloop.recording.episode import RecordedEpisode
from agentloop.recording.server import MODEL, RecordingServer
from agentloop.records import Sampling, Status, Task, Trajectory
from agentloop.rollout.episode import Generate, session_of
from agentloop.rollout.grammar import ANSWER
from agentloop.rollout.prompt import PromptFormat
from agentloop.settings import Settings
from agentloop.text import one_line_of
from agentloop.worlds.pool import World, Worlds

_LOOPBACK = "127.0.0.1,localhost"


def processes(settings: Settings) -> Worlds:
    """Return the processes of the agent that the settings name: started with the first episode, each killed with its own."""
    maker = f"{process.__name__}:{process.imported.__name__}"
    # the time that an episode may take is watched where it is played
    return Worlds(
        settings, [settings.agent.command or ""], maker=maker, about=SETTING, log="agent", seconds=float("inf")
    )


class Recorder:
    """The endpoint and the agents of a collection. Use as `async with Recorder(processes(…)) as recorder`.

    `open` opens the world of an episode's agent and `play` plays the episode there, as `run_shard` asks for both.
    """

    def __init__(self, agents: Worlds) -> None:
        self._agents = agents
        self._server = RecordingServer()

    async def __aenter__(self) -> Recorder:
        await self._server.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._server.__aexit__(*error)

    @asynccontextmanager
    async def open(self, task: Task, *, session: str) -> AsyncIterator[World]:
        """The process of one episode's agent, which is not told the task's answer."""
        async with self._agents.open(dataclasses.replace(task, answer=""), session=session) as world:
            yield world

    async def play(
        self,
        task: Task,
        sample: int,
        *,
        policy: str,
        generate: Generate,
        prompt: PromptFormat,
        world: World,
        sampling: Sampling,
        seed: int,
    ) -> Trajectory:
        """Let the agent try the task.

        Raises WorldError where it fails without having met a limit, or never asks the model; and whatever the policy raises.
        """
        started = time.perf_counter()
        session = session_of(policy, task, sample, seed)
        episode = RecordedEpisode(generate=generate, prompt=prompt, sampling=sampling, session=session)
        with self._server.serving(episode) as key:
            answer, status = await self._ended(episode, world, task, key)
        whole, starts = episode.conversations.joined()
        if not whole.token_ids:
            raise WorldError(f"{SETTING}: the agent ended without having asked the model{_refusals(episode)}")
        return whole.trajectory(
            task,
            sample,
            policy=policy,
            sampling=sampling,
            seed=seed,
            status=status,
            answer=answer,
            seconds=time.perf_counter() - started,
            starts=starts,
        )

    async def _ended(self, episode: RecordedEpisode, world: World, task: Task, key: str) -> tuple[str | None, Status]:
        """The agent's answer, and how the episode ended."""
        about = {"base_url": self._server.url, "api_key": key, "model": MODEL, "task": _told(task)}
        call = world.call(process.TOOL, [task.question, _variables(about), about], {})
        running: asyncio.Future[Any] = asyncio.ensure_future(call)
        try:
            await asyncio.wait({running, episode.over}, return_when=asyncio.FIRST_COMPLETED)
            if episode.over.done() and episode.over.exception() is not None:
                episode.over.result()  # raises what the policy has raised
            if running.done():
                said = running.result().text
                return _answer(said, episode.limit)
        except WorldError as error:
            if episode.limit is None:
                line = str(error).removeprefix("tool ")
                raise WorldError(f"{SETTING}: {line}{_refusals(episode)}") from None
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        return None, episode.limit or "turn_limit"


def _answer(said: str, limit: Status | None) -> tuple[str | None, Status]:
    """What the agent printed as an answer: after a last line `Answer: …` what that says, else all of it."""
    last = said.rpartition("\n")[2]
    answer = last.removeprefix(ANSWER).strip() if last.startswith(ANSWER) else said
    return (answer, "answered") if answer else (None, limit or "malformed")


def _told(task: Task) -> dict[str, Any]:
    """The task as the agent is told it: without the answer."""
    return {
        "id": task.id,
        "environment": task.environment,
        "family": task.family,
        "question": task.question,
        "split": task.split,
        "payload": task.payload,
    }


def _variables(about: Mapping[str, Any]) -> dict[str, str]:
    """Variables of the agent's process, by which unmodified clients find the endpoint and nothing else."""
    spared = {name: ",".join(filter(None, (os.environ.get(name), _LOOPBACK))) for name in ("NO_PROXY", "no_proxy")}
    return {
        "OPENAI_BASE_URL": about["base_url"],
        "OPENAI_API_BASE": about["base_url"],
        "OPENAI_API_KEY": about["api_key"],
        "OPENAI_MODEL": about["model"],
        "AGENTLOOP_TASK": json.dumps(about["task"], ensure_ascii=False),
        "OPENAI_AGENTS_DISABLE_TRACING": "1",  # OpenAI's Agents SDK would send traces to OpenAI, with the key
        **spared,
    }


def _refusals(episode: RecordedEpisode) -> str:
    if not episode.refused:
        return ""
    [(said, _)] = episode.refused.most_common(1)
    return f"; the endpoint had refused: {one_line_of(said)}"
