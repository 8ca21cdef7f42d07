"""Training runs and their metrics. A run is named by the adapter it makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from agentloop.store.clock import now
from agentloop.store.database import Database


def begin(
    database: Database, adapter_id: str, *, campaign: str, iteration: int, dataset: str, parent: str | None = None
) -> None:
    """Note that training of this adapter begins; once only."""
    database.execute(
        "INSERT INTO training_runs VALUES (?, ?, ?, ?, ?, ?, NULL, NULL, NULL, NULL) ON CONFLICT DO NOTHING",
        [adapter_id, campaign, iteration, dataset, parent, now()],
    )


def log(database: Database, adapter_id: str, metrics: Sequence[Mapping[str, float]]) -> None:
    """Store metrics, one mapping for a step: `step` and any of loss, learning_rate, grad_norm, tokens, seconds, ….

    A metric that is None is left out. A step that is stored already is replaced: a run that continues from a checkpoint
    repeats some.
    """
    values = [
        (int(row["step"]), name, float(value))
        for row in metrics
        for name, value in row.items()
        if name != "step" and value is not None
    ]
    table = pa.table(
        {
            "step": pa.array([step for step, _, _ in values], pa.int32()),
            "name": pa.array([name for _, name, _ in values], pa.string()),
            "value": pa.array([value for _, _, value in values], pa.float64()),
        }
    )
    database.connection.register("logged", table)
    with database.transaction():
        database.execute(
            "DELETE FROM training_metrics WHERE adapter = ? AND step IN (SELECT step FROM logged)", [adapter_id]
        )
        database.execute("INSERT INTO training_metrics SELECT ?, step, name, value FROM logged", [adapter_id])
    database.connection.unregister("logged")


def metrics(database: Database, adapter_id: str) -> list[dict[str, float]]:
    """Return what `log` was given, one mapping for a step, in order."""
    rows = database.execute(
        """
        SELECT step, map_from_entries(list((name, value)))
        FROM training_metrics WHERE adapter = ? GROUP BY step ORDER BY step
        """,
        [adapter_id],
    )
    return [{"step": step, **values} for step, values in rows]


def finish(database: Database, adapter_id: str, *, seconds: float, tokens: int, resumed: int = 0) -> None:
    """Note that the run is complete; `resumed` counts how often it continued from a checkpoint."""
    database.execute(
        "UPDATE training_runs SET finished = ?, seconds = ?, tokens = ?, resumed = ? "
        "WHERE adapter = ? AND finished IS NULL",
        [now(), seconds, tokens, resumed, adapter_id],
    )
