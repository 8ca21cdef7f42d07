"""Where a campaign is in its work, read from the ledger: what is done, and what the next run would do."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentloop.errors import ShardError
from agentloop.store import champions
from agentloop.store.database import Database
from agentloop.store.shards import Footer, read_footer

_AFTER = {
    "begin": "collect",
    "plan": "collect",
    "select": "train",
    "train": "canary",
    "canary": "evaluate",
    "measure": "evaluate",
}
"""What follows a step of the ledger, which knows nothing of episodes: these lie in shards."""
ROLL_OUTS = ("collect", "evaluate")
"""Steps that are episodes; their shards name them as their purpose."""


@dataclass(frozen=True)
class Position:
    """The next thing to do."""

    iteration: int
    step: str | None
    """collect, select, train, canary, evaluate or decide; None where nothing is left to do."""
    control: bool = False
    """Of the control, which follows the last iteration."""
    begun: bool = True
    """False where nothing of the iteration is recorded yet."""
    measured: int = 0
    """Policies that were measured since the gate last judged, or since the canary."""
    looks: int = 0
    """How often the gate has asked for more data."""

    @property
    def of(self) -> str:
        """Return what the step is part of, for people."""
        return "the control" if self.control else f"iteration {self.iteration}"


def find(database: Database, campaign: str, *, iterations: int, control: bool) -> Position:
    """The position of a campaign that is to have so many iterations, and a control where `control` says so."""
    finished = {
        iteration
        for (iteration,) in database.execute(
            "SELECT iteration FROM iterations WHERE campaign = ? AND finished IS NOT NULL", [campaign]
        )
    }
    unfinished = next((each for each in range(1, iterations + 1) if each not in finished), None)
    if unfinished is not None:
        done = _done(database, campaign, unfinished)
        if not done or _rolled_back(database, campaign, done):
            return Position(unfinished, "collect", begun=False)
        return _behind(done, unfinished)
    if not control or _control_is_measured(database, campaign, iterations):
        return Position(iterations, None)
    done = _done(database, campaign, iterations)
    own = done[max((place + 1 for place, each in enumerate(done) if each.name == "decide"), default=0) :]
    return _behind(own, iterations, control=True) if own else Position(iterations, "select", control=True)


def waiting_shards(database: Database, shards: Path) -> list[tuple[Path, Footer]]:
    """Shards that are whole and have not been taken into the database: the episodes of what is being played."""
    taken = {
        database.resolve(path).name for (path,) in database.execute("SELECT path FROM shards WHERE status <> 'damaged'")
    }
    found = []
    for file in sorted(shards.glob("*.parquet")):
        if file.name not in taken:
            try:
                found.append((file, read_footer(file)))
            except ShardError:
                continue
    return found


def planned_shards(settings: Mapping[str, Any], step: str, looks: int = 0) -> int:
    """Return how many shards a policy's episodes make: those of an iteration, or those that the next look adds after `looks`.

    `settings`: a campaign's, as JSON.
    """
    collect, evaluate = settings["collect"], settings["evaluate"]
    if step == "collect":
        episodes = collect["tasks"] * collect["samples"]
    else:
        episodes = evaluate["tasks"] * 2 ** max(looks - 1, 0) * evaluate["samples"]
    return math.ceil(episodes / collect["shard_episodes"])


@dataclass(frozen=True)
class _Done:
    name: str
    result: dict[str, Any]


def _done(database: Database, campaign: str, iteration: int) -> list[_Done]:
    """The steps that are done since the iteration last began, in order."""
    rows = [
        _Done(name, json.loads(result))
        for name, result in database.execute(
            "SELECT name, result FROM steps WHERE campaign = ? AND iteration = ? AND status = 'done' ORDER BY ended",
            [campaign, iteration],
        )
    ]
    begun = max((place for place, each in enumerate(rows) if each.name == "begin"), default=len(rows))
    return rows[begun:]


def _rolled_back(database: Database, campaign: str, done: Sequence[_Done]) -> bool:
    """Whether somebody has moved the pointer since the iteration began, so that it begins again."""
    judged = any(each.name == "decide" for each in done)  # the gate itself moves it then
    return not judged and champions.champion(database, campaign) != done[0].result["champion"]


def _behind(done: Sequence[_Done], iteration: int, *, control: bool = False) -> Position:
    """The position behind these steps."""
    looks = sum(map(_asks_for_more, done))
    measured = next((count for count, each in enumerate(reversed(done)) if each.name != "measure"), len(done))
    if _asks_for_more(done[-1]):
        step = "evaluate"
    else:
        # champion and challenger are measured, and perhaps guards
        step = "decide" if measured >= 2 else _AFTER.get(done[-1].name, done[-1].name)
    return Position(iteration, step, control, measured=measured, looks=looks)


def _asks_for_more(done: _Done) -> bool:
    return done.name == "decide" and done.result["decision"] == "needs_more_data"


def _control_is_measured(database: Database, campaign: str, iteration: int) -> bool:
    rows = database.execute(
        "SELECT 1 FROM evaluation_uses WHERE campaign = ? AND iteration = ? AND role = 'control' LIMIT 1",
        [campaign, iteration],
    )
    return bool(rows)
