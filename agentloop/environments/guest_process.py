"""Somebody else's environment in an interpreter of its own, which has no agentloop: the other side of `guest.py`.

`python guest_process.py CONTROL FOLDER WORKER CONFIG` runs the file WORKER, whose function `prepare` takes CONFIG (JSON) and
returns what opens sessions; modules in FOLDER can be imported. That takes seconds, and is done once. Each descriptor that then
comes over the socket CONTROL is a connection, served by a fork of this process: one JSON line a question, one an answer.

Nothing but Python's own library is imported here, and this process has one thread, as one that forks should.
"""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import json
import os
import random
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any

MESSAGE_BYTES = 1 << 16
"""Of one message over the control socket."""
_GRACE_SECONDS = 5.0
"""For a session to end once its connection is closed; then it is killed with whatever it has started."""
_PR_SET_PDEATHSIG = 1
_RECEIVE_BYTES = 1 << 16


def main(control_descriptor: str, folder: str, worker: str, config: str) -> int:
    """Prepare the worker, say that it is ready or why it is not, and serve connections until the control socket is closed."""
    control = socket.socket(fileno=int(control_descriptor))
    control.set_inheritable(False)
    sys.path.append(folder)  # last: what lies there hides nothing
    try:
        guest = _imported(worker).prepare(json.loads(config))
    except BaseException as error:  # somebody else's code, whatever it raises
        control.send(_line({"error": said(error)})[: MESSAGE_BYTES // 2])
        return 2
    gc.collect()
    gc.freeze()  # a collection in a fork would otherwise copy the pages that all of them share
    control.send(_line({"ready": guest.about}))
    _Forks(control, guest).serve()
    return 0


def said(error: BaseException) -> str:
    """Return an exception in one line. A worker's own refusal, which has the attribute `refusal`, goes without its type."""
    text = " ".join(str(error).split())[:500]
    if getattr(error, "refusal", False):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _imported(worker: str) -> Any:
    specification = importlib.util.spec_from_file_location("agentloop_guest_worker", worker)
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    return module


def _line(answer: dict[str, Any]) -> bytes:
    return json.dumps(answer, allow_nan=False).encode() + b"\n"


class _Fork:
    def __init__(self, process: int, connection: socket.socket) -> None:
        self.process = process
        self.connection = connection
        """A copy, to see when the other side closes it. Nothing is read from it here."""
        self.ended = os.pidfd_open(process)
        self.deadline: float | None = None
        """When it is killed; None while its connection is open."""


class _Forks:
    def __init__(self, control: socket.socket, guest: Any) -> None:
        self._control, self._guest = control, guest
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)
        self._by_descriptor: dict[int, _Fork] = {}

    def serve(self) -> None:
        while True:
            for descriptor, event in self._poll.poll(self._patience()):
                fork = self._by_descriptor.get(descriptor)
                if descriptor == self._control.fileno():
                    if not self._take():
                        return self._end()
                elif fork is None:
                    continue  # it was removed in this round
                elif descriptor == fork.ended:
                    self._bury(fork)
                elif event & (select.POLLHUP | select.POLLRDHUP | select.POLLERR):
                    self._poll.unregister(descriptor)
                    fork.deadline = time.monotonic() + _GRACE_SECONDS
            for fork in set(self._by_descriptor.values()):
                if fork.deadline is not None and time.monotonic() > fork.deadline:
                    fork.deadline = None
                    os.kill(fork.process, signal.SIGKILL)

    def _patience(self) -> float | None:
        """Milliseconds until something is to be killed."""
        deadlines = [fork.deadline for fork in self._by_descriptor.values() if fork.deadline is not None]
        return max(0.0, 1000 * (min(deadlines) - time.monotonic())) + 1 if deadlines else None

    def _take(self) -> bool:
        """Fork for a connection. Returns False once nobody can send any more."""
        message, descriptors, _, _ = socket.recv_fds(self._control, MESSAGE_BYTES, 1)
        if not message or not descriptors:
            return bool(message)
        connection = socket.socket(fileno=descriptors[0])
        try:
            process = os.fork()
        except OSError:
            connection.close()  # which is what the other side is told
            return True
        if process == 0:
            try:
                self._control.close()
                for descriptor in self._by_descriptor:
                    os.close(descriptor)
                _live(connection, self._guest, json.loads(message)["memory"])
            finally:
                os._exit(1)
        fork = _Fork(process, connection)
        self._by_descriptor |= {connection.fileno(): fork, fork.ended: fork}
        self._poll.register(fork.ended, select.POLLIN)
        self._poll.register(connection, select.POLLRDHUP)
        return True

    def _bury(self, fork: _Fork) -> None:
        """Collect a fork that has ended, and kill what it has left behind."""
        os.waitpid(fork.process, 0)
        _kill_group(fork.process)
        for descriptor in (fork.ended, fork.connection.fileno()):
            self._by_descriptor.pop(descriptor, None)
            try:
                self._poll.unregister(descriptor)
            except KeyError:
                pass
        os.close(fork.ended)
        fork.connection.close()  # only now does the other side see the end of it

    def _end(self) -> None:
        for fork in self._by_descriptor.values():
            _kill_group(fork.process)


def _kill_group(process: int) -> None:
    try:
        os.killpg(process, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _live(connection: socket.socket, guest: Any, memory: int | None) -> None:
    """Answer the questions of one connection, in a process of its own, until it is closed."""
    host = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != host:
        os._exit(0)
    os.setpgid(0, 0)  # what the session starts is killed with it
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    _limit(memory)
    session = None
    for question in _questions(connection):
        do, given = question["do"], question["with"]
        try:
            if do == "open":
                random.seed(question["seed"])
                session = guest.open(**given)
                answer = {"said": session.describe()}
            else:
                answer = {"said": getattr(session or guest, do)(**given)}
            line = _line(answer)
        except BaseException as error:  # somebody else's code, SystemExit included
            line = _line({"error": said(error)})
        connection.sendall(line)
    if session is not None:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(int(_GRACE_SECONDS))
        session.close()
    os._exit(0)


def _questions(connection: socket.socket) -> Iterator[dict[str, Any]]:
    buffer = b""
    while True:
        while b"\n" not in buffer:
            received = connection.recv(_RECEIVE_BYTES)
            if not received:
                return
            buffer += received
        line, _, buffer = buffer.partition(b"\n")
        yield json.loads(line)


def _limit(memory: int | None) -> None:
    """`memory`: bytes that the session may take beyond what the process has now."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory is None:
        return
    with open("/proc/self/status", encoding="utf-8") as file:
        now = next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmData"))
    resource.setrlimit(resource.RLIMIT_DATA, (now + memory, now + memory))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
