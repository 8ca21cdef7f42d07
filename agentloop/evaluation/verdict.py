"""The gate: champion against challenger on the same tasks and seeds; nothing is promoted without evidence."""

from __future__ import annotations

from collections.abc import Sequence
from math import log

from agentloop.evaluation import betting, level
from agentloop.evaluation.contrast import Contrast, contrast
from agentloop.evaluation.looks import Look
from agentloop.evaluation.statistics import differences
from agentloop.records import Decision, Entry, Evaluation, GuardResult, Verdict
from agentloop.settings import Gate
from agentloop.text import odds

MORE = 4
"""More data are asked for where up to so many times as many tasks would settle it."""


def judge(
    champion: Evaluation,
    challenger: Evaluation,
    gate: Gate,
    *,
    look: Look,
    entry: Entry,
    guards: Sequence[GuardResult] = (),
    seed: int = 0,
) -> Verdict:
    """Promote where the evidence that the gain exceeds `gate.min_gain` reaches what this challenger needs, and every guard
    is passed. Otherwise the champion stays; more data are asked for where up to `MORE` times as many tasks would find the
    gain that is seen, or pass the guards.

    Raises ValueError where the two were not measured on the same tasks, samples and seed.
    """
    seen = contrast(champion, challenger, resamples=gate.resamples, seed=seed)
    by_task = differences(champion.successes, challenger.successes)
    needed = level.needed(entry, level.CHALLENGERS * gate.alpha)
    evidence = betting.evidence(by_task, gate.min_gain)
    tasks = len(champion.tasks)
    more = betting.tasks_needed(by_task, needed, gate.min_gain)
    failed = [guard for guard in guards if not guard.passed]

    decision: Decision = "keep"
    if evidence >= needed and seen.difference.estimate > gate.min_gain:
        if not failed:
            decision = "promote"
        elif all(_may_pass(guard) for guard in failed):
            decision = "needs_more_data"
    elif more <= MORE * tasks:
        decision = "needs_more_data"

    reasons = [f"{_OPENING[decision]}: {_figures(seen)}, evidence e = {odds(evidence)}, {odds(needed)} needed"]
    if failed:
        reasons += [_about(guard) for guard in failed]
    elif decision != "promote":
        reasons.append(f"{tasks} tasks find {100 * betting.detectable(by_task, needed):.1f} points")
        if decision == "needs_more_data":
            reasons.append(f"this gain needs about {more}")
    reasons.append(f"{seen.test.gained} tasks gained and {seen.test.lost} lost (McNemar p = {seen.test.p:.2g})")
    if look.of > 1:
        reasons.append(f"look {look.number} of {look.of}")
    if entry.used_up:
        reasons.append(f"block {entry.block} is used further, there are no more held-out tasks")
    return Verdict(
        decision,
        champion.id,
        challenger.id,
        seen.before,
        seen.after,
        seen.difference,
        seen.test.p,
        f"{'; '.join(reasons)}.",
        look.number,
        look.of,
        1 / needed,
        tuple(guards),
        evidence,
        needed,
    )


_OPENING: dict[Decision, str] = {
    "promote": "Promoted",
    "keep": "The champion stays",
    "needs_more_data": "The champion stays for now",
}


def _figures(seen: Contrast) -> str:
    difference = seen.difference
    return (
        f"{100 * difference.estimate:+.1f} points "
        f"(95 % interval {100 * difference.low:+.1f} to {100 * difference.high:+.1f})"
    )


def _about(guard: GuardResult) -> str:
    return (
        f"the guard {guard.environment} is not passed: {100 * guard.difference.estimate:+.1f} points, "
        f"surely more than {100 * guard.bound:+.1f} only, where {-100 * guard.margin:+.1f} is asked for"
    )


def _may_pass(guard: GuardResult) -> bool:
    """Whether up to `MORE` times as many tasks with the same outcomes would pass it: the logarithm grows with their number."""
    assert guard.evidence is not None and guard.needed is not None, "from before the gate went by e-values"
    growing = guard.difference.estimate > -guard.margin
    return growing and log(guard.needed) + betting.MIXTURE <= MORE * (log(guard.evidence) + betting.MIXTURE)
