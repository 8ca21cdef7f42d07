"""Scripts from a file of conversations: JSON lines, or a datasets directory, with a column `messages` in OpenAI's format.

user asks; assistant calls tools, by `tool_calls` or as our models write it, and answers; tool has the results. What a system
message says is left out: it tells of another format than the one that is taught.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from agentloop.environments import Environment
from agentloop.environments.unverified import UNVERIFIED
from agentloop.errors import SettingError
from agentloop.naming import content_id
from agentloop.reading import read_text
from agentloop.records import Split, Task
from agentloop.rollout.grammar import FinalAnswer, GrammarError, ToolCall, answer_text, call_text, parse
from agentloop.teaching.script import Script
from agentloop.text import composed, encodable, is_blank, lines_of, one_line_of

_LOOKED_THROUGH = 5_000
"""Tasks of each split of an environment that makes up its questions, among which a question is looked for."""


@dataclass(frozen=True)
class Conversation:
    """One row of the file."""

    row: int
    """From 1; of JSON lines, the line."""
    question: str
    turns: tuple[str, ...]
    results: tuple[str, ...]
    """What the tools said after each turn but the last."""

    @property
    def answer(self) -> str:
        return parse(self.turns[-1]).text


class _Fault(Exception):
    """What is wrong with a row."""


def read(path: Path) -> list[Conversation]:
    """Every row. Raises SettingError, naming file and row, where one is no conversation that can be taught."""
    found = []
    for number, row in _rows(path):
        try:
            found.append(_conversation(number, row() if callable(row) else row))
        except _Fault as fault:
            raise SettingError(f"--from: {path}, row {number}: {fault}") from None
    if not found:
        raise SettingError(f"--from: {path}: it has no rows")
    return found


def digest(conversations: Sequence[Conversation]) -> str:
    """Names what they say."""
    return content_id("messages", [[each.question, each.turns, each.results] for each in conversations])


def scripts(
    path: Path,
    conversations: Sequence[Conversation],
    environment: Environment,
    known: Collection[Task],
    *,
    seed: int,
    families: Collection[str] = (),
    unverified: bool = False,
) -> list[Script]:
    """The conversations as scripts at the environment's tasks whose questions they answer.

    `known`: tasks that the store has. With `unverified`, what answers no question of the environment is taught as it stands.
    Raises SettingError, naming file and row, for a held-out question, and without `unverified` for an unknown one.
    """
    tasks = _matched({_plain(each.question) for each in conversations}, environment, known, seed)
    found = []
    for each in conversations:
        task = tasks.get(_plain(each.question))
        about = f"--from: {path}, row {each.row}: the question {one_line_of(each.question, most=60)!r}"
        if task is None and not unverified:
            raise SettingError(
                f"{about} is none of the environment {environment.name}; --unverified teaches it as it stands"
            )
        if task is None:
            task = Task(UNVERIFIED, UNVERIFIED, each.question, each.answer, "demonstration")
            found.append(Script(task, each.turns, each.results))
        elif task.split == "heldout":
            raise SettingError(f"{about} is held out: what is measured must not be taught")
        else:
            found.append(Script(task, each.turns))
    chosen = [script for script in found if not families or script.task.family in families]
    if not chosen:
        raise SettingError(f"--family: {path} has no row of the family {' or '.join(sorted(families))}")
    return chosen


def _matched(wanted: set[str], environment: Environment, known: Collection[Task], seed: int) -> dict[str, Task]:
    """The task of each question that is found; a held-out one where it is in doubt."""
    found: dict[str, Task] = {}

    def note(task: Task) -> None:
        question = _plain(task.question)
        if question in wanted and (question not in found or task.split == "heldout"):
            found[question] = task

    for task in known:
        note(task)
    splits: tuple[Split, ...] = ("heldout", "train", "demonstration")
    for split in splits:
        for task in islice(environment.stream(split, seed), _LOOKED_THROUGH):
            if len(found) == len(wanted):
                break
            note(task)
    return found


def _plain(question: str) -> str:
    return composed(question).strip()


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    """(number, row), or a function that gives the row."""
    if path.is_dir():
        yield from enumerate(_dataset(path), start=1)
        return
    for number, line in enumerate(lines_of(read_text(path, SettingError)), start=1):
        if line.strip():
            yield number, lambda line=line: _parsed(line)


def _dataset(path: Path) -> Iterator[Any]:
    from datasets import Dataset, load_from_disk  # takes a second

    try:
        loaded = load_from_disk(str(path))
    except Exception as error:  # whatever the library finds wrong
        raise SettingError(f"--from: {path}: is no datasets directory: {one_line_of(error)}") from None
    if not isinstance(loaded, Dataset) or "messages" not in loaded.column_names:
        names = loaded.column_names if isinstance(loaded, Dataset) else f"the splits {', '.join(loaded)}"
        raise SettingError(f"--from: {path}: has no column messages, but {one_line_of(names, most=200)}")
    yield from loaded


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        raise _Fault("is not JSON") from None


def _conversation(number: int, row: Any) -> Conversation:
    messages = row.get("messages") if isinstance(row, dict) else None
    if not isinstance(messages, list) or not messages:
        raise _Fault("has no list 'messages'")
    for place, message in enumerate(messages, start=1):
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            raise _Fault(f"message {place} has no role that is known ({', '.join(_ROLES)})")
    spoken = [message for message in messages if message["role"] not in ("system", "developer")]
    if not spoken or spoken[0]["role"] != "user":
        raise _Fault("does not begin with a message of the user")
    question = _text(spoken[0])
    if is_blank(question):
        raise _Fault("its question is empty")
    turns: list[str] = []
    calls: list[str | None] = []
    results: dict[int, str] = {}
    for place, message in enumerate(spoken[1:], start=2):
        last = place == len(spoken)
        if message["role"] == "assistant":
            for turn, call in _turns(message, last):
                turns.append(turn)
                calls.append(call)
            if last:
                break
        elif message["role"] == "tool" or _awaits(turns, results):
            results[_answered(message, calls, results)] = _text(message)
        else:
            raise _Fault("the user asks a second question; one question is one row")
    if not turns or not isinstance(_read(turns[-1]), FinalAnswer):
        raise _Fault("does not end with an answer of the assistant")
    if any(isinstance(_read(turn), FinalAnswer) for turn in turns[:-1]):
        raise _Fault("answers before its end")
    return Conversation(
        number, question, tuple(turns), tuple(results.get(place, "") for place in range(len(turns) - 1))
    )


_ROLES = ("system", "developer", "user", "assistant", "tool")


def _turns(message: dict[str, Any], last: bool) -> Iterator[tuple[str, str | None]]:
    """What the assistant says, one call a turn, with the call's id."""
    text, calls = _text(message).strip(), message.get("tool_calls") or []
    if not isinstance(calls, list):
        raise _Fault("has tool_calls that are no list")
    for call in calls:
        turn = _call(call)
        yield (f"{text}\n{turn}" if text else turn), call.get("id")
        text = ""
    if calls:
        return
    try:
        parse(text)
    except GrammarError as error:
        if not last:
            raise _Fault(f"the assistant neither calls a tool nor answers: {error}") from None
        if not text or "\n" in text:
            raise _Fault("its last message must end with the line 'Answer: …', or be the answer alone") from None
        text = answer_text(text)
        _read(text)
    yield text, None


def _call(call: Any) -> str:
    try:
        name, given = call["function"]["name"], call["function"].get("arguments") or {}
        arguments = json.loads(given) if isinstance(given, str) else given
        # a datasets directory has every argument's name in every row
        arguments = {key: value for key, value in arguments.items() if isinstance(given, str) or value is not None}
        turn = call_text(name, (), arguments)
        if parse(turn) != ToolCall(name, (), arguments):
            raise ValueError
    except (TypeError, KeyError, AttributeError, ValueError, RecursionError):
        raise _Fault(
            f"the call {one_line_of(call, most=80)} cannot be written as a call with named arguments"
        ) from None
    return turn


def _read(turn: str) -> ToolCall | FinalAnswer:
    try:
        return parse(turn)
    except GrammarError as error:
        raise _Fault(f"the assistant's {one_line_of(turn, most=60)!r} is no turn: {error}") from None


def _awaits(turns: list[str], results: dict[int, str]) -> bool:
    return bool(turns) and len(turns) - 1 not in results and isinstance(_read(turns[-1]), ToolCall)


def _answered(message: dict[str, Any], calls: list[str | None], results: dict[int, str]) -> int:
    """The turn whose call the tool's message answers: by its id, else the first that has no result."""
    open_calls = [place for place in range(len(calls)) if place not in results]
    if not open_calls:
        raise _Fault("has a tool's result that no call asked for")
    name = message.get("tool_call_id")
    return next((place for place in open_calls if name is not None and calls[place] == name), open_calls[0])


def _text(message: dict[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else None for part in content]
        content = "".join(part for part in parts if part) if all(isinstance(part, str) for part in parts) else parts
    if content is None:
        return ""
    if not isinstance(content, str):
        raise _Fault(f"the content of a message of the {message['role']} is not text")
    if "\0" in content:
        raise _Fault(f"a message of the {message['role']} has a null character")
    return encodable(content)
