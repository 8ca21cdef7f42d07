"""What a night brings and costs: the gains that the gate finds on so many tasks, and the episodes of an iteration."""

from __future__ import annotations

from agentloop.campaign import suites
from agentloop.errors import SettingError
from agentloop.evaluation import level
from agentloop.evaluation.looks import Look
from agentloop.evaluation.power import MOST, power
from agentloop.examination.part import Part
from agentloop.examination.subject import Subject
from agentloop.records import Entry
from agentloop.text import odds

GAINS = (0.02, 0.05, 0.10)


def examine(subject: Subject) -> Part:
    """Play out the gate for the first challenger of a campaign, and count an iteration's episodes and tokens."""
    settings = subject.settings
    try:
        last = suites.planned_looks(settings)[-1]
    except SettingError:  # told with the splits
        last = Look(1, 1)
    return Part("A night", (*_found(subject, last), *_cost(subject, last)))


def _found(subject: Subject, last: Look) -> list[str]:
    evaluate, gate = subject.settings.evaluate, subject.settings.gate
    needed = level.needed(Entry(), level.CHALLENGERS * gate.alpha)
    tasks = evaluate.tasks * last.scale
    if subject.complete:
        tasks = max(1, min(tasks, len(subject.heldout)))
    lines = [
        f"the gate promotes the first challenger on evidence of {odds(needed)}; on {tasks:,} held-out tasks x "
        f"{evaluate.samples} it finds"
    ]
    for gain in GAINS:
        chance = power(gain, tasks=tasks, samples=evaluate.samples, needed=needed, min_gain=gate.min_gain)
        enough = f"about {_rounded(chance.tasks):,}" if chance.tasks else f"more than {MOST:,}"
        lines.append(
            f"  a gain of {100 * gain:g} points {chance.promoted:.0%} of the times; four times out of five take {enough} tasks"
        )
    lines.append("  (tasks of mixed difficulty, played out; later challengers need more: docs/gate.md)")
    return lines


def _cost(subject: Subject, last: Look) -> list[str]:
    settings = subject.settings
    collected = settings.collect.tasks * settings.collect.samples
    measured = 2 * settings.evaluate.tasks * settings.evaluate.samples
    guarded = sum(2 * guard.tasks * guard.samples for guard in settings.gate.guards.values())
    episodes = collected + measured
    lines = [
        f"an iteration plays {collected:,} episodes to train on and {measured:,} to measure champion and challenger: "
        f"{episodes * settings.agent.max_tokens:,} tokens at most (agent.max_tokens = {settings.agent.max_tokens:,})"
    ]
    most = collected + measured * last.scale + guarded * last.scale
    if most > episodes:
        lines.append(
            f"  where it is not clear at first{', or guards are asked' if guarded else ''}: up to {most:,} episodes"
        )
    return lines


def _rounded(tasks: int) -> int:
    """To what 400 trials tell: two digits or so."""
    return round(tasks, -1) if tasks >= 100 else tasks
