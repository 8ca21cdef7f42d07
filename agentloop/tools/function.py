"""A Python function as a tool."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

from agentloop.tools.arguments import Arguments
from agentloop.tools.tool import ToolError


class FunctionTool:
    """Named after the function, described by its docstring; its annotations are read by pydantic when the tool is made.

    The function, plain or `async`, returns what the model is told and raises ToolError to complain; so does a ValueError.
    Raises TypeError for a function without a docstring and for parameters that a model could not fill (see Arguments).
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.name = function.__name__
        self.description = inspect.getdoc(function) or ""
        self._function = function
        if not self.description:
            raise TypeError(f"tool {self.name}: needs a docstring for the model")
        try:
            self.signature = inspect.signature(function, eval_str=True)
            self._arguments = Arguments(self.signature)
        except (TypeError, NameError, SyntaxError) as error:
            raise TypeError(f"tool {self.name}: {error}") from None

    def call(self, /, *args: Any, **kwargs: Any) -> str:
        """The function's result as text. Raises ToolError."""
        bound = self._arguments.bind(args, kwargs)
        try:
            result = self._function(*bound.args, **bound.kwargs)
            if inspect.isawaitable(result):
                result = asyncio.run(_awaited(result))
            return str(result)
        except ValueError as error:
            raise ToolError(str(error)) from None


async def _awaited(result: Any) -> Any:
    return await result
