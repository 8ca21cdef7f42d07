"""The gate: champion against challenger on the same tasks and seeds; nothing is promoted without evidence."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from agentloop.evaluation.contrast import Contrast, contrast
from agentloop.evaluation.looks import Look
from agentloop.evaluation.statistics import detectable_difference, lower_bound, tasks_needed
from agentloop.records import Decision, Evaluation, GuardResult, Verdict
from agentloop.settings import Gate

MORE = 4
"""More data are asked for where up to so many times as many tasks would settle it."""


def judge(
    champion: Evaluation,
    challenger: Evaluation,
    gate: Gate,
    *,
    look: Look,
    guards: Sequence[GuardResult] = (),
    seed: int = 0,
) -> Verdict:
    """Promote where the exact test is significant in the challenger's favour, the gain surely exceeds `gate.min_gain`, and
    every guard is passed, each at this look's share of its level. Otherwise the champion stays; more data are asked for
    where up to `MORE` times as many tasks would find the gain that is seen, or pass the guards.

    Raises ValueError where the two were not measured on the same tasks, samples and seed.
    """
    seen = contrast(champion, challenger, resamples=gate.resamples, seed=seed)
    outcomes = champion.successes, challenger.successes
    alpha = look.share(gate.alpha)
    bound = lower_bound(*outcomes, alpha=alpha / 2, resamples=gate.resamples, seed=seed)
    detectable = detectable_difference(*outcomes, alpha=alpha)
    gain = seen.difference.estimate - gate.min_gain
    tasks = len(champion.tasks)
    needed = tasks_needed(gain, detectable, tasks) if gain > 0 else inf
    failed = [guard for guard in guards if not guard.passed]

    decision: Decision = "keep"
    if seen.test.p < alpha and seen.test.gained > seen.test.lost and bound > gate.min_gain:
        if not failed:
            decision = "promote"
        elif all(_may_pass(guard) for guard in failed):
            decision = "needs_more_data"
    elif needed <= MORE * tasks:
        decision = "needs_more_data"

    reasons = [f"{_OPENING[decision]}: {_figures(seen)}"]
    if failed:
        reasons += [_about(guard) for guard in failed]
    elif decision != "promote":
        reasons.append(f"{tasks} tasks find {100 * detectable:.1f} points")
        if decision == "needs_more_data":
            reasons.append(f"this gain needs about {needed}")
    if look.of > 1:
        reasons.append(f"look {look.number} of {look.of}, each at p < {alpha:.2g}")
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
        alpha,
        tuple(guards),
    )


_OPENING: dict[Decision, str] = {
    "promote": "Promoted",
    "keep": "The champion stays",
    "needs_more_data": "The champion stays for now",
}


def _figures(seen: Contrast) -> str:
    difference, test = seen.difference, seen.test
    return (
        f"{100 * difference.estimate:+.1f} points "
        f"(95 % interval {100 * difference.low:+.1f} to {100 * difference.high:+.1f}), "
        f"{test.gained} tasks gained and {test.lost} lost, p = {test.p:.2g}"
    )


def _about(guard: GuardResult) -> str:
    return (
        f"the guard {guard.environment} is not passed: {100 * guard.difference.estimate:+.1f} points, "
        f"surely more than {100 * guard.bound:+.1f} only, where {-100 * guard.margin:+.1f} is asked for"
    )


def _may_pass(guard: GuardResult) -> bool:
    """Whether up to `MORE` times as many tasks with the same outcomes would pass it: the error falls as 1/√tasks."""
    room, error = guard.difference.estimate + guard.margin, guard.difference.estimate - guard.bound
    return room > 0 and error <= room * MORE**0.5
