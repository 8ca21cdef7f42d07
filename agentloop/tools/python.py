"""The tool `python`: runs a program that the model writes, confined to the episode's folder (sandbox.py)."""

from __future__ import annotations

import inspect
import signal
from typing import Any

from agentloop.tools import sandbox
from agentloop.tools.arguments import Arguments
from agentloop.tools.folder import Folder
from agentloop.tools.sandbox import Limits
from agentloop.tools.tool import ToolError

MAX_CHARACTERS = 20_000
"""Length of the longest program."""


class Python:
    """The tool `python`: what a Python program prints. Each call is a program of its own; files stay for the episode."""

    name = "python"
    description = (
        "What a Python program prints. It has the standard library and no network. Files that it writes into its folder are "
        "there in the next call; variables are not."
    )
    signature = inspect.Signature(
        [inspect.Parameter("code", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=str)], return_annotation=str
    )
    _arguments = Arguments(signature)

    def __init__(self, folder: Folder | None = None, limits: Limits | None = None, *, unconfined: bool = False) -> None:
        """`folder`: shared with file tools, by default one of its own. `unconfined`: run programs also on a machine without
        namespaces, where they can then read this user's files and use the network.

        Raises TypeError, which says why, where programs cannot be confined and `unconfined` is not asked for.
        """
        self._folder, self._limits = folder or Folder(), limits or Limits()
        reason = sandbox.available()
        self._namespaces = reason is None
        if reason is not None and not unconfined:
            raise TypeError(
                f"tool python: programs cannot be confined on this machine ({reason}); docs/tools.md says what to do"
            )

    def call(self, /, *args: Any, **kwargs: Any) -> str:
        """Return what the program prints. Raises ToolError where it fails, or takes more than it may; SandboxError where it
        cannot be run.
        """
        code = self._arguments.bind(args, kwargs).arguments["code"]
        if len(code) > MAX_CHARACTERS or "\0" in code:
            raise ToolError(f"the program must have no null character, and at most {MAX_CHARACTERS:,} others")
        command = [sandbox.interpreter(), "-I", "-X", "utf8", "-c", code.encode("utf-8", "replace").decode("utf-8")]
        ended = sandbox.run(command, self._folder, self._limits, namespaces=self._namespaces)
        if ended.limit is not None:
            raise ToolError(_beyond(ended.limit, self._limits) + _printed(ended.output))
        if ended.code == -signal.SIGXFSZ:
            raise ToolError(_beyond("bytes", self._limits) + _printed(ended.output))
        if ended.code:
            how = f"exit code {ended.code}" if ended.code > 0 else f"signal {-ended.code}"
            raise ToolError((ended.output.strip() or "nothing printed") + f"\n[the program ended with {how}]")
        return ended.output or "nothing printed"

    def close(self) -> None:
        """Remove the folder."""
        self._folder.close()


def _beyond(limit: str, limits: Limits) -> str:
    return {
        "seconds": f"the program took longer than {limits.seconds:g} seconds",
        "memory": f"the program took more than {limits.memory >> 20:,} MiB of memory",
        "processes": f"the program had more than {limits.processes} processes",
        "bytes": f"the program wrote more than {limits.bytes:,} bytes or {limits.files} files",
        "output": f"the program printed more than {limits.output:,} bytes",
    }[limit]


def _printed(output: str) -> str:
    return f"; it printed: {output[:500]}" if output else ""
