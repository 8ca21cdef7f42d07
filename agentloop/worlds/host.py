"""The host: imports the user's files once, then forks a world for each request. `python -m agentloop.worlds.host …`

Orders come over a socket, one JSON object a message; with the order to fork comes the socket that the world is to serve.
The host is single-threaded, as a process that forks should be.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

SECRETS = ("PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_KEY", "VLLM_API_KEY")
"""What tools have no use for."""
MESSAGE_BYTES = 1 << 12
_REAP_SECONDS = 0.5


def main(control_descriptor: str, memory: str, maker: str, *sources: str) -> None:
    """`memory`: bytes that a world's tools may take. `maker`: the function `package.module:name` that imports what `sources`
    name; it returns what finds an environment by its name, and the names of those that have sessions.
    """
    for name in (*SECRETS, "PYTHONSAFEPATH"):  # the latter was for this process, see agentloop/child.py
        os.environ.pop(name, None)
    sys.path.append(os.getcwd())  # last: a file of the user's may import what lies there, but hides nothing
    control = socket.socket(fileno=int(control_descriptor))
    control.set_inheritable(False)
    from agentloop.errors import AgentloopError
    from agentloop.text import encodable

    module, _, name = maker.partition(":")
    try:
        find, sessions = getattr(importlib.import_module(module), name)(sources)
    except AgentloopError as error:
        reason = encodable(str(error))[: MESSAGE_BYTES // 7]  # of a character six bytes may be made
        control.send(json.dumps({"error": reason}, ensure_ascii=False).encode())
        return
    gc.collect()
    gc.freeze()  # a collection in a world would otherwise copy the pages that all of them share
    control.send(json.dumps({"ready": True, "sessions": sessions}).encode())
    _Host(control, int(memory), find).run()


class _Host:
    def __init__(self, control: socket.socket, memory: int, find: Callable[[str], Any]) -> None:
        self._control, self._memory, self._find = control, memory, find
        self._processes: dict[int, int] = {}
        """Process ids by the world's number."""
        self._ended: dict[int, int] = {}
        """Exit codes of worlds that have ended, until somebody asks."""
        signal.signal(signal.SIGTERM, lambda *_: self._end())
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the run's affair

    def run(self) -> None:
        while True:
            readable, _, _ = select.select([self._control], [], [], _REAP_SECONDS)
            self._reap()
            if not readable:
                continue
            message, descriptors, _, _ = socket.recv_fds(self._control, MESSAGE_BYTES, 1)
            if not message:
                self._end()
            order = json.loads(message)
            answer = self._fork(order["fork"], descriptors[0]) if "fork" in order else self._kill(order["kill"])
            self._control.send(json.dumps(answer).encode())

    def _fork(self, number: int, descriptor: int) -> dict[str, Any]:
        host, connection = os.getpid(), socket.socket(fileno=descriptor)
        try:
            process = os.fork()
        except OSError as error:
            connection.close()
            return {"error": f"no further process can be started ({error.strerror})"}
        if process == 0:
            try:
                self._control.close()
                self._live(connection, host)
            finally:
                os._exit(1)
        connection.close()
        self._processes[number] = process
        return {"pid": process}

    def _live(self, connection: socket.socket, host: int) -> None:
        from agentloop.worlds import world

        world.live(connection, self._find, memory=self._memory, host=host)
        os._exit(0)

    def _kill(self, number: int) -> dict[str, Any]:
        """End a world and what its tools started. The answer is its exit code, or less the number of the signal."""
        self._reap()
        process = self._processes.pop(number, None)
        if process is None:
            return {"status": self._ended.pop(number, 0)}
        os.kill(process, signal.SIGKILL)  # itself too: one that was just forked has no group of its own yet
        _, status = os.waitpid(process, 0)
        _kill_group(process)
        return {"status": os.waitstatus_to_exitcode(status)}

    def _reap(self) -> None:
        for number, process in list(self._processes.items()):
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                _kill_group(process)  # children that the world left behind
                del self._processes[number]
                self._ended[number] = os.waitstatus_to_exitcode(status)

    def _end(self) -> None:
        for process in self._processes.values():
            _kill_group(process)
        os._exit(0)  # the worlds that had no group yet die with this process


def _kill_group(process: int) -> None:
    """What a world started, and the world where it lives."""
    try:
        os.killpg(process, signal.SIGKILL)
    except ProcessLookupError:
        pass


if __name__ == "__main__":
    main(*sys.argv[1:])
