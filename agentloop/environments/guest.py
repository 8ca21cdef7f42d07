"""Somebody else's environment that needs packages which do not go with agentloop's: it lives in an interpreter of its own.

A guest is a process that has imported the environment once, in a virtual environment of the project (`.venv-NAME`). Each
session is a fork of it, so that it costs milliseconds, shares nothing with others, and can be killed. JSON goes in and out.
What the guest's process does, `guest_process.py` says; it ends with whoever has started it.
"""

from __future__ import annotations

import atexit
import inspect
import json
import keyword
import os
import random
import resource
import socket
import subprocess
from collections.abc import Mapping
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import Any

from agentloop import project, scratch
from agentloop.child import ChildProcess
from agentloop.environments.session import Session
from agentloop.errors import SettingError
from agentloop.exit_codes import ending
from agentloop.limits import data_bytes
from agentloop.text import encodable, one_line_of
from agentloop.tools import Observation, ToolError, by_name
from agentloop.tools.json_schema import SchemaArguments

_PROCESS = Path(__file__).with_name("guest_process.py")
_START_SECONDS = 110.0
"""To import a package and to load its tasks: less than a world's host may take, so that what is said is this."""
_ANSWER_SECONDS = 60.0
_MESSAGE_BYTES = 1 << 16
_MOST_BYTES = 256 << 20
"""Of one answer."""
_RECEIVE_BYTES = 1 << 20
_NOT_ITS = (
    *("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"),
    *("PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_KEY", "VLLM_API_KEY"),
)
"""Variables that a guest does not get: paths of this interpreter's packages, and keys, for which it has no use."""


class GuestFault(Exception):
    """Raised where a guest failed or ended. A fault of the world, not of the model: it ends this attempt at the episode."""


def interpreter(name: str, about: str, install: str) -> Path:
    """Return the Python of the project's virtual environment `.venv-NAME`.

    `about`: the setting, for the message. `install`: what to install there, as pip takes it. Raises SettingError, with the
    commands that make it, where it is not there.
    """
    folder = project.root() / f".venv-{name}"
    python = folder / "bin" / "python"
    if not python.exists():
        raise SettingError(
            f"{about}: there is no {python}, which this needs: python3 -m venv {folder} && {python} -m pip install {install}"
        )
    return python


@lru_cache
def guest(python: Path, worker: Path, config: str, about: str) -> Guest:
    """Return the guest of these arguments, which is started once in a process. Raises SettingError where it is not ready."""
    return Guest(python, worker, config, about)


class Guest:
    """One guest. A process that was forked since it was started uses it as well."""

    def __init__(self, python: Path, worker: Path, config: str, about: str) -> None:
        """Start it: `worker` is the file that is run there, `config` the JSON that its `prepare` gets, `about` the setting.

        Raises SettingError, in one line that begins with `about`, where it is not ready within some time.
        """
        self._python, self._worker, self._config, self._about_it = python, worker, config, about
        self._held, self._owner = ExitStack(), os.getpid()
        self._start()

    def connect(self, seconds: float | None = None) -> Connection:
        """Return a connection of its own, which a fork of the guest serves. A guest that has ended is started again.

        `seconds`: that an answer may take; None where whoever waits is ended by others. Raises SettingError.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        order = json.dumps({"memory": _left()}).encode()
        try:
            try:
                socket.send_fds(self._control, [order], [theirs.fileno()])
            except OSError:
                self._start()
                socket.send_fds(self._control, [order], [theirs.fileno()])
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.settimeout(seconds)
        return Connection(ours)

    def ask(self, do: str, **given: Any) -> Any:
        """Return what the guest itself says, outside of any session, within some time. Raises GuestFault."""
        connection = self.connect(_ANSWER_SECONDS)
        try:
            return connection.ask(do, **given)
        finally:
            connection.close()

    def open(self, **given: Any) -> tuple[Connection, dict[str, Any]]:
        """Open a session of its own, with a connection of its own. Returns that, and what the session says of itself.

        Raises GuestFault where it cannot be opened.
        """
        connection = self.connect()
        try:
            return connection, connection.ask("open", **given)
        except BaseException:
            connection.close()
            raise

    def _start(self) -> None:
        if self._owner == os.getpid():
            self._held.close()  # in a fork it is the parent's
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(_START_SECONDS)
        with ExitStack() as held:
            log = held.enter_context(scratch.directory()) / "guest.log"
            held.callback(ours.close)
            command = [self._python, _PROCESS, theirs.fileno(), project.root(), self._worker, self._config]
            environment: dict[str, str | None] = {name: None for name in _NOT_ITS}
            environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONUTF8": "1"}
            child = held.enter_context(
                ChildProcess(list(map(str, command)), environment=environment, log=log, pass_fds=(theirs.fileno(),))
            )
            theirs.close()
            try:
                answer = json.loads(ours.recv(_MESSAGE_BYTES) or b"{}")
            except TimeoutError:
                answer = {"error": f"nothing came back for {_START_SECONDS:g} s while it was imported"}
            if "ready" not in answer:
                raise SettingError(f"{self._about_it}: {answer.get('error') or _how_it_ended(child)}")
            ours.settimeout(None)
            self.about: dict[str, Any] = answer["ready"]
            self._control = ours
            self._child, self._held, self._owner = child, held.pop_all(), os.getpid()
        atexit.register(self._held.close)


def _how_it_ended(child: ChildProcess) -> str:
    try:
        code = child.wait(10)
    except subprocess.TimeoutExpired:
        return "its process closed its connection"
    return f"its process {ending(code)}: {one_line_of(child.last_words(), most=300)}"


def _left() -> int | None:
    """Bytes that this process may still take, which is what a world leaves its session; None where there is no limit."""
    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    if limit == resource.RLIM_INFINITY:
        return None
    return max(0, limit - data_bytes())


class Connection:
    """A connection to a fork of the guest: one question after the other, each answered."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    def ask(self, do: str, **given: Any) -> Any:
        """Return the answer. Raises GuestFault where the guest raised something, has ended or takes too long."""
        question = {"do": do, "with": given} | ({"seed": random.getrandbits(64)} if do == "open" else {})
        try:
            self._socket.sendall(json.dumps(question).encode() + b"\n")
            line = self._line()
        except TimeoutError:
            raise GuestFault(f"no answer within {self._socket.gettimeout():g} s") from None
        except OSError:
            line = b""
        if not line:
            raise GuestFault("its process ended")
        answer = json.loads(line)
        if "error" in answer:
            raise GuestFault(answer["error"])
        return answer["said"]

    def close(self) -> None:
        """Let go of it: the fork closes its session and ends, or is killed."""
        self._socket.close()

    def _line(self) -> bytes:
        received = bytearray()
        while not received.endswith(b"\n"):
            part = self._socket.recv(_RECEIVE_BYTES)
            received += part
            if not part or len(received) > _MOST_BYTES:
                return b""
        return bytes(received)


class GuestTool:
    """A tool of a guest's session."""

    def __init__(self, document: Mapping[str, Any], connection: Connection) -> None:
        """`document`: its name, description and the JSON schema of its arguments. Raises TypeError, naming the tool, for one
        that a model could not call.
        """
        self.name: str = document["name"]
        if not self.name.isidentifier() or keyword.iskeyword(self.name):
            raise TypeError(f"tool {self.name}: its name cannot be written in a call")
        try:
            self._arguments = SchemaArguments(document["schema"])
        except TypeError as error:
            raise TypeError(f"tool {self.name}: {error}") from None
        lines = [inspect.cleandoc(document["description"] or ""), *self._arguments.notes]
        self.description = encodable("\n".join(line for line in lines if line))
        self.signature = self._arguments.signature
        self._connection = connection

    def call(self, /, *args: Any, **kwargs: Any) -> Observation:
        """Return what the guest's tool answers. Raises ToolError for arguments that do not fit the schema and for what the
        guest calls a mistake, GuestFault where there is no answer.
        """
        answer = self._connection.ask("call", tool=self.name, arguments=self._arguments.bind(args, kwargs))
        if answer["complaint"]:
            raise ToolError(answer["text"])
        return Observation(answer["text"], answer["reward"], answer["done"])


class GuestSession(Session):
    """A session of a guest: its tools and its outcome."""

    answers = False

    def __init__(self, connection: Connection, about: Mapping[str, Any]) -> None:
        """Both as `Guest.open` gives them. Raises TypeError, naming the tool, for one that a model could not call."""
        self._connection = connection
        try:
            super().__init__(by_name(*(GuestTool(tool, connection) for tool in about["tools"])))
        except BaseException:
            connection.close()
            raise

    def outcome(self) -> Any:
        return self._connection.ask("outcome")

    def close(self) -> None:
        self._connection.close()
