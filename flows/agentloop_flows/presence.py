"""The process behind a flow run, written down so that anybody on this machine can tell whether it still lives.

A run writes a file and keeps it locked (flock) until its process ends. The system lets go of the lock however the process
ends, so neither a process id that was given away again nor a clock that was set can deceive who looks. Where the file
lies, and on which machine, is noted on the flow run itself, as labels: the Prefect server needs to know nothing else.
"""

from __future__ import annotations

import atexit
import fcntl
import json
import os
import socket
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agentloop.files import atomic, is_locked
from agentloop.identity import boot_id
from agentloop.settings import Settings
from agentloop.store.runs import FlowRun

LABEL = "agentloop."
CAMPAIGN = f"{LABEL}campaign"
"""Label with the campaign of a run."""
_SETTINGS: dict[str, Settings] = {}
"""The settings of the runs that this process has announced, by the flow run's id."""


@dataclass(frozen=True)
class Presence:
    """One attempt at a flow run, and the process that makes it."""

    host: str
    boot: str
    """Which start of the machine: after another one, every process is gone."""
    pid: int
    attempt: int
    """The flow run's count of runs: a retry has the same id, and another process."""
    file: str
    """Locked for as long as the process lives."""

    @classmethod
    def of(cls, labels: Mapping[str, Any]) -> Presence | None:
        """Read what the labels of a flow run say, None where it has not written down anything."""
        try:
            return cls(**{name: labels[LABEL + name] for name in cls.__dataclass_fields__})
        except KeyError:
            return None

    @property
    def labels(self) -> dict[str, Any]:
        return {LABEL + name: value for name, value in asdict(self).items()}

    def is_gone(self) -> bool:
        """Return True where the process has certainly ended. Of another machine, or a container with other paths, none has."""
        here = self.host == socket.gethostname()
        if self.boot != boot_id():
            return here
        file = Path(self.file)
        return not is_locked(file) and (here or file.exists())


def announce(settings: Settings) -> FlowRun:
    """Write down that this process runs the present flow run, and return that. Call it first in a flow."""
    from prefect.client.orchestration import get_client
    from prefect.context import FlowRunContext
    from prefect.utilities.urls import url_for

    context = FlowRunContext.get()
    run = context.flow_run
    # each attempt has a file of its own: the process of the one before may still be about to remove its
    file = settings.paths.services / "runs" / f"{run.id}-{run.run_count}.json"
    presence = Presence(socket.gethostname(), boot_id(), os.getpid(), run.run_count, str(file))
    file.parent.mkdir(parents=True, exist_ok=True)
    _sweep(file.parent)
    with atomic(file) as temporary:
        # never closed: the lock lasts until the process ends, after the run's last state has been sent
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.write(descriptor, json.dumps(asdict(presence)).encode())
    atexit.register(file.unlink, missing_ok=True)
    _SETTINGS[str(run.id)] = settings
    with get_client(sync_client=True) as client:
        client.update_flow_run_labels(run.id, presence.labels | {CAMPAIGN: settings.campaign})
    return FlowRun(str(run.id), context.flow.name, url_for("flow-run", obj_id=run.id))


def rename(name: str, tags: Iterable[str]) -> None:
    """Give the present flow run a name for people, and tags beside those that it has."""
    from prefect.client.orchestration import get_client
    from prefect.context import FlowRunContext

    run = FlowRunContext.get().flow_run
    run.name = name  # for the lines of its log
    with get_client(sync_client=True) as client:
        client.update_flow_run(run.id, name=name, tags=sorted({*run.tags, *tags}))


def settings_of(flow_run: str) -> Settings | None:
    """Return the settings of a run that this process has announced, by its id; None of any other."""
    return _SETTINGS.get(flow_run)


def _sweep(directory: Path) -> None:
    """Remove what killed processes have left."""
    for file in directory.glob("*.json"):
        if not is_locked(file):
            file.unlink(missing_ok=True)
