"""What a tool is: a name, a signature, a description, and a call that answers with text or complains with text."""

from __future__ import annotations

import inspect
from typing import Any, Protocol


class ToolError(Exception):
    """A call that the tool refuses or cannot carry out. The message is what the model is told: one short line."""


class Tool(Protocol):
    """Whatever arguments a model invents, `call` returns text or raises ToolError. Anything else that it raises ends the
    attempt at the episode. It runs in a process of the episode's own, with limits on time and memory.
    """

    name: str
    description: str
    """For the prompt; one or a few lines."""
    signature: inspect.Signature

    def call(self, /, *args: Any, **kwargs: Any) -> str: ...
