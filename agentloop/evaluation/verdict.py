"""The gate: champion against challenger on the same tasks and seeds; nothing is promoted without evidence."""

from __future__ import annotations

from agentloop.evaluation.statistics import (
    clustered_interval,
    detectable_difference,
    mcnemar,
    paired_bootstrap,
    tasks_needed,
)
from agentloop.records import Decision, Evaluation, Verdict
from agentloop.settings import Gate

MORE = 4
"""More data are asked for where up to so many times as many tasks would settle it."""


def judge(champion: Evaluation, challenger: Evaluation, gate: Gate, *, seed: int = 0) -> Verdict:
    """Promote where the exact test is significant at `gate.alpha` in the challenger's favour and the lower end of the
    difference's bootstrap interval exceeds `gate.min_gain`. Otherwise the champion stays; more data are asked for where
    the gain seen is one that up to `MORE` times as many tasks would find.

    Raises ValueError where the two were not measured on the same tasks, samples and seed.
    """
    for name in ("tasks", "samples", "seed"):
        if getattr(champion, name) != getattr(challenger, name):
            raise ValueError(f"{champion.id} and {challenger.id} cannot be compared: they differ in {name}")
    before, after = champion.successes, challenger.successes
    test = mcnemar(before, after)
    difference = paired_bootstrap(before, after, resamples=gate.resamples, seed=seed)
    detectable = detectable_difference(before, after, alpha=gate.alpha)
    gain = difference.estimate - gate.min_gain
    tasks = len(champion.tasks)

    decision: Decision = "keep"
    if test.p < gate.alpha and test.gained > test.lost and difference.low > gate.min_gain:
        decision = "promote"
    elif gain > 0 and tasks_needed(gain, detectable, tasks) <= MORE * tasks:
        decision = "needs_more_data"

    seen = (
        f"{100 * difference.estimate:+.1f} points "
        f"(95 % interval {100 * difference.low:+.1f} to {100 * difference.high:+.1f}), "
        f"{test.gained} tasks gained and {test.lost} lost, p = {test.p:.2g}"
    )
    power = f"{tasks} tasks find {100 * detectable:.1f} points"
    reason = {
        "promote": f"Promoted: {seen}.",
        "keep": f"The champion stays: {seen}; {power}.",
        "needs_more_data": f"The champion stays for now: {seen}; {power}, "
        f"this gain needs about {tasks_needed(gain, detectable, tasks) if gain > 0 else 0}.",
    }[decision]
    return Verdict(
        decision,
        champion.id,
        challenger.id,
        clustered_interval(before),
        clustered_interval(after),
        difference,
        test.p,
        reason,
    )
