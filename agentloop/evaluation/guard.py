"""Guards: what a challenger must not lose elsewhere for what it gained here.

A test of non-inferiority turns the burden of proof round: not to have been seen worse is not enough, the data must rule
out that the challenger is worse by the margin. Too few tasks therefore never pass a guard.
"""

from __future__ import annotations

from agentloop.evaluation.contrast import refuse_unpaired
from agentloop.evaluation.looks import Look
from agentloop.evaluation.statistics import lower_bound, paired_bootstrap
from agentloop.records import Evaluation, GuardResult
from agentloop.settings import Guard


def examine(
    environment: str,
    champion: Evaluation,
    challenger: Evaluation,
    guard: Guard,
    *,
    look: Look,
    resamples: int,
    seed: int = 0,
) -> GuardResult:
    """Passed where the difference surely exceeds `-guard.margin`. Raises ValueError where the two cannot be paired."""
    refuse_unpaired(champion, challenger)
    outcomes = champion.successes, challenger.successes
    return GuardResult(
        environment,
        champion.id,
        challenger.id,
        paired_bootstrap(*outcomes, resamples=resamples, seed=seed),
        lower_bound(*outcomes, alpha=look.share(guard.alpha), resamples=resamples, seed=seed),
        guard.margin,
    )
