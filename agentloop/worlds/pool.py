"""Worlds from the run's side: opened for an episode, asked, killed where they hang.

A process serves one episode at a time and is used again for the next one, with fresh tools, as long as every call came
back. One that did not answer in time, died or was left in the middle of a call is killed, and nobody else notices.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agentloop.child import ChildProcess
from agentloop.errors import SettingError, WorldError
from agentloop.records import Task
from agentloop.settings import Settings
from agentloop.worlds.host import MESSAGE_BYTES
from agentloop.worlds.toolbox import MAX_CHARACTERS, Reply, ToolDescription

_START_SECONDS = 120.0
_MAX_ANSWER_BYTES = 64 * MAX_CHARACTERS
"""More than an honest world sends: an escaped character takes twelve bytes at most, and an episode has many tools."""
_RECEIVE_BYTES = 1 << 16
_EPISODES = 256
"""Episodes after which a process is replaced: what tools leave behind in it does not grow for ever."""


class Worlds:
    """Processes for episodes' tools; the host is started with the first one. Close it, or leave its `with` block.

    May be used from several event loops, one after the other.
    """

    def __init__(self, settings: Settings, environments: Sequence[str]) -> None:
        """`environments`: by name or file, all that tasks may come from."""
        self._settings = settings
        self._environments = tuple(environments)
        self._host: ChildProcess | None = None
        self._control: socket.socket | None = None
        self._numbers = itertools.count(1)
        self._idle: list[_Process] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Worlds:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def start(self) -> None:
        """Import the environments in the host, where it is not running yet. Raises SettingError, WorldError."""
        with self._lock:
            self._ensure_host()

    def close(self) -> None:
        """End every world and the host."""
        for process in self._idle:
            process.connection.close()
        self._idle.clear()
        self._end_host()

    @asynccontextmanager
    async def open(self, task: Task, *, session: str) -> AsyncIterator[World]:
        """The world of one episode, with fresh tools for the task. Raises WorldError where it cannot be made.

        `session` names the episode: repeated, its tools draw the same random numbers.
        """
        if not self._host_lives():
            self._idle.clear()
        process = self._idle.pop() if self._idle else self._fork()
        world = World(self, process, seconds=self._settings.collect.tool_seconds)
        try:
            await world.prepare(task, session)
            yield world
        finally:
            process.episodes += 1
            if world.at_rest and process.episodes < _EPISODES:
                self._idle.append(process)
            else:
                self.kill(process)

    def kill(self, process: _Process) -> str:
        """End a world's process, where it has not ended by itself. Returns how it ended."""
        process.connection.close()
        try:
            return _ending(self._order({"kill": process.number})["status"])
        except WorldError:
            return " with the host of all tools"

    def _fork(self) -> _Process:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours.setblocking(False)
        process = _Process(next(self._numbers), ours)
        try:
            self._order({"fork": process.number}, theirs)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return process

    def _order(self, order: Mapping[str, int], connection: socket.socket | None = None) -> dict[str, Any]:
        """The host's answer. A host that has died is replaced by the next fork. Raises WorldError."""
        with self._lock:
            if "fork" in order:
                self._ensure_host()
            elif not self._host_lives():
                raise WorldError("the host of the tools has ended")
            try:
                socket.send_fds(
                    self._control, [json.dumps(order).encode()], [connection.fileno()] if connection else []
                )
                answer = json.loads(self._control.recv(MESSAGE_BYTES) or b'{"error": "it has ended"}')
            except OSError as error:
                answer = {"error": str(error)}
        if "error" in answer:
            raise WorldError(f"the host of the tools: {answer['error']} (log: {self._log})")
        return answer

    def _host_lives(self) -> bool:
        return self._host is not None and self._host.poll() is None

    def _ensure_host(self) -> None:
        if not self._host_lives():
            self._end_host()
            self._start_host()

    def _start_host(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(_START_SECONDS)
        memory = int(self._settings.collect.tool_memory * 2**30)
        module = "agentloop.worlds.host"
        environment = self._settings.child_environment() | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        try:
            self._host = ChildProcess(
                [sys.executable, "-m", module, str(theirs.fileno()), str(memory), *self._environments],
                environment=environment,
                log=self._log,
                pass_fds=(theirs.fileno(),),
            )
            theirs.close()
            self._control = ours
            answer = json.loads(ours.recv(MESSAGE_BYTES) or b"{}")
        except TimeoutError:
            answer = {"error": f"environment: nothing happened for {_START_SECONDS:g} s while it was imported"}
        if not answer.get("ready"):
            reason = answer.get("error") or f"environment: its process ended: {self._host.last_words()}"
            self._end_host()
            raise SettingError(reason)

    def _end_host(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._host is not None:
            self._host.stop(grace_seconds=2)
            self._host = None

    @property
    def _log(self) -> Path:
        return self._settings.paths.logs / "worlds.log"


class _Process:
    def __init__(self, number: int, connection: socket.socket) -> None:
        self.number = number
        self.connection = connection
        self.episodes = 0


class World:
    """The tools of one episode, in a process of their own. Calls are serial."""

    def __init__(self, worlds: Worlds, process: _Process, *, seconds: float) -> None:
        self._worlds, self._process, self._seconds = worlds, process, seconds
        self.tools: tuple[ToolDescription, ...] = ()
        self.at_rest = True
        """False while a call is under way, and for ever after one that did not come back."""

    async def prepare(self, task: Task, session: str) -> None:
        answer = await self._ask({"do": "open", "task": asdict(task), "session": session}, "the environment's tools")
        self.tools = tuple(ToolDescription(**tool) for tool in answer["tools"])

    async def call(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Reply:
        """The tool's answer. Raises WorldError for a tool that failed, hung or ended its process; the attempt is over then."""
        request = {"do": "call", "tool": name, "args": list(args), "kwargs": dict(kwargs)}
        return Reply(**await self._ask(request, f"tool {name}"))

    async def _ask(self, request: Mapping[str, Any], who: str) -> dict[str, Any]:
        connection, loop = self._process.connection, asyncio.get_running_loop()
        self.at_rest = False
        try:
            async with asyncio.timeout(self._seconds):
                await loop.sock_sendall(connection, json.dumps(request).encode() + b"\n")
                line = await self._line(loop, connection)
        except TimeoutError:
            raise WorldError(f"{who}: no answer within collect.tool_seconds = {self._seconds:g}") from None
        except OSError:
            line = b""
        if not line:
            ended = self._worlds.kill(self._process)
            raise WorldError(f"{who}: its process ended{ended}")
        answer = json.loads(line)
        self.at_rest = "fault" not in answer
        if "fault" in answer:
            raise WorldError(answer["fault"])
        return answer

    async def _line(self, loop: asyncio.AbstractEventLoop, connection: socket.socket) -> bytes:
        received = bytearray()
        while not received.endswith(b"\n"):
            part = await loop.sock_recv(connection, _RECEIVE_BYTES)
            received += part
            if not part or len(received) > _MAX_ANSWER_BYTES:
                return b""
        return bytes(received)


def _ending(code: int) -> str:
    if code >= 0:
        return f" with exit code {code}"
    hint = " (most often for want of memory: collect.tool_memory)" if code == -signal.SIGABRT else ""
    return f" by {signal.Signals(-code).name}{hint}"
