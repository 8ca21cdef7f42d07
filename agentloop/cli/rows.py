"""The rows of a query as they are stored: for a terminal, whatever its width, for a pipe, for a program."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Iterator, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
from rich.cells import cell_len
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from agentloop.cli.common import as_json

LONGEST = 2_000
"""Characters of one value that a terminal shows."""
NARROWEST = 12
"""Columns of a terminal below which a column of long values cannot be read."""
NULL = "NULL"
_BETWEEN = 2
"""Spaces between columns."""
_NAMED = {"\n": r"\n", "\t": r"\t", "\r": r"\r"}
_UNSEEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
"""Unicode's categories of what is not seen, or does something else than to be seen."""


def for_a_terminal(result: pa.Table, width: int) -> Iterator[RenderableType]:
    """A table where all columns have room, else each row as a list of names and values.

    Long values are folded, and cut at LONGEST; a line break inside a value is shown, and made.
    """
    names = [visible(name) for name in result.column_names]
    rows = [[_cut(_shown(value, field.type)) for value, field in zip(row, result.schema)] for row in _rows(result)]
    columns = list(zip(*rows)) or [()] * len(names)
    if sum(_least(name, column) + _BETWEEN for name, column in zip(names, columns)) <= width:
        yield _table(names, rows, [_is_number(field.type) for field in result.schema])
    else:
        yield from (_record(number, names, row, width) for number, row in enumerate(rows, 1))


def _table(names: Sequence[str], rows: Sequence[Sequence[str | None]], numbers: Sequence[bool]) -> Table:
    table = Table(box=None, padding=(0, _BETWEEN, 0, 0), header_style="bold")
    for name, number in zip(names, numbers):
        table.add_column(Text(name), overflow="fold", justify="right" if number else "left")
    for row in rows:
        table.add_row(*map(_cell, row))
    return table


def _record(number: int, names: Sequence[str], row: Sequence[str | None], width: int) -> Table:
    padding = (0, _BETWEEN, 0, 0)
    record = Table(box=None, padding=padding, show_header=False, title=f"row {number}", title_justify="left")
    record.add_column(style="bold", overflow="fold", max_width=max(width // 3, 1))
    record.add_column(overflow="fold")
    for name, text in zip(names, row):
        record.add_row(Text(name), _cell(text))
    return record


def for_a_pipe(result: pa.Table) -> Iterator[str]:
    """Lines of values that are separated by tabs and not cut, the names of the columns first."""
    yield "\t".join(visible(name) for name in result.column_names)
    for row in _rows(result):
        texts = (_shown(value, field.type) for value, field in zip(row, result.schema))
        yield "\t".join(NULL if text is None else visible(text) for text in texts)


def for_a_program(result: pa.Table) -> Iterator[str]:
    """A JSON object for each row. Columns of one name become a, a_1, …; NaN and the infinities become text."""
    names = _distinct(result.column_names)
    for row in _rows(result):
        values = (_json(value, field.type) for value, field in zip(row, result.schema))
        yield as_json(dict(zip(names, values)))


def visible(text: str) -> str:
    r"""The text with what cannot be seen written out: a line break as \n, an escape as \x1b, a mark of direction as \u202e."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(each if each.isprintable() or not _unseen(each) else _escape(each) for each in text)


def _unseen(character: str) -> bool:
    return unicodedata.category(character) in _UNSEEN


def _escape(character: str) -> str:
    if character in _NAMED:
        return _NAMED[character]
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _rows(result: pa.Table) -> Iterator[tuple[Any, ...]]:
    """By place, not by name: two columns may have one name."""
    for batch in result.to_batches(max_chunksize=1000):
        yield from zip(*(column.to_pylist() for column in batch.columns))


def _shown(value: Any, kind: pa.DataType) -> str | None:
    """The value as text, None for NULL."""
    if value is None:
        return None
    value = str(value) if isinstance(value, Decimal) else _json(value, kind)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _json(value: Any, kind: pa.DataType | None = None) -> Any:
    """The value as JSON has it: times, intervals, bytes and what no float holds exactly as text."""
    if isinstance(value, bool | int | str | None):
        return value
    if isinstance(value, Decimal):
        number = int(value) if value == value.to_integral_value() else float(value)
        return number if Decimal(str(number)) == value else str(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        # of 32 bits: 0.1, not 0.10000000149011612
        return float(str(np.float32(value))) if kind is not None and pa.types.is_float32(kind) else value
    if isinstance(value, dict):
        return {str(name): _json(each) for name, each in value.items()}
    if isinstance(value, list | tuple) and not isinstance(value, pa.MonthDayNano):
        inner = kind.value_type if kind is not None and pa.types.is_list(kind) else None
        return [_json(each, inner) for each in value]
    if isinstance(value, pa.MonthDayNano):
        return _interval(value)
    if isinstance(value, bytes):
        return "".join(chr(each) if 0x20 <= each < 0x7F else f"\\x{each:02x}" for each in value)
    return str(value)


def _interval(value: pa.MonthDayNano) -> str:
    parts = ((value.months, "month"), (value.days, "day"))
    named = [f"{count} {name}{'s' * (abs(count) != 1)}" for count, name in parts if count]
    time = timedelta(microseconds=abs(value.nanoseconds) // 1000)
    sign = "-" if value.nanoseconds < 0 else ""
    return " ".join([*named, f"{sign}{time}"] if value.nanoseconds or not named else named)


def _cut(text: str | None) -> str | None:
    """A value that fits on a terminal, a line for each of its own."""
    if text is None:
        return None
    short = text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
    return "\n".join(visible(line) for line in short.replace("\n", "\\n\n").split("\n"))


def _cell(text: str | None) -> Text:
    return Text(NULL, style="dim") if text is None else Text(text)


def _least(name: str, column: Sequence[str | None]) -> int:
    """What a column needs to be read: the width of its values, as far as they are not long."""
    widest = max((cell_len(line) for text in column for line in (text or NULL).split("\n")), default=0)
    return max(cell_len(name), min(widest, NARROWEST))


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def _distinct(names: Sequence[str]) -> list[str]:
    found: list[str] = []
    for name in names:
        other, count = name, 0
        while other in found or (count and other in names):
            count += 1
            other = f"{name}_{count}"
        found.append(other)
    return found
