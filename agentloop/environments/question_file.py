"""Questions with their answers from a file: the shortest way to a task of one's own."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from agentloop.environments.arithmetic import same_number
from agentloop.environments.environment import Environment, Question
from agentloop.errors import SettingError
from agentloop.records import Split, Task


class QuestionFile(Environment):
    """Questions from JSON lines: `question` and `answer`, and if wanted `family` and `split` ("train" or "heldout").

    Whatever else a line holds is the task's payload, for `tools` and `verify`. Without `split` the hash of the question
    decides: one in five is held out.
    """

    path: ClassVar[Path]

    def questions(self, rng: random.Random) -> Iterator[Question]:
        questions = read_questions(self.path)
        rng.shuffle(questions)
        yield from questions

    def verify(self, task: Task, answer: str | None) -> float:
        return float(answer is not None and same_answer(answer, task.answer))


def read_questions(path: Path) -> list[Question]:
    """The questions in the file's order. Raises SettingError, naming file and line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"environment: {path}: {error}") from None
    splits: dict[str, Split | None] = {}
    questions = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        question = _question(line, f"environment: {path}, line {number}")
        if splits.setdefault(question.text, question.split) != question.split:
            raise SettingError(f"environment: {path}, line {number}: the question is there before, in another split")
        questions.append(question)
    return questions


def _question(line: str, place: str) -> Question:
    try:
        row: dict[str, Any] = json.loads(line)
        text, answer = str(row.pop("question")), str(row.pop("answer"))
    except (ValueError, AttributeError, TypeError):
        raise SettingError(f"{place}: is not a JSON object") from None
    except KeyError as error:
        raise SettingError(f"{place}: has no {error}") from None
    family, split = str(row.pop("family", "all")), row.pop("split", None)
    if split not in (None, "train", "heldout"):
        raise SettingError(f"{place}: split must be train or heldout, not {split!r}")
    return Question(family, text, answer, row, split)


def same_answer(answer: str, truth: str) -> bool:
    """Whether both are the same number, or the same words whatever their case and spaces."""
    plain, expected = (" ".join(text.split()).casefold() for text in (answer, truth))
    return plain == expected or same_number(answer, truth)
