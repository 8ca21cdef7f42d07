"""The report's questions to the database: one .sql file each in queries/, all of them read-only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agentloop.store.database import Database

QUERIES = Path(__file__).parent / "queries"


def rows(database: Database, name: str, **parameters: object) -> list[dict[str, Any]]:
    """The rows of queries/`name`.sql, each by column name. The parameters are those that the file's comment names."""
    return database.arrow((QUERIES / f"{name}.sql").read_text(encoding="utf-8"), parameters or None).to_pylist()
