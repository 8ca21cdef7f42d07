"""A file of the user's tried in a process of its own, so that whatever it does ends that process and no other.

The process tells the stages that it comes to over a pipe, a line each, and at last what is wrong, or nothing.
"""

from __future__ import annotations

import importlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

from agentloop import scratch
from agentloop.child import ChildProcess
from agentloop.errors import AgentloopError
from agentloop.text import encodable, one_line
from agentloop.user_code import line_in

SECONDS = 120.0
_THREAD_SECONDS = 2.0
"""A thread that the import has started may take to end."""
_DONE, _FAULT = "done", "fault "
_STAGES = {"import": "while it was imported", "use": "in questions(), tools() or verify()"}


def try_out(path: Path, *, about: str, use: str, error: type[AgentloopError], seconds: float = SECONDS) -> None:
    """Import the file and use what it is about: `environment:` or `scorer`. Raises `error`, in one line.

    `use`: the function `package.module:name` that does both. It is called with the path and a function that takes the stages
    it comes to ("use", once the file has been imported).
    """
    deadline = time.monotonic() + seconds
    read_end, write_end = os.pipe()
    try:
        with scratch.directory() as folder:
            command = [sys.executable, "-P", "-m", "agentloop.trial", str(write_end), about, use, str(path)]
            with ChildProcess(command, environment={}, log=folder / "log", pass_fds=(write_end,)) as child:
                os.close(write_end)
                stage = _listen(read_end, deadline)
                if stage == _DONE:
                    return
                how = "" if stage.startswith(_FAULT) else _ending(child, deadline, seconds)
    finally:
        os.close(read_end)
    if stage.startswith(_FAULT):
        raise error(stage.removeprefix(_FAULT))
    raise error(f"{about} {path}: {how} {_STAGES.get(stage, 'before it was imported')}")


def _listen(pipe: int, deadline: float) -> str:
    """The last line that the process says until it has finished, has ended or its time is up."""
    said = b""
    while (left := deadline - time.monotonic()) > 0 and select.select([pipe], [], [], left)[0]:
        part = os.read(pipe, 1 << 16)
        said += part
        if not part or said.endswith(f"{_DONE}\n".encode()):
            break
    return said.decode(errors="replace").rstrip("\n").rpartition("\n")[2]


def _ending(child: ChildProcess, deadline: float, seconds: float) -> str:
    try:
        code = child.wait(max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return f"nothing came back for {seconds:g} s"
    if code - 128 in set(signal.Signals):
        return f"its process was ended by {signal.Signals(code - 128).name}"
    return f"its process ended with exit code {code}"


def main(pipe: int, about: str, use: str, path: Path) -> None:
    """Run the trial, in the process that may end."""
    os.set_inheritable(pipe, False)
    sys.path.append(os.getcwd())  # last, as in the host of the tools
    tell = partial(_tell, pipe)
    try:
        tell("import")
        module, _, name = use.partition(":")
        getattr(importlib.import_module(module), name)(path, tell)
        _refuse_threads(about, path)
        tell(_DONE)
    except AgentloopError as fault:
        tell(f"{_FAULT}{fault}")
    except BaseException as fault:
        tell(f"{_FAULT}{about} {path}{line_in(fault, path)}: {one_line(fault)}")
    os._exit(0)  # whatever the file has left to be done at the end


def _tell(pipe: int, line: str) -> None:
    os.write(pipe, f"{encodable(line)}\n".encode())


def _refuse_threads(about: str, path: Path) -> None:
    deadline = time.monotonic() + _THREAD_SECONDS
    for thread in threading.enumerate():
        if thread is threading.main_thread() or thread.daemon:
            continue
        thread.join(max(0, deadline - time.monotonic()))
        if thread.is_alive():
            raise AgentloopError(
                f"{about} {path}: its thread {thread.name!r} does not end, and the program would wait for it; "
                "make it a daemon"
            )


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:4], Path(sys.argv[4]))
