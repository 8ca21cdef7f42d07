"""Worlds from the run's side: opened for an episode, asked, killed where they hang.

A process serves one episode at a time and is used again for the next one, with fresh tools, as long as every call came
back and no tool holds a thing that ends with its episode. One that did not answer in time, died or was left in the middle of
a call is killed, and nobody else notices.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import fields
from typing import Any

from agentloop.child import ChildProcess
from agentloop.errors import SettingError, WorldError
from agentloop.exit_codes import ending, was_signalled
from agentloop.records import Task
from agentloop.settings import Settings
from agentloop.worlds.host import MESSAGE_BYTES
from agentloop.worlds.stage import WorldDescription
from agentloop.worlds.toolbox import MAX_CHARACTERS, Reply

ENVIRONMENTS = "agentloop.worlds.environments:imported"
"""Imports environments in the host."""
_START_SECONDS = 120.0
_END_SECONDS = 10.0
_MAX_ANSWER_BYTES = 64 * MAX_CHARACTERS
"""More than an honest world sends: an escaped character takes twelve bytes at most, and an episode has many tools."""
_RECEIVE_BYTES = 1 << 16
_EPISODES = 256
"""Episodes after which a process is replaced: what tools leave behind in it does not grow for ever."""


class Worlds:
    """Processes for episodes' tools; their host is started with the first one. Close it, or leave its `with` block.

    May be used from several event loops, one after the other.
    """

    def __init__(
        self,
        settings: Settings,
        sources: Sequence[str],
        *,
        maker: str = ENVIRONMENTS,
        about: str = "environment",
        log: str = "worlds",
        seconds: float | None = None,
    ) -> None:
        """`sources`: environments by name or file, all that tasks may come from, or what another `maker` knows: the function,
        `package.module:name`, by which the host imports them. `about`: the setting that names them. `log`: name of the host's
        log. `seconds`: that a question may take, by default collect.tool_seconds.
        """
        self._settings = settings
        self._sources, self._maker, self._about = tuple(sources), maker, about
        self._seconds = settings.collect.tool_seconds if seconds is None else seconds
        self._log = settings.paths.logs / f"{log}.log"
        self._host: ChildProcess | None = None
        self._control: socket.socket | None = None
        self._numbers = itertools.count(1)
        self._idle: list[_Process] = []
        self._sessions: frozenset[str] = frozenset()
        """Names of the environments whose episodes are more than tools, once a host has imported them."""
        self._lock = threading.Lock()

    def __enter__(self) -> Worlds:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def start(self) -> None:
        """Import the sources in the host, where it is not running yet. Raises SettingError, WorldError."""
        with self._lock:
            self._ensure_host()

    def close(self) -> None:
        """End every world and the host."""
        self._forget_idle()
        self._end_host()

    @asynccontextmanager
    async def open(self, task: Task, *, session: str) -> AsyncIterator[World]:
        """The world of one episode, made with fresh tools for the task as soon as something is asked of it.

        `session` names the episode: repeated, its tools draw the same random numbers.
        """
        world = World(self, task, session, seconds=self._seconds)
        try:
            yield world
        finally:
            world.close()

    def plain(self, environment: str) -> bool:
        """Return True where the environment's episodes are nothing but tools. Starts the host.

        Raises SettingError, WorldError.
        """
        self.start()
        return environment not in self._sessions

    def take(self) -> _Process:
        """A process for one episode. Raises WorldError, SettingError."""
        if not self._host_lives():
            self._forget_idle()
        return self._idle.pop() if self._idle else self._fork()

    def give_back(self, process: _Process, *, at_rest: bool, ends: bool = False) -> None:
        """After an episode: use the process for another one, or end it where it may be in the middle of something.

        `ends`: its tools hold what is only for this episode. It closes them and ends by itself; the host takes what is left.
        """
        process.episodes += 1
        if at_rest and ends:
            process.connection.close()
        elif at_rest and process.episodes < _EPISODES:
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

    def _forget_idle(self) -> None:
        for process in self._idle:
            process.connection.close()
        self._idle.clear()

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
                answer = {"error": str(error) or type(error).__name__}
                self._end_host()  # what it says from now on may be the answer to this order
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
        environment: dict[str, str | None] = {
            **self._settings.child_environment(),
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
            self._settings.notify.webhook_variable: None,  # it may hold secrets
        }
        try:
            self._host = ChildProcess(
                [sys.executable, "-m", module, str(theirs.fileno()), str(memory), self._maker, *self._sources],
                environment=environment,
                log=self._log,
                pass_fds=(theirs.fileno(),),
            )
            theirs.close()
            self._control = ours
            answer = json.loads(ours.recv(MESSAGE_BYTES) or b"{}")
        except TimeoutError:
            answer = {"error": f"{self._about}: nothing happened for {_START_SECONDS:g} s while it was imported"}
        if not answer.get("ready"):
            reason = answer.get("error") or f"{self._about}: its process {self._how_it_ended()}"
            self._end_host()
            raise SettingError(reason)
        self._sessions = frozenset(answer["sessions"])

    def _end_host(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._host is not None:
            self._host.stop(grace_seconds=2)
            self._host = None

    def _how_it_ended(self) -> str:
        try:
            code = self._host.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            return "closed its connection"
        return ending(code) if was_signalled(code) else f"ended: {self._host.last_words()}"


class _Process:
    def __init__(self, number: int, connection: socket.socket) -> None:
        self.number = number
        self.connection = connection
        self.episodes = 0


class World:
    """The session of one episode, in a process of its own. It is asked one thing after the other.

    Whatever is asked raises WorldError where the session or a tool of it failed, hung or ended its process; the attempt at the
    episode is then over.
    """

    def __init__(self, worlds: Worlds, task: Task, session: str, *, seconds: float) -> None:
        self._worlds, self._task, self._session, self._seconds = worlds, task, session, seconds
        self._process: _Process | None = None
        self._ends = False
        self._at_rest = True
        """False while a call is under way, and for ever after one that did not come back."""
        self._received = bytearray()
        self._answer: asyncio.Future[bytes] | None = None

    @property
    def plain(self) -> bool:
        """Return True where there is nothing but tools, so that nothing needs to be asked before the first call."""
        return self._worlds.plain(self._task.environment)

    async def describe(self) -> WorldDescription:
        """The world, for the prompt."""
        answer = await self._ask({"do": "describe"}, "the environment's tools")
        return WorldDescription.of_json(answer["world"])

    async def call(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Reply:
        """The tool's answer."""
        request = {"do": "call", "tool": name, "args": list(args), "kwargs": dict(kwargs)}
        return Reply(**(await self._ask(request, f"tool {name}"))["reply"])

    async def observe(self, turn: str) -> Reply | None:
        """Return what the session says to a turn of the model; None where it ends the episode without a word."""
        answer = await self._ask({"do": "observe", "turn": turn}, f"environment {self._task.environment}: observe()")
        return None if answer["reply"] is None else Reply(**answer["reply"])

    async def outcome(self) -> Any:
        """The session's outcome, as JSON."""
        return (await self._ask({"do": "outcome"}, f"environment {self._task.environment}: outcome()"))["outcome"]

    def close(self) -> None:
        """Let go of the process."""
        if self._process is not None:
            self._worlds.give_back(self._let_go(), at_rest=self._at_rest, ends=self._ends)

    def _let_go(self) -> _Process:
        process, self._process = self._process, None
        self._loop.remove_reader(process.connection)
        return process

    async def _ask(self, request: dict[str, Any], who: str) -> dict[str, Any]:
        if self._process is None:
            self._loop = asyncio.get_running_loop()
            self._process = self._worlds.take()
            self._loop.add_reader(self._process.connection, self._read)
            # with the first request, so that an episode costs no message more than it has calls
            request = request | {"open": {"task": _fields(self._task), "session": self._session}}
        self._at_rest = False
        self._answer = self._loop.create_future()
        try:
            async with asyncio.timeout(self._seconds):
                await self._loop.sock_sendall(self._process.connection, json.dumps(request).encode() + b"\n")
                line = await self._answer
        except TimeoutError:
            raise WorldError(f"{who}: no answer within collect.tool_seconds = {self._seconds:g}") from None
        except OSError:
            line = b""
        if not line:
            ended = self._worlds.kill(self._let_go())
            raise WorldError(f"{who}: its process ended{ended}")
        answer = json.loads(line)
        self._at_rest = "fault" not in answer
        if "fault" in answer:
            raise WorldError(answer["fault"])
        self._ends = answer.pop("ends")
        return answer

    def _read(self) -> None:
        """Take what has arrived; a whole line, or none where the process has ended, is the answer that is waited for."""
        try:
            part = self._process.connection.recv(_RECEIVE_BYTES)
        except OSError:
            part = b""
        self._received += part
        whole = self._received.endswith(b"\n")
        if part and not whole and len(self._received) <= _MAX_ANSWER_BYTES:
            return
        line = bytes(self._received) if whole else b""
        self._received.clear()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(line)
        elif not line:
            self._loop.remove_reader(self._process.connection)


def _fields(task: Task) -> dict[str, Any]:
    """The task as JSON; `dataclasses.asdict` would copy its payload first."""
    return {field.name: getattr(task, field.name) for field in fields(task)}


def _ending(code: int) -> str:
    if code >= 0:
        return f" with exit code {code}"
    hint = " (most often for want of memory: collect.tool_memory)" if code == -signal.SIGABRT else ""
    return f" by {signal.Signals(-code).name}{hint}"
