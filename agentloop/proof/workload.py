"""Rows like an agent's, to train on: trajectories that are stored, or where those are too few, synthetic ones."""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agentloop.campaign import train
from agentloop.campaign.campaign import Campaign
from agentloop.naming import content_id
from agentloop.proof import synthetic
from agentloop.store import datasets
from agentloop.store.database import Database
from agentloop.training import objectives, rows
from agentloop.training.example import Example
from agentloop.training.run import TrainingRun
from agentloop.training.trainer import plan_steps

STORED, SYNTHETIC = "stored trajectories", "synthetic token ids"
SUPERVISED = 0.3
_MEDIAN = 700 / 2048
"""Of the length of a row, as a share of agent.max_tokens."""
_QUERY = Path(__file__).with_name("stored_rows.sql")

Row = tuple[tuple[int, ...], tuple[bool, ...]]
"""(token ids, mask), the mask True where the token is trained on."""


@dataclass(frozen=True)
class Workload:
    source: str
    rows: list[Row]

    def planned(self, campaign: Campaign, *, parent: str | None = None, seed: int | None = None) -> TrainingRun:
        """One epoch on these rows, written to the campaign's data root; planned as a campaign plans its own."""
        settings = campaign.settings
        name = content_id("data", self.rows)
        rows.write(settings.paths.data / "datasets" / f"{name}.safetensors", self.rows)
        changes = {"epochs": 1, "continue_adapter": parent is not None}
        training = settings.training.on_successes().model_copy(update=changes)
        changed = {"training": training, "seed": settings.seed if seed is None else seed}
        return train.plan(replace(campaign, settings=settings.model_copy(update=changed)), name, parent=parent)

    def first(self, campaign: Campaign, batches: int) -> Workload:
        """Return as many of the rows as fill about so many batches."""
        return Workload(self.source, list(_filling(self.rows, batches * campaign.settings.training.batch_tokens)))

    def about(self, campaign: Campaign) -> dict[str, Any]:
        """Return what was trained on, as JSON values."""
        lengths = [len(ids) for ids, _ in self.rows]
        training = campaign.settings.training.on_successes().model_copy(update={"epochs": 1})
        objective, examples = objectives.chosen(training), [Example.success(ids, mask) for ids, mask in self.rows]
        return {
            "source": self.source,
            "rows": len(lengths),
            "tokens": sum(lengths),
            "supervised_share": sum(sum(mask) for _, mask in self.rows) / sum(lengths),
            "median_row_tokens": statistics.median(lengths),
            "longest_row_tokens": max(lengths),
            "batches": len(plan_steps(objective.rows(examples), objective, training, campaign.settings.seed)),
        }


def load(campaign: Campaign, source: Path, *, batches: int) -> Workload:
    """Rows for about so many batches. `source`: a data root, whose trajectories of this base are used where they suffice.

    Nothing of the data root is changed.
    """
    tokens = batches * campaign.settings.training.batch_tokens
    stored = _stored(campaign, source, tokens)
    if sum(len(ids) for ids, _ in stored) >= tokens:
        return Workload(STORED, stored)
    return Workload(SYNTHETIC, _synthetic(campaign, tokens))


def _synthetic(campaign: Campaign, tokens: int) -> list[Row]:
    from agentloop.model_directory.configuration import read_architecture

    shape = read_architecture(campaign.model)
    settings = campaign.settings
    longest = min(settings.agent.max_tokens, settings.selection.max_tokens, settings.training.batch_tokens)
    rng = random.Random(0)
    made, total = [], 0
    while total < tokens:
        length = min(longest, synthetic.row_length(rng, _MEDIAN * longest))
        ids, mask = synthetic.row(rng, length, SUPERVISED, shape.ple_vocab or shape.vocab)
        made.append((tuple(ids), tuple(mask)))
        total += length
    return made


def _stored(campaign: Campaign, root: Path, tokens: int) -> list[Row]:
    file = root / "agentloop.duckdb"
    if not file.is_file():
        return []
    settings = campaign.settings
    longest = min(settings.selection.max_tokens, settings.training.batch_tokens)
    with Database.open_snapshot(file) as database:
        found = database.execute(
            _QUERY.read_text(encoding="utf-8"), {"base": campaign.base, "longest": longest, "tokens": tokens}
        )
        chosen = [trajectory for (trajectory,) in found]
        parts = (part for row in datasets.tokens(database, chosen) for part in row.conversations())
        return [(tuple(part.token_ids.tolist()), tuple(part.mask.tolist())) for part in parts]


def _filling(of: Sequence[Row], tokens: int) -> Iterator[Row]:
    total = 0
    for row in of:
        if total >= tokens:
            return
        total += len(row[0])
        yield row
