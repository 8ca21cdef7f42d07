"""Rows of JSON: one object a line, or a file that is one list of objects."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from agentloop.environments.rows import Fault, FileFault, Rows, Written, told
from agentloop.errors import SettingError
from agentloop.reading import read_lines, read_text
from agentloop.text import one_line_of

MOST_DIGITS = 4300
"""Of a whole number: what Python reads and writes."""

MOST_NESTED = 100
"""Lists and objects inside each other."""

_TOO_DEEP = f"it has more than {MOST_NESTED} lists and objects inside each other"
_SPACE = re.compile(r"[ \t\r\n]*")


class JsonLines(Rows):
    """One object a line; empty lines count and say nothing."""

    unit = "line"

    def read(
        self, columns: Collection[str] | None = None, wanted: Collection[int] | None = None
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        chosen = None if wanted is None else set(wanted)
        with told():
            for number, line in read_lines(self.files[0], FileFault):
                if not line.strip() or (chosen is not None and number not in chosen):
                    continue
                try:
                    row = _object_of(line)
                except Fault as fault:
                    raise self.refused(number, fault) from None
                yield number, self.named(row)


class JsonArray(Rows):
    """A list of objects. Its text is held, and one of its objects at a time."""

    def read(
        self, columns: Collection[str] | None = None, wanted: Collection[int] | None = None
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        chosen = None if wanted is None else set(wanted)
        with told():
            text = read_text(self.files[0], FileFault)
        number, position = 0, _after_space(text, 0) + 1  # behind the bracket
        while not text.startswith("]", position := _after_space(text, position)):
            number += 1
            if number > 1:
                if not text.startswith(",", position):
                    raise self._broken(text, position)
                position = _after_space(text, position + 1)
            try:
                value, end = _decoded(text, position)
                if not isinstance(value, dict):
                    raise Fault("is not a JSON object")
                _check_depth(text[position:end], value)
            except Fault as fault:
                raise self.refused(number, fault) from None
            except ValueError:
                raise self._broken(text, position) from None
            position = end
            if chosen is None or number in chosen:
                yield number, self.named(value)
        if (rest := _after_space(text, position + 1)) < len(text):
            raise self._broken(text, rest)

    def _broken(self, text: str, position: int) -> SettingError:
        line = text.count("\n", 0, position) + 1
        return SettingError(f"environment: {self.where}, line {line}: is no JSON from here on")


def begins_with_a_list(path: Path) -> bool:
    """Return True where a file that is named .json is one list, and not a file of lines."""
    with told():
        first = next((line for _, line in read_lines(path, FileFault) if line.strip()), "")
    return first.lstrip().startswith("[")


def _after_space(text: str, position: int) -> int:
    return _SPACE.match(text, position).end()


def _object_of(line: str) -> dict[str, Any]:
    try:
        row, end = _decoded(line, _after_space(line, 0))
        if _after_space(line, end) < len(line):
            row = None
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise Fault("is not a JSON object")
    _check_depth(line, row)
    return row


def _decoded(text: str, position: int) -> tuple[Any, int]:
    """The value that begins at `position`, and where it ends. Raises Fault, ValueError."""
    try:
        return _DECODER.raw_decode(text, position)
    except RecursionError:
        raise Fault(_TOO_DEEP) from None


def _check_depth(text: str, value: Any) -> None:
    if text.count("[") + text.count("{") > MOST_NESTED and _depth(value) > MOST_NESTED:
        raise Fault(_TOO_DEEP)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise Fault(f"has {one_line_of(next(name for name in names if names.count(name) > 1), most=60)!r} twice")
    return made


def _constant(name: str) -> float:
    raise Fault(f"has {name}, which is no JSON")


def _whole(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise Fault(f"has a number of more than {MOST_DIGITS} digits; write it as text")
    return int(digits)


def _decimal(digits: str) -> Written:
    if not math.isfinite(value := Written(digits)):
        raise Fault(f"has the number {one_line_of(digits, most=60)}, which is too large; write it as text")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_int=_whole, parse_float=_decimal)


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level := [each for each in level if isinstance(each, dict | list)]:
        depth += 1
        level = [inner for each in level for inner in (each.values() if isinstance(each, dict) else each)]
    return depth
