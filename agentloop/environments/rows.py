"""Rows of what questions are read from: a file, or a split of a dataset, one row at a time.

A reader holds no more than a few rows. It can be asked again for some of them, by the numbers that it gave them: of text
the line on which a row begins, else the row, from 1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from agentloop.errors import AgentloopError, SettingError

Labels = Mapping[str, Sequence[str]]
"""By column: the names of the classes that its numbers stand for."""


class Fault(Exception):
    """A fault of a row, in words that follow its place."""


class FileFault(AgentloopError):
    """A fault of a file as a whole; names it."""


@contextmanager
def told() -> Iterator[None]:
    """Raises SettingError for a FileFault inside."""
    try:
        yield
    except FileFault as fault:
        raise SettingError(f"environment: {fault}") from None


class Written(float):
    """A number that knows how it was written: `str` gives 0.10, where the text of a float would be 0.1."""

    __slots__ = ("text",)
    text: str

    def __new__(cls, text: str) -> Written:
        made = super().__new__(cls, text)
        made.text = text
        return made

    def __str__(self) -> str:
        return self.text


class Rows(ABC):
    """Rows of one file or of one split of a dataset."""

    unit: ClassVar[str] = "row"
    """What the number of a row counts, as messages call it."""
    empty_is_null: ClassVar[bool] = False
    """The format has no other way of leaving a value out than an empty text."""

    def __init__(self, where: str, files: Sequence[Path], *, split: str | None = None, labels: Labels | None = None):
        self.where = where
        """What messages call it."""
        self.files = tuple(files)
        self.split = split
        """Of the dataset that it belongs to; None for a file by itself."""
        self.labels = dict(labels or {})
        self.names: tuple[str, ...] | None = None
        """Its columns, from the first row on; None where each row has columns of its own."""

    @abstractmethod
    def read(
        self, columns: Collection[str] | None = None, wanted: Collection[int] | None = None
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """(number, row by column), in order. `columns`: others need not be there. `wanted`: the numbers of the rows to give.

        Raises SettingError, naming file and row.
        """

    def refused(self, number: int | None, fault: object) -> SettingError:
        """The one line about a row, or about the file as a whole."""
        place = "" if number is None else f", {self.unit} {number}"
        return SettingError(f"environment: {self.where}{place}: {fault}")

    def state(self) -> tuple[tuple[str, int, int, int], ...]:
        """Return what differs once one of the files was written again."""
        found = [(file, file.stat()) for file in self.files]
        return tuple((str(file), stat.st_ino, stat.st_size, stat.st_mtime_ns) for file, stat in found)

    def named(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row with the names of classes instead of their numbers."""
        for name, classes in self.labels.items():
            label = row.get(name)
            if isinstance(label, int) and not isinstance(label, bool):
                # -1 is how datasets writes that there is none
                row[name] = classes[label] if 0 <= label < len(classes) else None if label == -1 else label
        return row
