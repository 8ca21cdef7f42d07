"""Training runs and their metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agentloop.store.database import Database


def begin(database: Database, adapter_id: str, *, campaign: str, iteration: int, dataset: str, parent: str | None = None) -> None:
    """Note that training of this adapter begins (a run is named by the adapter it makes); once only."""
    raise NotImplementedError


def log(database: Database, adapter_id: str, metrics: Sequence[Mapping[str, float]]) -> None:
    """Store metrics, one mapping for a step: `step` and any of loss, learning_rate, grad_norm, tokens, seconds, ….

    A step that is stored already is replaced: a run that continues from a checkpoint repeats some.
    """
    raise NotImplementedError


def finish(database: Database, adapter_id: str, *, seconds: float, tokens: int, resumed: int = 0) -> None:
    """Note that the run is complete; `resumed` counts how often it continued from a checkpoint."""
    raise NotImplementedError
