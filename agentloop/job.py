"""One piece of work in a process of its own: JSON in, JSON out. Memory that it took, on the card too, returns with its end.

The parent calls `run("package.module", request, …)`; the module ends with `sys.exit(job.main(work))`, where `work` takes the
request and returns a JSON value. Bad input ends the child with one line, which the parent raises as ModelError.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from agentloop import child_log
from agentloop.child import ERROR, NO_SPACE, ChildProcess, refused
from agentloop.errors import AgentloopError, ModelError, NoSpaceError, RoomError, TrainerError
from agentloop.files import atomic
from agentloop.naming import content_id
from agentloop.settings import Settings
from agentloop.training.shortage import ran_out

_NO_ROOM = "no room: "
"""What the last line of a child begins with that could not do its work."""


def run(module: str, request: Mapping[str, Any], settings: Settings, *, name: str, what: str) -> Any:
    """Return what the module's work returns for the request.

    `name` begins the names of the request's file and of the log; `what` says in an error what was being done. Raises
    ModelError with the child's own line where it refused, RoomError where it ran out of memory, NoSpaceError where the disk was
    full, TrainerError where it died.
    """
    own = content_id(name, request)
    file, log = settings.paths.checkpoints / f"{own}.json", settings.paths.logs / f"{own}.log"
    with atomic(file) as temporary:
        temporary.write_text(json.dumps(request), encoding="utf-8")
    command = [sys.executable, "-m", module, str(file)]
    with ChildProcess(command, environment=settings.trainer_environment(), log=log, read_stdout=True) as child:
        output = child.stdout.read()
        code = child.wait(settings.training.stall_seconds)
    file.unlink(missing_ok=True)
    if code == 0:
        return json.loads(output)
    if line := child.told(NO_SPACE):
        raise NoSpaceError(line)
    if line := child.told(_NO_ROOM):
        raise RoomError(f"{line} (log: {log})")
    if line := child.told(ERROR):
        raise ModelError(f"{line} (log: {log})")
    raise TrainerError(f"{what} {child_log.failure(code, child.said())} (log: {log})")


def main(work: Callable[[dict[str, Any]], Any]) -> None:
    """The child's whole life: does not return. Torch and its threads are not taken down in order, which takes a second."""
    code = _answer(work)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _answer(work: Callable[[dict[str, Any]], Any]) -> int:
    try:
        result = work(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    except (AgentloopError, OSError) as error:
        return refused(error)
    except RuntimeError as error:
        if not ran_out(error):
            raise
        print(f"{_NO_ROOM}out of memory: {' '.join(str(error).split())[:200]}", file=sys.stderr)
        return 2
    print(json.dumps(result), flush=True)
    return 0
