"""Paces: how long a campaign's newest iterations took over an episode, a row that is trained on, and everything else."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from agentloop.store.database import Database

NEWEST = 3
"""Iterations that are looked at."""


@dataclass(frozen=True)
class Pace:
    """Medians over the newest iterations."""

    episode_seconds: float
    row_seconds: float
    """Of training, all its epochs and its start included."""
    rows: int
    """Trained on in one iteration."""
    other_seconds: float
    """Of an iteration: measuring, the canary, starts of vLLM."""


def of(database: Database, campaign: str) -> Pace | None:
    """Return the paces; None where no iteration was timed from its beginning to its end."""
    rows = database.execute(
        """
        WITH phases AS (
            SELECT iteration,
                   sum(epoch(finished) - epoch(started)) FILTER (phase = 'collect') AS collecting,
                   sum(epoch(finished) - epoch(started)) FILTER (phase = 'train') AS training
            FROM gpu_phases WHERE campaign = $campaign GROUP BY iteration
        ),
        played AS (
            SELECT iteration, count(*) AS episodes FROM collected
            WHERE campaign = $campaign AND purpose = 'collect' GROUP BY iteration
        ),
        trained AS (
            SELECT json_extract(result, '$.rows')::INTEGER AS rows, iteration FROM steps
            WHERE campaign = $campaign AND name = 'select' AND status = 'done'
            QUALIFY row_number() OVER (PARTITION BY iteration ORDER BY ended) = 1
        )
        SELECT collecting / episodes, training / rows, rows,
               greatest(epoch(finished) - epoch(started) - collecting - training, 0)
        FROM iterations JOIN phases USING (iteration) JOIN played USING (iteration) JOIN trained USING (iteration)
        WHERE campaign = $campaign AND finished IS NOT NULL AND collecting > 0 AND training > 0 AND rows > 0
        ORDER BY iteration DESC LIMIT $newest
        """,
        {"campaign": campaign, "newest": NEWEST},
    )
    if not rows:
        return None
    episode, row, count, other = (median(column) for column in zip(*rows, strict=True))
    return Pace(episode, row, int(count), other)
