"""The loop of a forked world: one episode's session at a time, requests and answers as one JSON line each."""

from __future__ import annotations

import ctypes
import json
import os
import random
import resource
import signal
import socket
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from agentloop.environments.environment import Environment
from agentloop.environments.session import Session
from agentloop.limits import data_bytes
from agentloop.records import Task
from agentloop.text import one_line
from agentloop.worlds.stage import Stage
from agentloop.worlds.toolbox import ToolFault

_PR_SET_PDEATHSIG = 1
_RECEIVE_BYTES = 1 << 16
_CLOSE_SECONDS = 10
"""For tools to end what they hold, once the episode is over; then this process ends in the middle of it."""
_OOM_SCORE = "800"
"""Where the machine runs out of memory, a world goes before vLLM, the trainer and the run."""


def live(connection: socket.socket, find: Callable[[str], Environment], *, memory: int, host: int) -> None:
    """Serve one connection until it is closed. Runs in a process forked from the host, and never returns to its code.

    `find`: from an environment's name to the environment. `memory`: bytes that a session may take beyond what the process has
    now. `host`: process id of the host, with which this process dies.

    Every answer says whether the world `ends` with its episode: the connection is then closed, and so is the session.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != host:
        os._exit(0)
    os.setpgid(0, 0)  # what a tool starts is killed with it
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    _limit(memory)
    stage = Stage(Session(), "")
    for request in _requests(connection):
        try:
            if "open" in request:
                stage = _opened(request["open"], find)
            answer = _answer(stage, request) | {"ends": stage.ends}
        except ToolFault as fault:
            answer = {"fault": str(fault)}
        connection.sendall(json.dumps(answer).encode() + b"\n")
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(_CLOSE_SECONDS)
    stage.close()


def _answer(stage: Stage, request: dict[str, Any]) -> dict[str, Any]:
    match request["do"]:
        case "describe":
            return {"world": asdict(stage.describe())}
        case "observe":
            reply = stage.observe(request["turn"])
            return {"reply": reply and vars(reply)}
        case "outcome":
            return {"outcome": stage.outcome()}
    return {"reply": vars(stage.call(request["tool"], request["args"], request["kwargs"]))}


def _opened(episode: dict[str, Any], find: Callable[[str], Environment]) -> Stage:
    """A fresh session for an episode. Python's random numbers are the episode's own: repeated, it draws the same."""
    random.seed(episode["session"])
    task = Task(**episode["task"])
    try:
        environment = find(task.environment)
    except BaseException as error:  # the environment's code is not ours
        raise ToolFault(f"the environment's tools: {one_line(error)}") from error
    return Stage.open(environment, task)


def _requests(connection: socket.socket) -> Any:
    buffer = b""
    while True:
        while b"\n" not in buffer:
            received = connection.recv(_RECEIVE_BYTES)
            if not received:
                return
            buffer += received
        line, _, buffer = buffer.partition(b"\n")
        yield json.loads(line)


def _limit(memory: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    limit = data_bytes() + memory
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard == resource.RLIM_INFINITY or limit < hard:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="utf-8") as file:
            file.write(_OOM_SCORE)
    except OSError:  # a container may forbid it
        pass
