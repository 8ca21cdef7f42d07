"""A Python function as a tool."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from agentloop.tools.tool import ToolError, bind


class FunctionTool:
    """Named after the function, described by its docstring; its annotations are checked before it is called.

    The function returns what the model is told, and raises ToolError to complain; so does a ValueError. It has to bound
    its own time and memory. Raises TypeError for a function without a docstring or with *args or **kwargs.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.name = function.__name__
        self.description = inspect.getdoc(function) or ""
        self.signature = inspect.signature(function, eval_str=True)
        self._function = function
        variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        if not self.description or any(each.kind in variadic for each in self.signature.parameters.values()):
            raise TypeError(f"tool {self.name}: needs a docstring for the model, and named parameters only")

    def call(self, *args: Any, **kwargs: Any) -> str:
        """What the function returns, as text. Raises ToolError."""
        arguments = bind(self.signature, args, kwargs)
        try:
            return str(self._function(**arguments))
        except ValueError as error:
            raise ToolError(str(error)) from None
