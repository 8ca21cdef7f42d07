"""How much a proof measures: enough for its figures on a card, less on the CPU, never more than the user's own settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agentloop.settings import Settings

CAMPAIGN = "proof"


@dataclass(frozen=True)
class Sizes:
    """Amounts that the parts measure; part of the proof."""

    smaller_for_the_cpu: bool
    epoch_batches: int
    """Packed batches of the measured epoch, about."""
    swap_batches: int
    """Of the short training before an adapter is swapped in."""
    rounds: int
    """Episodes of the served rate, in multiples of those in flight."""
    campaign_tasks: int
    campaign_samples: int
    evaluate_tasks: int
    evaluate_samples: int

    def campaign_overrides(self, settings: Settings) -> dict[str, Any]:
        """Return the overrides that make a campaign of `settings` the short one."""
        collect, evaluate = settings.collect, settings.evaluate
        return {
            "campaign": CAMPAIGN,
            "iterations": 1,
            "collect": {
                "tasks": min(collect.tasks, self.campaign_tasks),
                "samples": min(collect.samples, self.campaign_samples),
            },
            "evaluate": {
                "tasks": min(evaluate.tasks, self.evaluate_tasks),
                "samples": min(evaluate.samples, self.evaluate_samples),
            },
            "gate": {
                "control": False,
                "max_tasks": None,
                "guards": {
                    name: {"tasks": min(guard.tasks, self.evaluate_tasks), "samples": 1}
                    for name, guard in settings.gate.guards.items()
                },
            },
        }


ON_A_CARD = Sizes(
    False,
    epoch_batches=48,
    swap_batches=4,
    rounds=4,
    campaign_tasks=64,
    campaign_samples=8,
    evaluate_tasks=100,
    evaluate_samples=2,
)
ON_THE_CPU = Sizes(
    True,
    epoch_batches=8,
    swap_batches=2,
    rounds=2,
    campaign_tasks=24,
    campaign_samples=4,
    evaluate_tasks=24,
    evaluate_samples=2,
)


def merged(values: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings with others put over them."""
    result = dict(values)
    for name, other in others.items():
        mine = result.get(name)
        result[name] = merged(mine, other) if isinstance(mine, Mapping) and isinstance(other, Mapping) else other
    return result
