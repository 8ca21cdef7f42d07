"""The selection step: which stored trajectories the challenger learns from."""

from __future__ import annotations

from typing import Any

from agentloop.campaign.campaign import Campaign
from agentloop.curation import recipes
from agentloop.curation import selection as selecting
from agentloop.settings import Selection
from agentloop.store import families


def select(
    campaign: Campaign, iteration: int, *, recipe: str | None = None, size: int | None = None, rows: int | None = None
) -> dict[str, Any]:
    """Select this iteration's dataset: `{dataset, rows, funnel}`.

    `recipe` and `size` are those of a matched control; `rows`: fewer than the settings allow.
    """
    selection = campaign.settings.selection
    recipe = recipe or recipes.for_training(campaign.settings)
    changed = {"recipe": recipe, "rows": rows and min(rows, selection.rows)}
    parameters: Selection = selection.model_copy(update={name: each for name, each in changed.items() if each})

    def work() -> dict[str, Any]:
        with campaign.database() as database:
            chosen = selecting.select(
                database,
                parameters.recipe,
                campaign.name,
                iteration,
                parameters,
                seed=campaign.settings.seed,
                size=size,
            )
        return {
            "dataset": chosen.dataset.id,
            "rows": len(chosen.dataset.trajectories),
            "funnel": [list(rule) for rule in chosen.funnel],
        }

    query = recipes.load(parameters.recipe).digest
    return campaign.step("select", iteration, [parameters, query, size], work)


def never_solved(campaign: Campaign) -> str:
    """One line about the families of tasks that were tried and never solved, with what to do; empty where there are none."""
    with campaign.database() as database:
        return families.offer(families.unsolved(database, campaign.name))
