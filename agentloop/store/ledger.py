"""The ledger: which steps are done, and with what result. A step looks here first."""

from __future__ import annotations

from typing import Any

from agentloop.store.database import Database


class Ledger:
    """Steps by key. The key is a content id of everything that determines the step's result."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def done(self, key: str) -> Any | None:
        """The JSON result of a finished step, None where it is not finished. (A step's result is never None.)"""
        raise NotImplementedError

    def start(self, key: str, *, campaign: str, iteration: int, name: str) -> None:
        """Note that a step begins; without effect on a finished step."""
        raise NotImplementedError

    def record(self, key: str, *, campaign: str, iteration: int, name: str, result: Any) -> None:
        """Note that a step is finished. The first result stays: recording it again changes nothing."""
        raise NotImplementedError

    def fail(self, key: str, *, campaign: str, iteration: int, name: str, error: str) -> None:
        """Note that a step failed, for people to see; it counts as not done."""
        raise NotImplementedError
