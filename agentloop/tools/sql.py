"""Read-only SQL on an in-memory DuckDB that belongs to one episode.

One SELECT statement is run, in a read-only transaction of a DuckDB that is closed off from files, network, extensions,
Python objects and its own settings. DuckDB's memory limit and its interrupt do not reach inside a scalar function
(`repeat('x', 4000000000)` takes 8 GB and ignores both), so only functions whose result is no larger than their
arguments are allowed.
"""

from __future__ import annotations

import inspect
import json
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import duckdb

from agentloop.tools.arguments import Arguments
from agentloop.tools.tool import ToolError

MAX_CHARACTERS = 2000
MAX_CELL_CHARACTERS = 200
MAX_EXPANDED = 200
"""Tables and subqueries in one query, common table expressions counted as often as they are named."""
_WATCH_SECONDS = 0.1

FUNCTIONS = frozenset(
    {
        "+",
        "-",
        "*",
        "/",
        "//",
        "%",
        "abs",
        "ceil",
        "floor",
        "round",
        "trunc",
        "~~",
        "!~~",
        "~~*",
        "!~~*",
        "lower",
        "upper",
        "length",
        "substr",
        "substring",
        "trim",
        "contains",
        "starts_with",
        "nullif",
        "ifnull",
        "coalesce",
        "greatest",
        "least",
        "count",
        "count_star",
        "sum",
        "avg",
        "min",
        "max",
        "median",
        "arg_min",
        "arg_max",
        "any_value",
        "first",
        "last",
        "row_number",
        "rank",
        "dense_rank",
        "lag",
        "lead",
    }
)
TYPES = frozenset({"BOOLEAN", "INTEGER", "INT", "BIGINT", "FLOAT", "DOUBLE", "DECIMAL", "VARCHAR", "TEXT", "DATE"})

_CONFIG = {
    "threads": 1,
    "async_threads": 0,  # else four for each core of the machine, of which an episode has no use
    "memory_limit": "64MB",
    "temp_directory": "",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",
}
_FORBIDDEN_NODES = {"TABLE_FUNCTION": "functions in FROM", "RECURSIVE_CTE_NODE": "recursive queries"}


class ReadOnlySQL:
    """The tool `query`: result of one SELECT statement on a small database that is the episode's own."""

    name = "query"
    signature = inspect.Signature(
        [inspect.Parameter("sql", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=str)], return_annotation=str
    )
    _arguments = Arguments(signature)

    def __init__(self, script: Sequence[str], schema: str, *, rows: int = 20, seconds: float = 2.0) -> None:
        """`script`: trusted statements that fill the empty database. `schema`: its tables, for the model to read. `rows`: most
        rows of a result that are shown. `seconds`: processor time that a query may take.
        """
        self.description = f"Result of one SELECT statement on these tables: {schema}"
        self._script, self._rows, self._seconds = tuple(script), rows, seconds
        self._connection: duckdb.DuckDBPyConnection | None = None

    def call(self, /, *args: Any, **kwargs: Any) -> str:
        """Return a single value alone, else the column names and rows, one a line.

        Raises ToolError for anything but one allowed SELECT, for a query that fails and for one that takes too long.
        """
        sql = self._arguments.bind(args, kwargs).arguments["sql"]
        if len(sql) > MAX_CHARACTERS:
            raise ToolError(f"the query is longer than {MAX_CHARACTERS} characters")
        cursor = self._open().cursor()
        ended = threading.Event()
        clock = time.pthread_getcpuclockid(threading.get_ident())
        watch = threading.Thread(target=self._interrupt, args=(cursor, clock, ended), daemon=True)
        watch.start()
        try:
            _check(sql, cursor)
            # A SELECT may hide an INSERT in its WITH clause: the transaction forbids it.
            cursor.execute("BEGIN TRANSACTION READ ONLY")
            cursor.execute(sql)
            names = [column[0] for column in cursor.description]
            rows = cursor.fetchmany(self._rows + 1)
        except duckdb.InterruptException:
            raise ToolError(f"the query took longer than {self._seconds:g} seconds") from None
        except duckdb.Error as error:
            raise ToolError(_first_line(str(error))) from None
        finally:
            ended.set()
            watch.join()
            cursor.close()
        return self._table(names, rows)

    def _interrupt(self, cursor: duckdb.DuckDBPyConnection, clock: int, ended: threading.Event) -> None:
        """End the query once its thread has used up its time. On a busy machine a query must not fail that otherwise works."""
        limit = time.clock_gettime(clock) + self._seconds
        while not ended.wait(min(self._seconds, _WATCH_SECONDS)):
            if time.clock_gettime(clock) > limit:
                cursor.interrupt()

    def _open(self) -> duckdb.DuckDBPyConnection:
        if self._connection is None:
            connection = duckdb.connect(":memory:", config=_CONFIG)
            for statement in self._script:
                connection.execute(statement)
            connection.execute("SET enable_external_access = false")
            connection.execute("SET lock_configuration = true")
            self._connection = connection
        return self._connection

    def _table(self, names: list[str], rows: list[tuple[Any, ...]]) -> str:
        if not rows:
            return "no rows"
        if len(rows) == len(names) == 1:
            return _cell(rows[0][0])
        lines = [" | ".join(names), *(" | ".join(map(_cell, row)) for row in rows[: self._rows])]
        if len(rows) > self._rows:
            lines.append(f"[only the first {self._rows} rows]")
        return "\n".join(lines)


def _check(sql: str, cursor: duckdb.DuckDBPyConnection) -> None:
    """Raise ToolError unless `sql` is a single SELECT of allowed functions and types, as DuckDB's own parser reads it."""
    (text,) = cursor.execute("SELECT json_serialize_sql(?)", [sql]).fetchone()
    try:
        parsed = json.loads(text)
    except RecursionError:
        raise ToolError("the query is nested too deeply") from None
    if parsed["error"]:
        syntax = parsed["error_type"] == "parser"
        raise ToolError(_first_line(parsed["error_message"]) if syntax else "only one SELECT statement is allowed")
    if len(parsed["statements"]) != 1:
        raise ToolError("only one SELECT statement is allowed")
    for node in _nodes(parsed):
        _refuse(node)
    try:
        size = _expanded(parsed, {})
    except RecursionError:
        raise ToolError("the query is nested too deeply") from None
    if size > MAX_EXPANDED:
        raise ToolError(
            f"the query is too large: its parts are used {size:,} times, at most {MAX_EXPANDED:,} are allowed"
        )


def _refuse(node: dict[str, Any]) -> None:
    """Raise ToolError for a node of the parsed query that is not allowed."""
    kind, function, type_name = (node.get(key) for key in ("type", "function_name", "type_name"))
    # under the same keys some nodes hold further nodes instead of a name
    if isinstance(kind, str) and kind in _FORBIDDEN_NODES:
        raise ToolError(f"{_FORBIDDEN_NODES[kind]} are not allowed")
    if isinstance(function, str) and function not in FUNCTIONS:
        raise ToolError(f"the function {_cut(function)} is not allowed")
    if isinstance(type_name, str) and type_name.upper() not in TYPES:
        raise ToolError(f"the type {_cut(type_name)} is not allowed")
    if node.get("sample"):
        raise ToolError("random samples are not allowed")


def _expanded(node: Any, common: dict[str, int]) -> int:
    """How many tables and subqueries are planned: a common table expression counts as often as it is named.

    DuckDB can neither interrupt nor bound its planning, and a query of 27 expressions of which each names the one before
    twice plans for a minute. `common`: this number for each common table expression in scope.
    """
    if isinstance(node, list):
        return sum(_expanded(each, common) for each in node)
    if not isinstance(node, dict):
        return 0
    rest = dict(node)
    ctes = rest.pop("cte_map", None)
    if isinstance(ctes, dict):
        common = dict(common)
        for entry in ctes.get("map", ()):
            common[str(entry.get("key")).casefold()] = _expanded(entry.get("value"), common)
    size = sum(_expanded(each, common) for each in rest.values())
    if rest.get("type") in ("SELECT_NODE", "BASE_TABLE"):
        size += 1
    if rest.get("type") == "BASE_TABLE":
        size += common.get(str(rest.get("table_name")).casefold(), 0)
    return size


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    pending = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            yield node
            pending += node.values()
        elif isinstance(node, list):
            pending += node


def _cell(value: Any) -> str:
    return "NULL" if value is None else _cut(str(value))


def _first_line(message: str) -> str:
    return _cut(message.partition("\n")[0])


def _cut(text: str) -> str:
    return text if len(text) <= MAX_CELL_CHARACTERS else f"{text[:MAX_CELL_CHARACTERS]}…"
