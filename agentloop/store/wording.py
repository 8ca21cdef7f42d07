"""Texts as words, for queries that ask which texts are nearly the same, in scripts with and without spaces."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from agentloop.store.database import Database
from agentloop.text import comparable

MACROS = Path(__file__).with_suffix(".sql")
TEMPLATE = 20
"""Distinct questions of a family from which on it may have a template: of fewer, most may well be copies of one."""


def prepare(database: Database, texts: str) -> None:
    """Make the functions of wording.sql known, and the table `plain`: (text, plain), each once, without case, width and
    what cannot be seen. `texts`: a query with a column `text`."""
    database.execute(MACROS.read_text(encoding="utf-8"))
    database.execute(
        "CREATE OR REPLACE TEMP TABLE plain AS "
        f"SELECT DISTINCT text, lower(text) AS plain FROM ({texts}) WHERE regexp_full_match(text, '[\\x00-\\x7F]*')"
    )
    others = database.arrow(f"SELECT DISTINCT text FROM ({texts}) ANTI JOIN plain USING (text) WHERE text IS NOT NULL")
    plain = pa.array([comparable(text) for text in others["text"].to_pylist()], pa.string())
    database.connection.register("others", others.append_column("plain", plain))
    database.execute("INSERT INTO plain SELECT text, plain FROM others")
    database.connection.unregister("others")
