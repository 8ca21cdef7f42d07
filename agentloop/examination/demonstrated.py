"""What an environment's expert says, played for a task of each family: whether the verifier takes it for right."""

from __future__ import annotations

import asyncio

from agentloop.errors import AgentloopError, WorldError
from agentloop.examination.part import SHOWN, called, named
from agentloop.examination.subject import Subject
from agentloop.records import SOLVED, Sampling, Task, Trajectory
from agentloop.rollout.collection import OpenWorld, Play
from agentloop.rollout.prompt import PromptFormat
from agentloop.teaching import experts
from agentloop.teaching.script import Script, ScriptedPolicy, by_session
from agentloop.text import one_line_of
from agentloop.verification import SUCCESS, scored

PLAYED = 12
"""Families of which an expert plays a task."""
_POLICY, _SESSION = "examination", "examination"


async def examine(
    subject: Subject, prompt: PromptFormat, *, open_world: OpenWorld, play: Play
) -> tuple[list[str], list[str]]:
    """Return the lines to be shown, and the faults."""
    lines: list[str] = []
    faults: list[str] = []
    failed: list[Task] = []
    reasons: list[str] = []
    solved = 0
    for task in list(subject.by_family.values())[:PLAYED]:
        try:
            script = experts.script(subject.environment, task)
            episode = None
            if script is not None:
                episode = await played(subject, prompt, script, open_world=open_world, play=play)
        except AgentloopError as error:
            episode = None
            failed.append(task)
            reasons.append(one_line_of(error, most=SHOWN))
        else:
            if episode is None:
                continue
            reason = _unsolved(subject, task, episode)
            if reason:
                failed.append(task)
                reasons.append(reason)
            solved += not reason
        if episode is not None and not lines:
            lines = [f"the expert at {one_line_of(task.question, most=80)!r}:", *_told(episode)]
    tried = solved + len(failed)
    if tried:
        lines.append(f"the expert solves {solved} of {tried} tasks, one of each family")
    else:
        lines.append("no expert: `agentloop teach --from` a file or a teacher is what can teach these tasks")
    if failed:
        about = [f"{place}: {reason}" for place, reason in zip(subject.places(failed), reasons, strict=True)]
        faults.append(f"expert(): fails at {len(failed)} of {tried} tasks: {named(about)}")
    return lines, faults


async def played(
    subject: Subject, prompt: PromptFormat, script: Script, *, open_world: OpenWorld, play: Play
) -> Trajectory:
    """Play what the script says, with the campaign's limits. Raises WorldError."""
    agent, most = subject.settings.agent, subject.settings.collect.episode_seconds
    try:
        async with asyncio.timeout(most), open_world(script.task, session=_SESSION) as world:
            return await play(
                script.task,
                0,
                policy=_POLICY,
                generate=ScriptedPolicy(by_session([script], policy=_POLICY, seed=0), prompt),
                prompt=prompt,
                world=world,
                sampling=Sampling(0.0, 1.0, agent.max_turns, agent.max_turn_tokens, agent.max_tokens),
                seed=0,
            )
    except TimeoutError:
        raise WorldError(f"the episode took longer than collect.episode_seconds = {most:g}") from None


def _unsolved(subject: Subject, task: Task, episode: Trajectory) -> str | None:
    """What is wrong with the expert's episode. Calls of which none is taken would be taught, however right the answer is."""
    told = [turn.error for turn in episode.turns if turn.role == "tool"]
    if told and told[0] and all(told):
        return f"each of its calls is refused: {one_line_of(told[0], most=SHOWN)!r}"
    who = "score()" if subject.by_outcome else "verify()"
    if episode.answer is None and not subject.by_outcome:
        return f"its episode ends without an answer ({episode.status})"
    value = scored(subject.environment, task, episode.answer, episode.outcome, who=who)[SUCCESS]
    what = "its episode" if episode.answer is None else f"its answer {one_line_of(episode.answer, most=60)!r}"
    return None if value >= SOLVED else f"{who} gives {what} {value:g}"


def _told(episode: Trajectory) -> list[str]:
    return [
        f"  {'>' if turn.role == 'model' else '<'} {one_line_of(called(turn.text), most=SHOWN)}"
        for turn in episode.turns[1:]  # after the question
    ]
