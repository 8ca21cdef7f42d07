"""Rows of comma or tab separated values: a header, and every cell a text, as it is written."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator
from typing import Any

from agentloop.environments.rows import Fault, FileFault, Rows, told
from agentloop.reading import read_lines
from agentloop.text import one_line_of

_MOST_CHARACTERS = 1 << 28
"""Of one cell."""


class Csv(Rows):
    """The dialect that spreadsheets save: cells in quotes may hold separators and ends of lines, and two quotes stand for one.

    Separated by tabs, or by the first of comma, semicolon and tab that the header has, unless `separator` says by what. A
    column without a name is left out.
    """

    unit = "line"
    empty_is_null = True
    separator: str | None = None

    def read(
        self, columns: Collection[str] | None = None, wanted: Collection[int] | None = None
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        chosen = None if wanted is None else set(wanted)
        with told():
            yield from self._read(chosen)

    def _read(self, chosen: set[int] | None) -> Iterator[tuple[int, dict[str, Any]]]:
        csv.field_size_limit(_MOST_CHARACTERS)
        lines = _Lines(f"{line}\n" for _, line in read_lines(self.files[0], FileFault))
        header = self._header(lines)
        reader = csv.reader(lines, delimiter=self.separator or _separator(header), strict=True)
        names: list[str] | None = None
        while True:
            first = lines.taken + 1
            try:
                cells = next(reader, None)
            except csv.Error as fault:
                raise self.refused(first, f"is no row of separated values: {fault}") from None
            if cells is None:
                return
            if not any(cells):
                continue
            try:
                if names is None:
                    names = _names(cells)
                    self.names = tuple(name for name in names if name)
                    continue
                if len(cells) != len(names):
                    raise Fault(f"has {len(cells)} cells, and the header has {len(names)}")
            except Fault as fault:
                raise self.refused(first, fault) from None
            if chosen is None or first in chosen:
                yield first, {name: cell for name, cell in zip(names, cells, strict=True) if name}

    def _header(self, lines: _Lines) -> str:
        return next((line for line in lines.peeked() if line.strip()), "")


class _Lines:
    """Lines that are counted as they are taken, and can be looked at before."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._kept: list[str] = []
        self.taken = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._kept.pop(0) if self._kept else next(self._lines)
        self.taken += 1
        return line

    def peeked(self) -> Iterator[str]:
        for line in self._lines:
            self._kept.append(line)
            yield line


def _separator(header: str) -> str:
    return next((sign for sign in ",;\t" if sign in header), ",")


def _names(cells: list[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    for name in names:
        if name and names.count(name) > 1:
            raise Fault(f"the header has {one_line_of(name, most=60)!r} twice")
    return names
