"""An agent of one's own as an episode meets it: started, asked, and answered in its model's place."""

from __future__ import annotations

from agentloop.errors import WorldError
from agentloop.examination import demonstrated, opening
from agentloop.examination.part import SHOWN, Part, named
from agentloop.examination.subject import Subject
from agentloop.recording.recorder import Recorder
from agentloop.records import Task
from agentloop.rollout.grammar import answer_text
from agentloop.rollout.prompt import PromptFormat
from agentloop.teaching.script import Script
from agentloop.text import one_line_of

ASKED = 12
"""Tasks that the agent is given and answered at once: for what its first requests say."""


async def examine(subject: Subject, recorder: Recorder, prompt: PromptFormat, *, ids: bool = False) -> list[Part]:
    """Give the agent some tasks: the prompts that come of its requests, and what it makes of the expert's turns."""
    asked = {task.id: task for task in [*list(subject.by_family.values())[:ASKED], *subject.some(ASKED)]}
    openings: dict[str, list[int]] = {}
    failed: list[Task] = []
    reasons: list[str] = []
    for name, task in asked.items():
        script = Script(task, (answer_text(task.answer),))
        try:
            episode = await demonstrated.played(subject, prompt, script, open_world=recorder.open, play=recorder.play)
        except WorldError as error:
            failed.append(task)
            reasons.append(one_line_of(error, most=SHOWN))
        else:
            openings[name] = list(episode.token_ids[: episode.turns[0].end])
    about = [f"{place}: {reason}" for place, reason in zip(subject.places(failed), reasons, strict=True)]
    faults = (f"the agent fails at {len(failed)} of {len(asked)} tasks: {named(about)}",) if failed else ()
    if not openings:
        return [Part("Agent", (), faults)]
    lines, wrong = await demonstrated.examine(subject, prompt, open_world=recorder.open, play=recorder.play)
    return [opening.examine(subject, prompt, openings, ids=ids), Part("Agent", tuple(lines), (*faults, *wrong))]
