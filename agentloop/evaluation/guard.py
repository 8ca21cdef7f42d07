"""Guards: what a challenger must not lose elsewhere for what it gained here.

A test of non-inferiority turns the burden of proof round: not to have been seen worse is not enough, there must be evidence
against its being worse by the margin. Too few tasks therefore never pass a guard.
"""

from __future__ import annotations

from agentloop.evaluation import betting
from agentloop.evaluation.contrast import refuse_unpaired
from agentloop.evaluation.level import Standing
from agentloop.evaluation.statistics import differences, paired_bootstrap
from agentloop.records import Evaluation, GuardResult
from agentloop.settings import Guard


def examine(
    environment: str,
    champion: Evaluation,
    challenger: Evaluation,
    guard: Guard,
    *,
    standing: Standing,
    resamples: int,
    seed: int = 0,
) -> GuardResult:
    """Passed where the difference surely exceeds `-guard.margin`. Raises ValueError where the two cannot be paired.

    `standing`: among the times that this guard was asked.
    """
    refuse_unpaired(champion, challenger)
    outcomes = champion.successes, challenger.successes
    needed = standing.needed(guard.alpha)
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
