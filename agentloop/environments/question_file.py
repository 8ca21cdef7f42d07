"""Questions with their answers from a file: the shortest way to a task of one's own."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from agentloop.environments.arithmetic import same_number
from agentloop.environments.environment import Environment, Question
from agentloop.errors import SettingError
from agentloop.naming import canonical_json
from agentloop.reading import read_text
from agentloop.records import Task
from agentloop.text import composed, is_blank, lines_of, one_line_of

MOST_DIGITS = 4300
"""Of a whole number: what Python reads and writes."""

MOST_NESTED = 100
"""Lists and objects inside each other."""


class QuestionFile(Environment):
    """An environment whose questions are JSON lines with `question` and `answer`, and if wanted `family` and `split`.

    `split` is "train" or "heldout"; without it the hash of the question decides, and one in five is held out. Whatever else
    a line holds is the task's payload, for `tools` and `verify`. A subclass defines `name`, `path` and `tools`.
    """

    path: ClassVar[Path]
    """The file of questions: UTF-8, one JSON object a line."""

    def questions(self, rng: random.Random) -> Iterator[Question]:
        """Yield the file's questions in an order that `rng` decides. Raises SettingError, naming file and line."""
        questions = read_questions(self.path)
        rng.shuffle(questions)
        yield from questions

    def verify(self, task: Task, answer: str | None) -> float:
        """Return 1.0 where the answer is the file's: the same number, or the same words whatever their case and spaces."""
        return float(answer is not None and same_answer(answer, task.answer))


def read_questions(path: Path) -> list[Question]:
    """The questions in the file's order. Raises SettingError, naming file and line.

    Of questions that differ only in how their letters are encoded (NFC) the first one counts.
    """
    try:
        lines = lines_of(read_text(Path(path), SettingError))
    except SettingError as error:
        raise SettingError(f"environment: {error}") from None
    firsts: dict[str, Question] = {}
    questions = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            question = _question(line)
            first = firsts.setdefault(composed(question.text), question)
            if first.split != question.split:
                raise _Fault("the question is there before, in another split")
            if first.payload == question.payload and not same_answer(first.answer, question.answer):
                raise _Fault("the question is there before, with another answer")
        except _Fault as fault:
            raise SettingError(f"environment: {path}, line {number}: {fault}") from None
        if first.text == question.text:
            questions.append(question)
    if not questions:
        raise SettingError(f"environment: {path}: it has no questions")
    return questions


class _Fault(Exception):
    """What is wrong with a line."""


def _question(line: str) -> Question:
    row = _row(line)
    text, answer = _text(row, "question"), _text(row, "answer", numbers=True)
    if isinstance(row["answer"], float):  # as it is written: a float has 16 digits
        answer = json.loads(line, parse_float=str)["answer"]
    family = "all" if row.get("family") is None else _text(row, "family", numbers=True)
    split = row.get("split")
    if split not in (None, "train", "heldout"):
        raise _Fault(f"split must be train or heldout, not {one_line_of(split, most=60)!r}")
    payload = {name: value for name, value in row.items() if name not in ("question", "answer", "family", "split")}
    try:
        canonical_json([text, answer, family, payload]).encode()
    except UnicodeEncodeError:
        raise _Fault("it has half of a surrogate pair (\\ud800 to \\udfff), which is no character") from None
    return Question(family, text, answer, payload, split)


def _row(line: str) -> dict[str, Any]:
    try:
        row = json.loads(
            line, object_pairs_hook=_object, parse_constant=_constant, parse_int=_whole, parse_float=_decimal
        )
    except ValueError:
        row = None
    except RecursionError:
        raise _Fault(_TOO_DEEP) from None
    if not isinstance(row, dict):
        raise _Fault("is not a JSON object")
    if line.count("[") + line.count("{") > MOST_NESTED and _depth(row) > MOST_NESTED:
        raise _Fault(_TOO_DEEP)
    return row


_TOO_DEEP = f"it has more than {MOST_NESTED} lists and objects inside each other"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Fault(f"has {one_line_of(next(name for name in names if names.count(name) > 1), most=60)!r} twice")
    return made


def _constant(name: str) -> float:
    raise _Fault(f"has {name}, which is no JSON")


def _whole(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise _Fault(f"has a number of more than {MOST_DIGITS} digits; write it as text")
    return int(digits)


def _decimal(digits: str) -> float:
    if not math.isfinite(value := float(digits)):
        raise _Fault(f"has the number {one_line_of(digits, most=60)}, which is too large; write it as text")
    return value


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level := [each for each in level if isinstance(each, dict | list)]:
        depth += 1
        level = [inner for each in level for inner in (each.values() if isinstance(each, dict) else each)]
    return depth


def _text(row: dict[str, Any], name: str, *, numbers: bool = False) -> str:
    if name not in row:
        raise _Fault(f"has no '{name}'")
    value = row[name]
    if numbers and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        kind = "text or a number" if numbers else "text"
        raise _Fault(f"its {name} must be {kind}, not {one_line_of(json.dumps(value), most=60)}")
    if is_blank(value):
        raise _Fault(f"its {name} is empty")
    if "\0" in value:
        raise _Fault(f"its {name} has a null character")
    return value


def same_answer(answer: str, truth: str) -> bool:
    """True where both are the same number, or the same words whatever their case, spaces and encoding (NFC)."""
    plain, expected = (" ".join(composed(text).split()).casefold() for text in (answer, truth))
    return plain == expected or same_number(answer, truth)
