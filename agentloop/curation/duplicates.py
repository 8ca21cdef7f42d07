"""Near duplicates: rows that teach what an earlier row of the same choice teaches already.

A row is one where its question is nearly an earlier row's and what the model did is nearly the same too. Nearly is
measured as in Broder 1997 ("On the resemblance and containment of documents"): the runs of five words that two texts
have in common, as a share of all runs of either. A text of fewer words is one run. Runs that most questions of a family have
are its template, and not counted: what a game's opening says to everybody would make all games of it one. Where words have no
spaces between them, characters are counted instead (wording.sql).
"""

from __future__ import annotations

from pathlib import Path

from agentloop.store import wording
from agentloop.store.database import Database

QUERIES = Path(__file__).parent / "duplicates"

SKETCH = 8
"""Smallest hashes of a text's runs by which it is compared with others, so that cost grows with the rows and not with
their square. Two texts that share 70 % of their runs have none of 8 in common once in 15,000 times."""


def find(database: Database, max_overlap: float) -> list[tuple[str, str]]:
    """(row, earlier row that it is nearly the same as) of the temporary table `chosen`, in its order.

    `max_overlap`: share of common runs above which two texts are nearly the same.
    """
    database.execute(_query("questions"))
    near(database, max_overlap)
    database.execute(_query("answers"))
    return near(database, max_overlap)


def near(database: Database, max_overlap: float) -> list[tuple[str, str]]:
    """(name, earlier name) of those in the temporary table `texts` that are nearly an earlier one of their block.

    They are in the temporary table `near` afterwards.
    """
    wording.prepare(database, "SELECT text FROM texts")
    database.execute(_query("near"), {"sketch": SKETCH, "max_overlap": max_overlap, "template": wording.TEMPLATE})
    return database.execute("SELECT name, earlier FROM near ORDER BY place, name")


def _query(name: str) -> str:
    return (QUERIES / f"{name}.sql").read_text(encoding="utf-8")
