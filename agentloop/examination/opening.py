"""The prompt that an episode opens with: as the model reads it, and how much room it leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from agentloop.examination.part import Part, named
from agentloop.examination.subject import Subject
from agentloop.rollout.prompt import PromptFormat


def examine(
    subject: Subject,
    prompt: PromptFormat,
    openings: Mapping[str, Sequence[int]],
    *,
    ids: bool = False,
) -> Part:
    """`openings`: token ids, by the id of each task whose opening is counted. `ids`: show them as well."""
    agent, limit = subject.settings.agent, subject.settings.serving.max_model_len
    counted = [task for task in subject.tasks if task.id in openings]
    lengths = [len(opening) for opening in openings.values()]
    shown = counted[0]
    lines = [
        *(f"| {line}" for line in prompt.shown(openings[shown.id]).split("\n")),
        f"{len(openings[shown.id]):,} tokens; of {len(counted)} openings the median is {median(lengths):,.0f} and the "
        f"longest {max(lengths):,}, of agent.max_tokens = {agent.max_tokens:,} for a whole episode",
    ]
    if ids:
        lines.append(f"token ids: {list(openings[shown.id])}")
    if not agent.describe_tools:
        lines.append("agent.describe_tools is false: the prompt says nothing of tools, nor how to answer")
    faults = []
    long = [task for task in counted if len(openings[task.id]) >= min(agent.max_tokens, limit)]
    if long:
        setting = "agent.max_tokens" if agent.max_tokens <= limit else "serving.max_model_len"
        places = named(subject.places(long))
        faults.append(
            f"{setting}: {len(long)} of {len(counted)} openings take {min(agent.max_tokens, limit):,} tokens or more, which "
            f"leaves nothing for the agent: {places}"
        )
    elif max(lengths) + agent.max_turn_tokens > agent.max_tokens:
        lines.append(
            f"the longest leaves {agent.max_tokens - max(lengths):,} tokens, less than one turn may have "
            f"(agent.max_turn_tokens = {agent.max_turn_tokens:,})"
        )
    return Part("Prompt", tuple(lines), tuple(faults))
