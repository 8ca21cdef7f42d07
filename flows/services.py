"""The local Prefect server and worker: started once, left running, ended by name.

What was started is written down with its start time, so that `down` ends exactly those processes and never one that
happens to have got the same process id.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import psutil

from agentloop.errors import ServerError, SettingError
from agentloop.settings import PROJECT_ROOT, Settings
from flows import reconcile

WORK_POOL = "agentloop"
START_SECONDS = 120


@dataclass(frozen=True)
class Service:
    """A background process that `up` started."""

    name: str
    pid: int
    created: float
    """Start time as the system gives it, in seconds since the epoch: with the pid, it names the process."""

    def process(self) -> psutil.Process | None:
        """The process, or None where it has ended."""
        try:
            process = psutil.Process(self.pid)
            return (
                process
                if abs(process.create_time() - self.created) < 1 and process.status() != psutil.STATUS_ZOMBIE
                else None
            )
        except psutil.NoSuchProcess:
            return None


def address(settings: Settings) -> str:
    """Where the Prefect UI is."""
    return f"http://127.0.0.1:{settings.prefect_port}"


def environment(settings: Settings) -> dict[str, str]:
    """What Prefect's own processes need to find each other."""
    return {
        **settings.child_environment(),
        "PREFECT_API_URL": f"{address(settings)}/api",
        "PREFECT_UI_API_URL": f"{address(settings)}/api",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "agentloop",
        "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
        # in memory, a restart of the server would lose them, and end the runs that hold a slot
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "PREFECT_LOCAL_STORAGE_PATH": str(settings.paths.data / "prefect" / "results"),
    }


def is_up(settings: Settings) -> bool:
    """True where a Prefect server of this project answers."""
    service = _recorded(settings, "server")
    return service is not None and service.process() is not None and _healthy(settings)


def up(settings: Settings) -> list[str]:
    """Start what is not running, deploy prefect.yaml, and return one line a thing for a person."""
    lines = [up_server(settings), *reconcile.run(settings)]
    worker = _recorded(settings, "worker")
    if worker is not None and worker.process() is not None:
        lines.append("Prefect worker is already up")
    else:
        _prefect(settings, "work-pool", "create", WORK_POOL, "--type", "process", "--overwrite")
        _prefect(settings, "work-pool", "update", WORK_POOL, "--concurrency-limit", "1")
        _start(settings, "worker", ["worker", "start", "--pool", WORK_POOL, "--name", f"agentloop-{os.getpid()}"])
        lines.append(f"Prefect worker started in the pool {WORK_POOL}")
    _prefect(settings, "--no-prompt", "deploy", "--all", "--prefect-file", str(PROJECT_ROOT / "prefect.yaml"))
    return [*lines, "Deployed: self-improve/demo, self-improve/nightly, evaluate/champion"]


def up_server(settings: Settings) -> str:
    """Start the Prefect server where it is not running; one line for a person."""
    if is_up(settings):
        return f"Prefect server is already up at {address(settings)}"
    _refuse_taken_port(settings)
    _start(settings, "server", ["server", "start", "--host", "127.0.0.1", "--port", str(settings.prefect_port)])
    _wait(settings)
    return f"Prefect server started at {address(settings)}"


def down(settings: Settings) -> list[str]:
    """End exactly the processes that `up` started; return one line for each."""
    lines = []
    for name in ("worker", "server"):
        service = _recorded(settings, name)
        process = service.process() if service else None
        if process is None:
            lines.append(f"Prefect {name} is not running")
        else:
            _end(process)
            lines.append(f"Prefect {name} ended")
        _record_file(settings, name).unlink(missing_ok=True)
    return lines


def _end(process: psutil.Process) -> None:
    family = [process, *process.children(recursive=True)]
    process.send_signal(signal.SIGINT)
    _, alive = psutil.wait_procs(family, timeout=15)
    for survivor in alive:
        survivor.kill()
    psutil.wait_procs(alive, timeout=5)


def _start(settings: Settings, name: str, arguments: list[str]) -> None:
    log = settings.paths.logs / f"prefect-{name}.log"
    with open(log, "ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", *arguments],
            cwd=PROJECT_ROOT,
            env={**os.environ, **environment(settings)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    service = Service(name, process.pid, psutil.Process(process.pid).create_time())
    _record_file(settings, name).write_text(json.dumps(asdict(service)))


def _prefect(settings: Settings, *arguments: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "prefect", *arguments],
        cwd=PROJECT_ROOT,
        text=True,
        capture_output=True,
        env={**os.environ, **environment(settings)},
        stdin=subprocess.DEVNULL,
    )
    if result.returncode:
        words = (result.stderr or result.stdout).strip().splitlines() or ["no output"]
        raise ServerError(f"prefect {' '.join(arguments[:3])} failed: {words[-1]}")


def _wait(settings: Settings) -> None:
    service = _recorded(settings, "server")
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if _healthy(settings):
            return
        if service.process() is None:
            break
        time.sleep(0.3)
    raise ServerError(f"the Prefect server did not start; its log is {settings.paths.logs / 'prefect-server.log'}")


def _healthy(settings: Settings) -> bool:
    try:
        return httpx.get(f"{address(settings)}/api/health", timeout=5, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def _refuse_taken_port(settings: Settings) -> None:
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", settings.prefect_port)) == 0:
            raise SettingError(
                f"prefect_port: port {settings.prefect_port} is in use by another program; set another one"
            )


def _record_file(settings: Settings, name: str) -> Path:
    return settings.paths.services / f"{name}.json"


def _recorded(settings: Settings, name: str) -> Service | None:
    file = _record_file(settings, name)
    values: Mapping = json.loads(file.read_text()) if file.exists() else {}
    return Service(**values) if values else None
