"""Questions out of rows: which columns they are in, what is refused, and which of them are there twice.

The rows are gone through once, to check and to count them. Few are kept; of many only their numbers, and they are read again
in the order in which they are asked for.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import random
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from agentloop.environments.arithmetic import same_number
from agentloop.environments.environment import Question
from agentloop.environments.rows import Fault, Rows
from agentloop.errors import SettingError
from agentloop.records import Split
from agentloop.text import composed, is_blank, one_line_of

KEPT = 1 << 26
"""Bytes of questions, as JSON, that are held at a time."""

_FIELDS = ("question", "answer", "family", "split")
_NUMBER_BITS = 40
"""Of a key the number of a row; the bits above say which of the files it is in."""
_OWN_SPLITS: Mapping[str, Split | None] = {"train": "train", "heldout": "heldout"}

Adapt = Callable[[dict[str, Any]], dict[str, Any] | None]
"""What the user's class makes of a row; None leaves it out."""


@dataclass(frozen=True)
class Layout:
    """The columns of a row that hold the parts of a question."""

    columns: Mapping[str, str]
    """By part: question, answer, family and split, which have columns of their own names unless it says otherwise, and id."""
    payload: tuple[str, ...] | None
    """Columns that go into the payload; None: all that are not among the parts."""
    splits: Mapping[str, Split | None] | None
    """What the splits of a dataset are for, or the values of the column `split`. None as a value: the hash decides."""

    @classmethod
    def of(cls, columns: Any, payload: Any, splits: Any) -> Layout:
        """Read the layout from a user's class. Raises SettingError, in one line that does not yet name the environment."""
        known = (*_FIELDS, "id")
        if not isinstance(columns, Mapping) or not all(isinstance(each, str) for each in columns.values()):
            raise SettingError("columns must be a mapping from parts of a question to columns of the file")
        if unknown := [name for name in columns if name not in known]:
            raise SettingError(f"columns has {one_line_of(unknown[0], most=60)!r}, which is none of {', '.join(known)}")
        if payload is not None:
            if isinstance(payload, str) or not isinstance(payload, Sequence) or not all(map(_is_text, payload)):
                raise SettingError("payload must be a sequence of columns, or None for all")
            payload = tuple(payload)
        if splits is not None:
            if not isinstance(splits, Mapping) or not splits or not all(map(_is_text, splits)):
                raise SettingError("splits must be a mapping from splits of the dataset to train, heldout or None")
            if wrong := [each for each in splits.values() if each not in ("train", "heldout", None)]:
                raise SettingError(
                    f"splits has {one_line_of(wrong[0], most=60)!r}, which is not train, heldout or None"
                )
        return cls(dict(columns), payload, splits)

    def column(self, part: str) -> str:
        return self.columns.get(part, part)

    @property
    def needed(self) -> frozenset[str] | None:
        """The columns that are read; None: all."""
        if self.payload is None:
            return None
        return frozenset((*map(self.column, _FIELDS), *self.columns.values(), *self.payload))

    def question(self, row: Mapping[str, Any], part: Part) -> Question:
        """Raises Fault."""
        rows = part.rows
        text, answer = self._text(row, "question"), self._text(row, "answer", numbers=True)
        family = "all" if self._absent(row, rows, "family") else self._text(row, "family", numbers=True)
        split = part.split if part.whole else self._split(row, rows)
        if self.payload is None:
            used = self._parts_of_whole if part.whole else self._parts
            payload = {name: _plain(value, name) for name, value in row.items() if name not in used}
        else:
            payload = {name: _plain(_there(row, name), name) for name in self.payload}
        if "id" in self.columns:
            payload.pop(self.columns["id"], None)
            payload["id"] = self._id(row)
        return Question(family, text, answer, payload, split)

    @cached_property
    def _parts(self) -> frozenset[str]:
        return frozenset(map(self.column, _FIELDS))

    @cached_property
    def _parts_of_whole(self) -> frozenset[str]:
        return frozenset(self.column(name) for name in _FIELDS if name != "split")

    def _split(self, row: Mapping[str, Any], rows: Rows) -> Split | None:
        if self._absent(row, rows, "split"):
            return None
        splits, value = self.splits or _OWN_SPLITS, row[self.column("split")]
        if not isinstance(value, str) or value not in splits:
            name, known = self.column("split"), " or ".join(splits)
            raise Fault(f"{name} must be {known}, not {one_line_of(value, most=60)!r}")
        return splits[value]

    def _id(self, row: Mapping[str, Any]) -> str | int:
        value = _there(row, self.columns["id"])
        return value if isinstance(value, int) and not isinstance(value, bool) else self._text(row, "id")

    def _absent(self, row: Mapping[str, Any], rows: Rows, part: str) -> bool:
        if part in self.columns:
            _there(row, self.columns[part])
        value = row.get(self.column(part))
        return value is None or (rows.empty_is_null and value == "")

    def _text(self, row: Mapping[str, Any], part: str, *, numbers: bool = False) -> str:
        name = self.column(part)
        value = _there(row, name)
        if numbers and isinstance(value, int | float | Decimal) and not isinstance(value, bool):
            if not math.isfinite(value):
                raise Fault(f"its {name} is {value}, which is no number")
            return str(value)
        value = _plain(value, name)
        if not isinstance(value, str):
            kind = "text or a number" if numbers else "text"
            raise Fault(f"its {name} must be {kind}, not {one_line_of(json.dumps(value), most=60)}")
        if is_blank(value):
            raise Fault(f"its {name} is empty")
        if "\0" in value:
            raise Fault(f"its {name} has a null character")
        return value


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


class _Missing(Fault):
    """A column that is not there."""


def _there(row: Mapping[str, Any], name: str) -> Any:
    if name not in row:
        raise _Missing(f"has no '{one_line_of(name, most=60)}'")
    return row[name]


def _plain(value: Any, name: str) -> Any:
    """The value of a column as JSON has it: dates as text, whatever subclass of float as a float. Raises Fault."""
    kind = type(value)
    if kind is str or kind is int or kind is bool or value is None:
        return value
    if isinstance(value, float | Decimal):
        if not math.isfinite(number := float(value)):
            raise Fault(f"its {one_line_of(name, most=60)} has {value}, which is no JSON")
        return number
    if isinstance(value, Mapping):
        return {inner: _plain(each, name) for inner, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each, name) for each in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, bytes | bytearray):
        raise Fault(
            f"its {one_line_of(name, most=60)} holds bytes, which no task can; name the columns that are wanted in `payload`"
        )
    return value  # of a class of the user's: whether JSON has it is known when it is written


def _written(question: Question) -> bytes:
    """All that makes one question differ from another. Raises Fault where it cannot be stored."""
    try:
        return _JSON.encode(
            [question.text, question.split, question.answer, question.family, question.payload]
        ).encode()
    except UnicodeEncodeError:
        raise Fault("it has half of a surrogate pair (\\ud800 to \\udfff), which is no character") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise Fault(f"cannot be stored: {one_line_of(error, most=120)}") from None


_JSON = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def same_answer(answer: str, truth: str) -> bool:
    """Return True where both are the same number, or the same words whatever their case, spaces and encoding (NFC)."""
    plain, expected = (" ".join(composed(text).split()).casefold() for text in (answer, truth))
    return plain == expected or same_number(answer, truth)


@dataclass(frozen=True)
class Part:
    """Rows, and what they are for."""

    rows: Rows
    whole: bool = False
    """All of them are for `split`; else each row says it, or its hash."""
    split: Split | None = None


def parts_of(found: Sequence[Rows], layout: Layout, path: Path) -> list[Part]:
    """The rows that are read. Raises SettingError, naming the path, where it is not said what a split is for."""
    names = list(dict.fromkeys(rows.split for rows in found if rows.split is not None))
    if not names or "split" in layout.columns:
        return [Part(rows) for rows in found]
    shown = one_line_of(", ".join(names), most=200)
    if layout.splits is None:
        if len(names) == 1:
            return [Part(rows) for rows in found]
        raise SettingError(
            f"environment: {path}: has the splits {shown}; say in `splits` what they are for: train, heldout or None"
        )
    if missing := [name for name in layout.splits if name not in names]:
        raise SettingError(f"environment: {path}: has no split {missing[0]!r}; it has: {shown}")
    return [Part(rows, True, layout.splits[rows.split]) for rows in found if rows.split in layout.splits]


class Questions:
    """The questions in a file or dataset, each checked and counted, in the order of its rows.

    Of questions that differ only in how their letters are encoded (NFC) the first one counts.
    """

    def __init__(self, parts: Sequence[Part], layout: Layout, adapt: Adapt | None, path: Path) -> None:
        """Goes through all rows. Raises SettingError, naming file and row."""
        self._parts, self._layout, self._adapt, self._path = parts, layout, adapt, path
        self._keys = array("Q")
        self._kept: dict[int, Question] | None = {}
        """By key, until they are too many."""
        self._bytes = 0
        texts, contents = array("Q"), array("Q")
        for key, question, content in self._read():
            self._keys.append(key)
            texts.append(_digest(composed(question.text).encode()))
            contents.append(_digest(content))
            self._bytes += len(content)
            if self._kept is not None:
                self._kept[key] = question
                if self._bytes > KEPT:
                    self._kept = None
        if not self._keys:
            raise SettingError(f"environment: {path}: it has no questions")
        if dropped := self._repeated(_doubtful(self._keys, texts, contents)):
            self._keys = array("Q", (key for key in self._keys if key not in dropped))

    @property
    def few(self) -> bool:
        """All of them are held."""
        return self._kept is not None

    def __iter__(self) -> Iterator[Question]:
        return self._given(self._keys)

    def placed(self) -> Iterator[tuple[str, Question]]:
        """(place, question) of every row in order: `tasks/mine.jsonl, line 3`."""
        for key, question, _ in self._read():
            rows, number = self._parts[key >> _NUMBER_BITS].rows, key & ((1 << _NUMBER_BITS) - 1)
            yield f"{rows.where}, {rows.unit} {number}", question

    def shuffled(self, rng: random.Random) -> Iterator[Question]:
        keys = self._keys[:]
        rng.shuffle(keys)
        return self._given(keys)

    def _given(self, keys: array) -> Iterator[Question]:
        """In the order of `keys`. Of many few are read at first, as the first ones are most often all that is asked for."""
        if self._kept is not None:
            yield from (self._kept[key] for key in keys)
            return
        most = max(1, KEPT * len(keys) // self._bytes)
        start, size = 0, max(1, most // 8)
        while start < len(keys):
            wanted = keys[start : start + size]
            found = {key: question for key, question, _ in self._read(wanted)}
            for key in wanted:
                if key not in found:
                    raise SettingError(f"environment: {self._path}: has changed while it was read")
                yield found.pop(key)
            start, size = start + size, min(2 * size, most)

    def _read(self, wanted: Sequence[int] | None = None) -> Iterator[tuple[int, Question, bytes]]:
        numbers: dict[int, list[int]] | None = None
        if wanted is not None:
            numbers = {}
            for key in wanted:
                numbers.setdefault(key >> _NUMBER_BITS, []).append(key & ((1 << _NUMBER_BITS) - 1))
        columns = self._layout.needed if self._adapt is None else None
        for place, part in enumerate(self._parts):
            if numbers is not None and place not in numbers:
                continue
            for number, row in part.rows.read(columns, None if numbers is None else numbers[place]):
                names = part.rows.names or row
                try:
                    if self._adapt is not None:
                        names = row = self._adapt(row)
                        if row is None:
                            continue
                    question = self._layout.question(row, part)
                    content = _written(question)
                except _Missing as fault:
                    known = one_line_of(", ".join(map(str, names)) or "nothing", most=120)
                    raise part.rows.refused(number, f"{fault} (it has: {known})") from None
                except Fault as fault:
                    raise part.rows.refused(number, fault) from None
                yield place << _NUMBER_BITS | number, question, content

    def _repeated(self, doubtful: list[int]) -> set[int]:
        """The keys of those that are there before in other letters. Raises SettingError where they contradict that one."""
        if self._kept is None:
            given = ((key, question) for key, question, _ in self._read(doubtful))
        else:
            given = ((key, self._kept[key]) for key in doubtful)
        firsts: dict[str, Question] = {}
        dropped = set()
        for key, question in given:
            first = firsts.setdefault(composed(question.text), question)
            rows, number = self._parts[key >> _NUMBER_BITS].rows, key & ((1 << _NUMBER_BITS) - 1)
            if first.split != question.split:
                raise rows.refused(number, "the question is there before, in another split")
            if first.payload == question.payload and not same_answer(first.answer, question.answer):
                raise rows.refused(number, "the question is there before, with another answer")
            if first.text != question.text:
                dropped.add(key)
        return dropped


def state_of(parts: Sequence[Part]) -> tuple | None:
    """Return what differs once a file was written again; None where one is not there, which is told when it is read."""
    try:
        return tuple(each.rows.state() for each in parts)
    except OSError:
        return None


def _digest(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")


def _doubtful(keys: array, texts: array, contents: array) -> list[int]:
    """Keys of questions that are there before with something else about them, and of those before them; in order."""
    order = sorted(range(len(keys)), key=texts.__getitem__)  # stable: the first of a question comes first
    found: set[int] = set()
    first = order[0]
    for before, place in pairwise(order):
        if texts[before] != texts[place]:
            first = place
        elif contents[first] != contents[place]:
            found |= {keys[first], keys[place]}
    return sorted(found)
