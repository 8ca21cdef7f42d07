"""What DuckDB's errors mean: whether the database's file, a shard, the disk or the statement is at fault."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import duckdb

from agentloop.errors import AgentloopError, DiskError, NoSpaceError, ShardError, StoreError, lacks_space
from agentloop.store.shards import read_columns

_OF_THE_FILE = (
    duckdb.IOException,
    duckdb.SerializationException,
    duckdb.FatalException,
    duckdb.OutOfMemoryException,
)


def said(error: duckdb.Error, path: Path, file: Path) -> str:
    """The error on one line, without its place in the statement. `file` is what is open, a copy of the database at `path`."""
    text = re.split(r"\n\n|\nLINE |\nPossible solutions", str(error))[0]
    named = text.replace(str(file), str(path)).replace(file.stem.lstrip("."), path.stem)
    return " ".join(named.split()) or type(error).__name__


def of_a_file(
    error: duckdb.Error, path: Path, file: Path, shards: Callable[[], Sequence[Path]] = lambda: ()
) -> AgentloopError | None:
    """The error that names the file at fault; None where the statement is. `shards`: the files that statements may read."""
    text = said(error, path, file)
    if lacks_space(error):
        return NoSpaceError(f"{path}: {text}")
    if "Could not write file" in text:
        return DiskError(f"{path}: {text}")
    if type(error) is duckdb.Error or isinstance(error, duckdb.IOException | duckdb.InvalidInputException):
        damaged = _damaged(error, text, shards)
        if damaged is not None:
            return damaged
    if isinstance(error, duckdb.IOException) and str(file) not in str(error) and '"/' in text:
        return None  # about another file, which the statement names
    if isinstance(error, _OF_THE_FILE) or "Corrupt database file" in text:  # the latter has no type of its own
        return StoreError(f"{path}: {text}")
    return None


def _damaged(error: duckdb.Error, text: str, shards: Callable[[], Sequence[Path]]) -> ShardError | None:
    """The shard that cannot be read. What is wrong inside a Parquet file has no type of its own, and often no name either:
    then all are tried."""
    try:
        files = shards()
    except duckdb.Error:  # the database itself cannot be read
        return None
    for shard in files:
        if type(error) is not duckdb.Error and str(shard) not in text:
            continue
        try:
            read_columns(shard)
            with duckdb.connect() as connection:
                connection.execute("SELECT max(hash(row)) FROM read_parquet(?) row", [str(shard)]).fetchall()
        except ShardError as fault:
            return fault
        except duckdb.Error as fault:
            return ShardError(f"{shard}: cannot be read ({said(fault, shard, shard)})")
    return None
