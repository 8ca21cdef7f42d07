"""The whole examination of a task, part by part."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

from agentloop import scratch
from agentloop.errors import SettingError, WorldError
from agentloop.examination import answers, calls, night, opening, own_agent, splits
from agentloop.examination.part import Part
from agentloop.examination.subject import Subject
from agentloop.model_directory.tokenizer import text_tokenizer
from agentloop.recording.recorder import Recorder, processes
from agentloop.rollout.prompt import PromptFormat
from agentloop.settings import Settings
from agentloop.worlds.pool import Worlds


def examine(settings: Settings, *, most: int | None = None, ids: bool = False) -> Iterator[Part]:
    """Look at `settings.environment`, and yield each part once it is known. Neither vLLM nor a GPU is used.

    `most`: tasks of each split that are looked at. `ids`: show the prompt's token ids. Raises SettingError or ModelError, in
    one line, where the environment or the tokenizer cannot be used at all.
    """
    subject = Subject.of(settings, most)
    if not subject.tasks:
        raise SettingError(f"environment: {subject.environment.name} has no tasks")
    prompt = PromptFormat(text_tokenizer(settings.model_directory()), settings.agent.describe_tools)
    with scratch.directory() as folder:
        apart = _apart(settings, folder)
        yield from (
            _own_agent(subject, apart, prompt, ids) if settings.agent.command else _tools(subject, apart, prompt, ids)
        )
    yield answers.examine(subject)
    yield splits.examine(subject)
    yield night.examine(subject)


def _tools(subject: Subject, settings: Settings, prompt: PromptFormat, ids: bool) -> Iterator[Part]:
    with Worlds(settings, [settings.environment]) as worlds:
        try:
            described = asyncio.run(calls.describe(subject, worlds))
        except WorldError as error:
            yield Part("Tools", (), (str(error),))
            return
        openings = {
            task.id: prompt.opening(task.question, described[task.id]) for task in subject.tasks if task.id in described
        }
        yield opening.examine(subject, prompt, openings, ids=ids)
        yield asyncio.run(calls.examine(subject, worlds, prompt, described))


def _own_agent(subject: Subject, settings: Settings, prompt: PromptFormat, ids: bool) -> list[Part]:
    async def examined() -> list[Part]:
        async with Recorder(agents) as recorder:
            return await own_agent.examine(subject, recorder, prompt, ids=ids)

    with processes(settings) as agents:
        return asyncio.run(examined())


def _apart(settings: Settings, folder: Path) -> Settings:
    """The settings with a data root that ends with the examination: the worlds' log goes there."""
    return settings.model_copy(update={"paths": settings.paths.model_copy(update={"data": folder})})
