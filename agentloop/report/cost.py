"""What a campaign cost: where its time went, and what else each iteration took.

Wall clock is the time in which a run was at work, so that a night's pause between two runs is nobody's. Each iteration's is
divided into parts; what no part accounts for is `other`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from agentloop.report import query
from agentloop.store import runs
from agentloop.store.clock import now
from agentloop.store.database import Database

PARTS = {
    "sampling": ("collect", "demonstrate"),
    "evaluation": ("evaluate",),
    "training steps": ("trainer steps",),
    "trainer start": ("trainer start",),
    "trainer save": ("trainer save", "train"),
    "vLLM start": ("vllm start",),
    "vLLM swap": ("vllm stop", "vllm load", "vllm sleep", "vllm wake"),
    "canary": ("canary",),
}
"""The parts that are shown, in this order, and what v_times calls what belongs to each; `other` is the rest."""
OTHER = "other"
WORK = ("sampling", "evaluation", "training steps")
"""Parts that are the work itself."""
LOADING = ("trainer start", "vLLM start")
"""Parts that load a model."""


@dataclass(frozen=True)
class Cost:
    """All that one iteration, the control or everything outside of them took."""

    iteration: int | None
    """None for what is outside of the iterations: the base's judgement, evaluations alone, begin and end of runs."""
    control: bool
    wall: float
    parts: dict[str, float]
    """Seconds by the names of PARTS, and `other`; they add up to `wall`."""
    spent: dict[str, Any]
    """A row of queries/spent.sql."""

    @property
    def name(self) -> str:
        if self.iteration is None:
            return "outside"
        return "control" if self.control else str(self.iteration)

    def share(self, parts: Sequence[str]) -> float:
        """Return the share of the wall clock that these parts took."""
        return sum(self.parts[part] for part in parts) / self.wall if self.wall else 0.0

    @property
    def overhead(self) -> float:
        """Share of the wall clock that is neither work nor the loading of a model."""
        return max(0.0, 1 - self.share((*WORK, *LOADING))) if self.wall else 0.0


def of_campaign(database: Database, campaign: str) -> list[Cost]:
    """Return one for each iteration, one for the control, and one for what is outside of them, as far as they took any time."""
    times = query.rows(database, "times", campaign=campaign)
    spent = {(row["iteration"], row["control"]): row for row in query.rows(database, "spent", campaign=campaign)}
    at_work = _at_work(database, campaign)
    costs, inside = [], 0.0
    rest = [each for each in times if each["iteration"] == 0]
    for (iteration, control), row in spent.items():
        if iteration == 0:
            continue
        own = [each for each in times if (each["iteration"], each["control"]) == (iteration, control)]
        if control and all(each["part"].startswith("vllm ") for each in own):  # at the end of the run vLLM is stopped
            rest += own
            continue
        if control:
            last = max((each["ended"] for each in own), default=_epoch(row["finished"]))
            stretch = (_epoch(row["finished"]), last)
        elif row["started"] is None:
            continue
        else:
            stretch = (_epoch(row["started"]), _epoch(row["finished"]) if row["finished"] else _epoch(now()))
        cost = _divided(iteration, control, _overlap(stretch, at_work), own, row)
        inside += cost.wall
        costs.append(cost)
    total = sum(end - start for start, end in at_work)
    outside = _divided(None, False, max(total - inside, 0.0), rest, spent.get((0, False), {}))
    return [*costs, outside] if outside.wall >= 0.5 else costs


def _divided(
    iteration: int | None, control: bool, wall: float, own: Sequence[dict[str, Any]], spent: dict[str, Any]
) -> Cost:
    seconds = {each["part"]: each["seconds"] for each in own}
    parts = {name: sum(seconds.get(each, 0.0) for each in members) for name, members in PARTS.items()}
    if not parts["training steps"]:  # from before its parts were recorded
        parts["training steps"], parts["trainer save"] = parts["trainer save"], 0.0
    known = sum(parts.values())
    wall = max(wall, known)
    parts[OTHER] = wall - known
    return Cost(iteration, control, wall, parts, spent)


def _at_work(database: Database, campaign: str) -> list[tuple[float, float]]:
    """From when to when a run was at work, in seconds; of a campaign from before runs were recorded, its iterations."""
    found = [(run.started, run.finished or now()) for run in runs.of_campaign(database, campaign)]
    first = min((start for start, _ in found), default=datetime.max)
    found += [
        (started, finished)
        for started, finished in database.execute(
            "SELECT started, finished FROM iterations WHERE campaign = ? AND finished > started", [campaign]
        )
        if started < first
    ]
    return [(_epoch(start), max(_epoch(start), _epoch(end))) for start, end in found]


def _overlap(stretch: tuple[float, float], others: Iterable[tuple[float, float]]) -> float:
    start, end = stretch
    return sum(max(0.0, min(end, other_end) - max(start, other_start)) for other_start, other_end in others)


def _epoch(moment: datetime) -> float:
    return moment.replace(tzinfo=UTC).timestamp()
