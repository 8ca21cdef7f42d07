"""Guards: what a challenger must not lose elsewhere for what it gained here.

A test of non-inferiority turns the burden of proof round: not to have been seen worse is not enough, there must be evidence
against its being worse by the margin. Too few tasks therefore never pass a guard.
"""

from __future__ import annotations

from agentloop.evaluation import betting, level
from agentloop.evaluation.contrast import refuse_unpaired
from agentloop.evaluation.statistics import differences, paired_bootstrap
from agentloop.records import Entry, Evaluation, GuardResult
from agentloop.settings import Guard


def examine(
    environment: str,
    champion: Evaluation,
    challenger: Evaluation,
    guard: Guard,
    *,
    entry: Entry,
    resamples: int,
    seed: int = 0,
) -> GuardResult:
    """Passed where the difference surely exceeds `-guard.margin`. Raises ValueError where the two cannot be paired.

    `entry`: this time among those that the guard was asked.
    """
    refuse_unpaired(champion, challenger)
    outcomes = champion.successes, challenger.successes
    needed = level.needed(entry, guard.alpha)
    seen = differences(*outcomes)
    return GuardResult(
        environment,
        champion.id,
        challenger.id,
        paired_bootstrap(*outcomes, resamples=resamples, seed=seed),
        betting.surely_exceeds(seen, needed),
        guard.margin,
        betting.evidence(seen, -guard.margin),
        needed,
    )
