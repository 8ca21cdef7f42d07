"""A Python function as a tool."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

from agentloop.tools.arguments import Arguments
from agentloop.tools.observation import Observation
from agentloop.tools.tool import ToolError


class FunctionTool:
    """A tool made of a Python function, plain or `async`: its name, docstring and annotations are the tool's.

    The function returns what the model is told; a ToolError or a ValueError that it raises is told to the model as a
    complaint. Arguments are read by pydantic. Raises TypeError for a function without a docstring and for parameters that a
    model could not fill: `*args`, `**kwargs`, one without an annotation, or of a type that JSON cannot hold.
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

    def call(self, /, *args: Any, **kwargs: Any) -> str | Observation:
        """Call the function and return its result as text, or as the Observation that it is.

        Raises ToolError for arguments that do not fit.
        """
        bound = self._arguments.bind(args, kwargs)
        try:
            result = self._function(*bound.args, **bound.kwargs)
            if inspect.isawaitable(result):
                result = asyncio.run(_awaited(result))
            return result if isinstance(result, Observation) else str(result)
        except ValueError as error:
            raise ToolError(str(error)) from None


async def _awaited(result: Any) -> Any:
    return await result
