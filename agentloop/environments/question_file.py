"""Questions with their answers from a file or a dataset: the shortest way to a task of one's own."""

from __future__ import annotations

import random
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from agentloop.environments.datasets_on_disk import located, rows_of
from agentloop.environments.environment import Environment, Question, source_file
from agentloop.environments.questions import Layout, Questions, parts_of, same_answer, state_of
from agentloop.environments.rows import Fault
from agentloop.errors import AgentloopError, SettingError
from agentloop.records import Split, Task
from agentloop.text import one_line
from agentloop.tools import Tool
from agentloop.user_code import line_in


class QuestionFile(Environment):
    """An environment whose questions are rows with `question` and `answer`, and if wanted `family` and `split`.

    The rows come from JSON lines, CSV, TSV, JSON, Parquet or Arrow, by the end of the file's name, from a directory of such
    files, a saved dataset, or a dataset of the Hugging Face Hub that was fetched. `split` is "train" or "heldout"; without it
    the hash of the question decides, and one in five is held out. Whatever else a row holds is the task's payload, for
    `tools` and `verify`. A subclass defines `name`, `path` and `tools`.
    """

    path: ClassVar[Path | str]
    """Path of the file or directory, or a name on the hub (ORG/NAME)."""
    config: ClassVar[str | None] = None
    """Name of the configuration, of a dataset that has several."""
    columns: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """Names of the columns where they are others: {"question": "problem"}. A part `id` becomes the payload's `id`."""
    payload: ClassVar[Sequence[str] | None] = None
    """Columns that make the payload; None: all that are left. Other columns are read by `read_row` alone."""
    splits: ClassVar[Mapping[str, Split | None] | None] = None
    """Use of each of a dataset's splits: {"train": "train", "test": "heldout"}. Those that are not named are not read; None as
    a value leaves it to the question's hash. Of a file, or where `columns` has `split`, the values of that column."""

    chapter: ClassVar[int] = sys.maxsize  # none is asked again before all others were
    _patience: ClassVar[float] = float("inf")  # it ends
    _counted: ClassVar[tuple[tuple, Questions] | None] = None
    """What was counted and its questions, where these are many, so that they are not counted anew each time."""

    def read_row(self, row: dict[str, Any]) -> dict[str, Any] | None:
        """Return the row that is meant by a row of the file; None leaves it out.

        Override it where the answer is part of a text, say. It may be asked about a row more than once, and must return the
        same each time.
        """
        return row

    def questions(self, rng: random.Random) -> Iterator[Question]:
        """Yield the questions in an order that `rng` decides. Raises SettingError, naming file and row."""
        yield from self._found().shuffled(rng)

    def verify(self, task: Task, answer: str | None) -> float:
        """Return 1.0 where the answer is the file's: the same number, or the same words whatever their case and spaces."""
        return float(answer is not None and same_answer(answer, task.answer))

    def places(self, wanted: Collection[str]) -> dict[str, str]:
        """Return where questions with these texts stand, `tasks/mine.jsonl, line 3`, by text; the first place of each."""
        found: dict[str, str] = {}
        for place, question in self._found().placed():
            if question.text in wanted:
                found.setdefault(question.text, place)
        return found

    def _found(self) -> Questions:
        try:
            layout = Layout.of(self.columns, self.payload, self.splits)
            if not isinstance(self.config, str | None):
                raise SettingError("config must be the name of a configuration")
        except SettingError as error:
            raise SettingError(f"environment: {self.name}: {error}") from None
        file = source_file(self)
        path = located(self.path, file.parent if file else Path())
        parts = parts_of(rows_of(path, self.config), layout, path)
        about = (type(self), str(path), self.config, layout, state_of(parts))
        if self._counted is not None and self._counted[0] == about:
            return self._counted[1]
        adapt = None if type(self).read_row is QuestionFile.read_row else self._adapted
        questions = Questions(parts, layout, adapt, path)
        type(self)._counted = None if questions.few else (about, questions)
        return questions

    def _adapted(self, row: dict[str, Any]) -> dict[str, Any] | None:
        try:
            made = self.read_row(row)
        except (AgentloopError, Fault):
            raise
        except (Exception, SystemExit) as error:
            raise Fault(f"read_row(){line_in(error, source_file(self))}: {one_line(error)}") from error
        if made is not None and not isinstance(made, dict):
            raise Fault(f"read_row() returns {type(made).__name__}, not a dictionary or None")
        return made


class BareQuestions(QuestionFile):
    """Questions of a file or directory without a class of its own: there are no tools, and answers are compared as usual."""

    def tools(self, task: Task) -> dict[str, Tool]:
        return {}


def of_rows(path: Path) -> type[BareQuestions]:
    """Return the environment of the questions in a file or directory, which is named as that is."""
    return type("BareQuestions", (BareQuestions,), {"name": path.stem, "path": path, "__module__": __name__})


def read_questions(path: Path) -> list[Question]:
    """The questions of a file or directory in its order. Raises SettingError, naming file and row."""
    layout = Layout.of({}, None, None)
    return list(Questions(parts_of(rows_of(Path(path)), layout, Path(path)), layout, None, Path(path)))
