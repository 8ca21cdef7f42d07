"""What a tool is: a name, a signature, a description, and a call that answers with text or complains with text."""

from __future__ import annotations

import inspect
from typing import Any, Protocol, get_origin


class ToolError(Exception):
    """A call that the tool refuses or cannot carry out. The message is what the model is told: one short line."""


class Tool(Protocol):
    """Whatever arguments a model invents, `call` returns text or raises ToolError, within bounded time and memory."""

    name: str
    description: str
    """For the prompt; one or a few lines."""
    signature: inspect.Signature

    def call(self, *args: Any, **kwargs: Any) -> str: ...


def bind(signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments by parameter name, defaults filled in, each of its annotated type. Raises ToolError."""
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise ToolError(str(error)) from None
    bound.apply_defaults()
    for name, value in bound.arguments.items():
        expected = signature.parameters[name].annotation
        if expected is float and type(value) is int:
            bound.arguments[name] = float(value)
        elif expected is not inspect.Parameter.empty and not isinstance(value, get_origin(expected) or expected):
            raise ToolError(f"{name} must be of type {getattr(expected, '__name__', expected)}")
    return bound.arguments
