"""What a model's turn may say: one tool call or a final answer. One strict grammar for every model.

A turn that ends with

    ```tool_code
    NAME(arguments)
    ```

is a call: Python call syntax with literal arguments, never evaluated. A turn whose last line is `Answer: X` is the final
answer X. Anything else is a mistake that the model is told about; nothing is guessed or repaired.
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentloop.literals import read_expression
from agentloop.text import REPLACEMENT, encodable

CALL_FENCE = "```tool_code\n"
RESULT_FENCE = "```tool_output\n"
FENCE = "```"
ANSWER = "Answer: "

MAX_CALL_CHARACTERS = 4000
"""Python's own parser recurses on what it reads."""
MAX_INTEGER_BITS = 4096
"""More than any tool has use for. Python reads longer integers in hexadecimal, but writes none of over 4,300 digits as JSON."""


class GrammarError(ValueError):
    """A turn that is neither a call nor an answer. The message is what the model is told."""


class CallError(GrammarError):
    """A turn that was meant for a call: it opens the fence of one."""


@dataclass(frozen=True)
class ToolCall:
    """A call of the tool `name`; every argument is a JSON value."""

    name: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    replaced: int = 0
    """Lone halves of surrogate pairs in its texts: they stand for no character and are U+FFFD. (Two halves, as JSON escapes
    them, are the character that they stand for.)"""


@dataclass(frozen=True)
class FinalAnswer:
    text: str


def parse(text: str) -> ToolCall | FinalAnswer:
    """Read one turn of the model, special tokens removed. Raises GrammarError."""
    text = text.strip()
    before, fence, after = text.partition(CALL_FENCE)
    if fence:
        call, closed, rest = after.rpartition(f"\n{FENCE}")
        if not closed or rest or FENCE in call or FENCE in before:
            raise CallError("end your turn with one fenced call")
        return _parse_call(call.strip())
    last = text.rpartition("\n")[2]
    answer = last.removeprefix(ANSWER).strip()
    if FENCE in text or not last.startswith(ANSWER) or not answer:
        raise GrammarError("end your turn with a call or an answer")
    return FinalAnswer(answer)


def call_text(name: str, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> str:
    """A call as the model writes it; `parse` reads it back. The arguments are JSON values."""
    given = [*map(repr, args), *(f"{key}={value!r}" for key, value in (kwargs or {}).items())]
    return f"{CALL_FENCE}{name}({', '.join(given)})\n{FENCE}"


def answer_text(answer: str) -> str:
    """A final answer as the model writes it."""
    return f"{ANSWER}{answer}"


def _parse_call(source: str) -> ToolCall:
    if len(source) > MAX_CALL_CHARACTERS:
        raise CallError(f"the call is longer than {MAX_CALL_CHARACTERS} characters")
    try:
        call = read_expression(source)
    except ValueError:
        raise CallError("the call is not valid syntax") from None
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
        raise CallError("write one call: NAME(arguments)")
    names = [keyword.arg for keyword in call.keywords]
    if None in names or len(set(names)) != len(names) or any(isinstance(arg, ast.Starred) for arg in call.args):
        raise CallError("arguments must be literal values")
    args = [_literal(arg) for arg in call.args]
    kwargs = {keyword.arg: _literal(keyword.value) for keyword in call.keywords if keyword.arg is not None}
    text = json.dumps([args, kwargs], ensure_ascii=False)
    clean = encodable(text)
    if clean != text:
        args, kwargs = json.loads(clean)
    return ToolCall(call.func.id, tuple(args), kwargs, clean.count(REPLACEMENT) - text.count(REPLACEMENT))


def _literal(node: ast.expr) -> Any:
    try:
        return _json_value(ast.literal_eval(node))
    except (ValueError, TypeError, RecursionError, MemoryError):
        raise CallError("arguments must be literal values") from None


def _json_value(value: Any) -> Any:
    """The value with tuples as lists. Raises ValueError on what JSON cannot hold: bytes, sets, complex and infinite numbers,
    and integers of more than MAX_INTEGER_BITS.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("not a finite number")
    if isinstance(value, int) and value.bit_length() > MAX_INTEGER_BITS:
        raise ValueError("an integer without end")
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, (list, tuple)):
        return [_json_value(item) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _json_value(item) for key, item in value.items()}
    raise ValueError("not a JSON value")
