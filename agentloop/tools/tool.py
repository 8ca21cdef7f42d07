"""What a tool is: a name, a signature, a description, and a call that answers with text or complains with text."""

from __future__ import annotations

import inspect
from typing import Any, Protocol


class ToolError(Exception):
    """Raised by a tool that refuses a call or cannot carry it out. The model is told the message: one short line."""


class Tool(Protocol):
    """Interface of a tool: name, description, signature and a call. FunctionTool makes one of a function.

    A tool runs in a process of the episode's own, with limits on time and memory.
    """

    name: str
    """Name that the model calls the tool by."""
    description: str
    """What the prompt says about the tool: one or a few lines."""
    signature: inspect.Signature
    """Parameters that the model may pass."""

    def call(self, /, *args: Any, **kwargs: Any) -> str:
        """Return the result as text, whatever arguments a model invents, or raise ToolError.

        Anything else that it raises ends this attempt at the episode.
        """
        ...
