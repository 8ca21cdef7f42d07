"""What a base is measured on: opening prompts of training tasks, and stored trajectories that it has played."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from agentloop.campaign.campaign import Campaign
from agentloop.errors import ShardError
from agentloop.quantization.measuring import Material
from agentloop.records import Task
from agentloop.store import datasets
from agentloop.store.database import Database
from agentloop.worlds.stage import WorldDescription

PROMPTS = 8
"""Opening prompts that the KL divergence is measured on, each with what the base says next."""
STORED = 8
"""Trajectories of the base that are measured on as well, where there are any."""


def gather(campaign: Campaign) -> Material:
    """The campaign's material; without a database the prompts alone."""
    tasks = campaign.environment.tasks("train", PROMPTS, campaign.settings.seed)
    prompts = asyncio.run(_openings(campaign, tasks))
    return Material(prompts, _played(campaign), campaign.prompt.stop_token_ids)


def _played(campaign: Campaign) -> list[tuple[Sequence[int], Sequence[bool]]]:
    """Stored trajectories of the base, however it was held; none where there is no database yet."""
    path = campaign.settings.paths.database
    if not path.is_file():
        return []
    with Database.open_snapshot(path) as database:
        played = database.execute(
            """
            SELECT t.id FROM trajectories t JOIN policies p ON p.id = t.policy
            WHERE p.adapter IS NULL AND p.prompt = $prompt AND (p.base = $base OR starts_with(p.base, $base || '-'))
            ORDER BY t.id LIMIT $most
            """,
            {"prompt": campaign.prompt_name, "base": campaign.base, "most": STORED},
        )
        try:
            rows = list(datasets.tokens(database, [name for (name,) in played]))
        except ShardError:  # the prompts alone will do
            return []
    parts = (part for row in rows for part in row.conversations())
    return [(part.token_ids.tolist(), part.mask.tolist()) for part in parts if part.mask[1:].any()]


async def _openings(campaign: Campaign, tasks: Sequence[Task]) -> list[list[int]]:
    campaign.worlds.start()
    prompts = []
    for task in tasks:
        about = WorldDescription()
        if campaign.prompt.describes_tools:
            async with campaign.worlds.open(task, session=f"opening of {task.id}") as world:
                about = await world.describe()
        prompts.append(campaign.prompt.opening(task.question, about))
    return prompts
