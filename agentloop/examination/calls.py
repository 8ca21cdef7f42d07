"""The tools as an episode meets them: in a world of their own with its limits, called rightly and wrongly.

Each call that is certainly a mistake must come back as a complaint to the model. What ends the attempt instead would end a
night's episodes, for a model makes every mistake.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from agentloop.environments.model_judge import NotAsked
from agentloop.errors import StoreError, WorldError
from agentloop.examination import demonstrated
from agentloop.examination.part import SHOWN, Part, called
from agentloop.examination.subject import Subject
from agentloop.records import SOLVED, Task
from agentloop.rollout.episode import run_episode
from agentloop.rollout.grammar import call_text
from agentloop.rollout.prompt import PromptFormat
from agentloop.text import one_line_of
from agentloop.verification import SUCCESS, scored
from agentloop.worlds.pool import Worlds
from agentloop.worlds.stage import WorldDescription

DESCRIBED = 24
"""Tasks whose tools are asked for: an environment may give each task others."""
_SESSION = "examination"
_NO_SUCH_ARGUMENT = "no_such_argument"
_MISTAKES: tuple[dict[str, Any], ...] = ({}, {_NO_SUCH_ARGUMENT: None})


async def describe(subject: Subject, worlds: Worlds) -> dict[str, WorldDescription]:
    """Return what the worlds of some tasks say of themselves, by task. Raises WorldError where one cannot be opened."""
    asked = {task.id: task for task in [*list(subject.by_family.values())[:DESCRIBED], *subject.some(DESCRIBED)]}
    found = {}
    for name, task in asked.items():
        async with worlds.open(task, session=_SESSION) as world:
            found[name] = await world.describe()
    return found


async def examine(
    subject: Subject, worlds: Worlds, prompt: PromptFormat, described: Mapping[str, WorldDescription]
) -> Part:
    """Call each tool of one task by mistake, and play what the expert says, where there is one, for a task of each family."""
    task = next(task for task in subject.tasks if task.id in described)
    about = described[task.id]
    lines, faults = [], []
    if not about.tools:
        lines.append(f"there are none: the model {'talks with the world' if about.speaks else 'answers by itself'}")
    for tool in about.tools:
        lines.append(f"{tool.name}{tool.signature}")
        for mistake in _MISTAKES:
            said, fault = await _mistake(worlds, task, tool.name, mistake)
            lines.append(f"  {said}")
            if fault:
                faults.append(fault)
    if about.has_outcome:
        told, idle = await _idle(subject, worlds, task)
        lines.append(told)
        faults += idle
    played, wrong = await demonstrated.examine(subject, prompt, open_world=worlds.open, play=run_episode)
    return Part("World" if about.speaks or about.has_outcome else "Tools", (*lines, *played), (*faults, *wrong))


async def _idle(subject: Subject, worlds: Worlds, task: Task) -> tuple[str, list[str]]:
    """What an episode is worth in which nothing is done; it must not count as solved."""
    async with worlds.open(task, session=_SESSION) as world:
        outcome = await world.outcome()
    shown = one_line_of(json.dumps(outcome, ensure_ascii=False), most=SHOWN)
    try:
        scores = scored(subject.environment, task, None, outcome, who="score()")
    except StoreError as error:
        return f"where nothing is done the outcome is {shown}", [] if isinstance(error.__cause__, NotAsked) else [
            str(error)
        ]
    worth = ", ".join(f"{name} {value:g}" for name, value in scores.items())
    faults = ["score() takes an episode in which nothing is done for solved"] if scores[SUCCESS] >= SOLVED else []
    return f"where nothing is done the outcome is {shown}: {worth}", faults


async def _mistake(worlds: Worlds, task: Task, tool: str, arguments: dict[str, Any]) -> tuple[str, str | None]:
    """What the model would be told of a call without arguments, or with one that there is not; and what is wrong about it."""
    call = called(call_text(tool, (), arguments))
    try:
        async with worlds.open(task, session=_SESSION) as world:  # one that has failed is gone
            reply = await world.call(tool, (), arguments)
    except WorldError as error:
        line = one_line_of(error, most=SHOWN)
        return (
            f"{call} ends the episode: {line}",
            f"{line} at {call}, where it should complain to the model (ToolError)",
        )
    told = one_line_of(reply.text, most=SHOWN)
    return f"{call} -> {told}", None
