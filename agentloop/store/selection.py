"""Selection: which trajectories are trained on, by a recipe in SQL (selection/*.sql) with typed parameters."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agentloop import settings
from agentloop.records import Dataset
from agentloop.store.database import Database


@dataclass(frozen=True)
class Selected:
    dataset: Dataset
    funnel: tuple[tuple[str, int], ...]
    """(rule, trajectories left after it), the first being all candidates."""


def select(
    database: Database, recipe: str | Path, campaign: str, iteration: int, parameters: settings.Selection, *,
    seed: int = 0, size: int | None = None, save: bool = True,
) -> Selected:
    """Choose rows by `recipe` (a name in selection/ or the path of a .sql file) among the campaign's collected trajectories.

    Candidates are those of iterations up to `iteration`, or of that one alone without `parameters.accumulate`. `size`
    limits the number of rows (`random` needs it: the matched control has as many rows as the dataset it controls for).
    With `save` the dataset and its rows are stored. The order is deterministic. Raises ContaminationError naming the rows
    where a held-out task is among the chosen ones, StoreError where a recipe cannot be used or nothing is left.
    """
    raise NotImplementedError
