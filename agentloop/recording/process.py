"""In the process of one episode's agent: its command is run, or its function called, and what it says comes back.

The host (agentloop/worlds/host.py) has imported the function's file once; each episode gets a fork of it, which is killed with
everything that the agent has started.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agentloop import project
from agentloop.environments.session import Session
from agentloop.errors import SettingError
from agentloop.exit_codes import ending
from agentloop.recording.command import SETTING, AgentCommand
from agentloop.records import Task
from agentloop.text import encodable, one_line_of
from agentloop.user_code import run_file

TOOL = "agent"
"""Name by which the agent is called in its world."""
_MOST_BYTES = 1 << 20
"""Of what a command prints."""


def imported(sources: Sequence[str]) -> tuple[Callable[[str], _Agents], list[str]]:
    """Import what the setting, the only source, names; for whatever environment a task comes from, its worlds are the agent's.

    Raises SettingError.
    """
    (text,) = sources
    command = AgentCommand.read(text)
    agents = _Agents(_Command(command.words) if command.file is None else _Function(function_of(command)))
    return lambda environment: agents, []


def function_of(command: AgentCommand) -> Callable[..., Any]:
    """Run the file and return its function. Raises SettingError, naming what is missing."""
    if command.file is None:
        raise SettingError(f"{SETTING}: {command.text} is no function of a file")
    module = run_file(command.file, about=f"{SETTING}:", error=SettingError)
    function = getattr(module, command.function, None)
    if not callable(function):
        raise SettingError(f"{SETTING}: {command.file} has no function {command.function}")
    try:
        inspect.signature(function).bind("question", base_url="", api_key="", model="", task={})
    except TypeError as error:
        wanted = "(question, *, base_url, api_key, model, task)"
        raise SettingError(f"{SETTING}: {command.file}: {command.function} must take {wanted}: {error}") from None
    except ValueError:  # a callable whose signature cannot be read
        pass
    return function


class _Agents:
    """In place of an environment: each world has the agent, and nothing else."""

    name = TOOL
    plain = True

    def __init__(self, run: _Command | _Function) -> None:
        self._run = run

    def open(self, task: Task) -> Session:
        """Return the session of one episode."""
        return Session({TOOL: _Agent(self._run)})


class _Agent:
    """The agent as the only tool of its world."""

    name = TOOL
    description = "Runs the agent on the task."
    signature = inspect.Signature()

    def __init__(self, run: _Command | _Function) -> None:
        self._run = run

    def call(self, /, *args: Any, **kwargs: Any) -> str:
        """Return what the agent says, stripped. Raises whatever ends it."""
        [question, environment, given] = args
        os.environ.update(environment)
        return encodable(self._run(question, given)).strip()

    def close(self) -> None:
        """Nothing; that there is this method lets the process end with the episode."""


class _Function:
    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, question: str, given: Mapping[str, Any]) -> str:
        said = self._function(question, **given)
        if inspect.isawaitable(said):
            said = asyncio.run(_awaited(said))
        return "" if said is None else str(said)


async def _awaited(said: Any) -> Any:
    return await said


class _Command:
    def __init__(self, words: Sequence[str]) -> None:
        self._words = words

    def __call__(self, question: str, given: Mapping[str, Any]) -> str:
        # files, not pipes: a process that the agent leaves behind may keep a pipe open for ever
        with (
            tempfile.TemporaryFile("w+b") as said,
            tempfile.TemporaryFile("w+b") as complained,
            tempfile.TemporaryFile("w+b") as asked,
        ):
            asked.write(question.encode())
            asked.seek(0)
            process = subprocess.Popen(self._words, stdin=asked, stdout=said, stderr=complained, cwd=project.root())
            code = process.wait()
            if code != 0:
                raise AgentFault(f"it {ending(code)}: {_last_line(complained)}")
            said.seek(0)
            return said.read(_MOST_BYTES).decode("utf-8", "replace")


class AgentFault(Exception):
    """The command ended with another exit code than 0."""


def _last_line(file: Any) -> str:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 4096))
    lines = file.read().decode("utf-8", "replace").strip().splitlines()
    return one_line_of(lines[-1]) if lines else "it wrote nothing to standard error"
