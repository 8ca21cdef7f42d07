"""The local Prefect server and worker: started once, left running, ended by name; nobody without the key can use them.

What was started is written down as the kernel names it (see agentloop/identity.py), so that `down` ends exactly those
processes and never one that happens to have got the same process id, whatever happens to the clock.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import httpx
import psutil

from agentloop import caches, child_log, project, scratch
from agentloop.errors import ServerError, SettingError
from agentloop.files import atomic
from agentloop.identity import Identity
from agentloop.settings import Settings
from agentloop_flows import connection, deployments, dotenv, key, reconcile

WORK_POOL = "agentloop"
START_SECONDS = 120
WORKER_SECONDS = 60


def _server_environment(settings: Settings) -> dict[str, str]:
    return connection.environment(settings) | {
        # the server itself removes old runs, hour by hour, with all that hangs on them; events it keeps for a week anyway
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(round(settings.retention.flow_run_days * 86_400)),
        "PREFECT_SERVER_API_AUTH_STRING": key.credentials(settings),
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": connection.address(settings),
        # a path, so that the UI finds its API by whatever name and port the browser has reached it
        "PREFECT_UI_API_URL": "/api",
        # it writes its address into the UI's files, which in the package another user may own
        "PREFECT_UI_STATIC_DIRECTORY": str(settings.paths.data / "prefect" / "ui"),
    }


def _worker_environment(settings: Settings) -> dict[str, str]:
    """In the shared temporary folder Prefect wants `runner_storage` for itself, which may be another user's."""
    own = settings.paths.data / "prefect" / "tmp"
    if not scratch.leaves_room(own):
        own = Path(tempfile.gettempdir(), f".agentloop-tmp-{os.getuid()}")
    if not scratch.leaves_room(own) or not caches.is_private(own):
        return connection.environment(settings)
    return connection.environment(settings) | {"TMPDIR": str(own)}


def is_up(settings: Settings) -> bool:
    """Return True where a Prefect server of this project answers, and only those who have the key."""
    return _running(settings, "server") and _healthy(settings) and _closed(settings)


def up(settings: Settings, *, reset: bool = False) -> list[str]:
    """Start what is not running, deploy prefect.yaml, and return one line a thing for a person.

    What was changed in Prefect's UI stays, unless `reset`.
    """
    lines = [*up_server(settings), *reconcile.run(settings)]
    lines += dotenv.write(project.root() / ".env", connection.address(settings), key.credentials(settings))
    if _running(settings, "worker"):
        lines.append("Prefect worker is already up")
    else:
        _prefect(settings, "work-pool", "create", WORK_POOL, "--type", "process", "--overwrite")
        _prefect(settings, "work-pool", "update", WORK_POOL, "--concurrency-limit", "1")
        name = f"agentloop-{os.getpid()}"
        module = ["prefect", "worker", "start", "--pool", WORK_POOL, "--name", name]
        log_begins = _start(settings, "worker", module, _worker_environment(settings))
        _wait_for_worker(settings, log_begins)
        lines.append(f"Prefect worker started in the pool {WORK_POOL}")

    def deploy(file: Path) -> None:
        _prefect(settings, "--no-prompt", "deploy", "--all", "--prefect-file", str(file))

    deployed, kept = deployments.deploy(settings, project.root() / "prefect.yaml", deploy, reset=reset)
    return [
        *lines,
        *kept,
        f"Deployed: {', '.join(deployed)}",
        f"Prefect UI, opened by this link: {connection.entrance(settings)}",
    ]


def up_server(settings: Settings) -> list[str]:
    """Start the Prefect server where it is not running; lines for a person."""
    if is_up(settings):
        return [f"Prefect server is already up at {connection.address(settings)}"]
    lines = []
    if _running(settings, "server"):
        # an older version's, or one whose key was lost; the worker has to learn the key as well
        lines += ["Prefect server is up without this project's key, and is started again", *down(settings)]
    _refuse_taken_port(settings)
    module = ["agentloop_flows.prefect_server", str(settings.prefect_port)]
    log_begins = _start(settings, "server", module, _server_environment(settings))
    _wait_for_server(settings, log_begins)
    return [*lines, f"Prefect server started at {connection.address(settings)}"]


def down(settings: Settings) -> list[str]:
    """End exactly the processes that `up` started; return one line for each."""
    lines = []
    for name in ("worker", "server"):
        process = _recorded(settings, name)
        if process is None:
            lines.append(f"Prefect {name} is not running")
        else:
            _end(process.pid)
            lines.append(f"Prefect {name} ended")
        _record_file(settings, name).unlink(missing_ok=True)
    return lines


def _end(pid: int) -> None:
    try:
        process = psutil.Process(pid)
    except psutil.NoSuchProcess:
        return  # a moment ago
    family = [process, *process.children(recursive=True)]
    process.send_signal(signal.SIGINT)
    _, alive = psutil.wait_procs(family, timeout=15)
    for survivor in alive:
        survivor.kill()
    psutil.wait_procs(alive, timeout=5)


def _start(settings: Settings, name: str, module: list[str], environment: dict[str, str]) -> int:
    """Start the process and write it down. Returns where in its log its own lines begin."""
    with open(_log_file(settings, name), "ab") as output:
        begins = output.tell()
        process = subprocess.Popen(
            [sys.executable, "-m", *module],
            cwd=project.root(),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            umask=0o077,
        )
    # the identity of one that has ended already is never met again
    found = Identity.of(process.pid) or Identity(process.pid, 0, "")
    with atomic(_record_file(settings, name)) as temporary:
        temporary.write_text(json.dumps({"name": name, **asdict(found)}), encoding="utf-8")
    return begins


def _prefect(settings: Settings, *arguments: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "prefect", *arguments],
        cwd=project.root(),
        encoding="utf-8",
        errors="replace",
        capture_output=True,
        env=connection.environment(settings),
        stdin=subprocess.DEVNULL,
    )
    if result.returncode:
        words = (result.stderr or result.stdout).strip().splitlines() or ["no output"]
        raise ServerError(f"prefect {' '.join(arguments[:3])} failed: {words[-1]}")


def _wait_for_server(settings: Settings, log_begins: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if _healthy(settings):
            return
        if not _running(settings, "server"):
            break
        time.sleep(0.3)
    raise _failed_start(settings, "server", log_begins)


def _wait_for_worker(settings: Settings, log_begins: int) -> None:
    """Until the worker says that it has started; one that says nothing and lives is believed after a while."""
    deadline = time.monotonic() + WORKER_SECONDS
    while time.monotonic() < deadline:
        if not _running(settings, "worker"):
            raise _failed_start(settings, "worker", log_begins)
        if "started!" in _log_text(settings, "worker", log_begins):
            return
        time.sleep(0.3)


def _failed_start(settings: Settings, name: str, log_begins: int) -> ServerError:
    reason = child_log.reason(_log_text(settings, name, log_begins))
    return ServerError(f"the Prefect {name} did not start: {reason} (log: {_log_file(settings, name)})")


def _log_text(settings: Settings, name: str, begins: int) -> str:
    with open(_log_file(settings, name), "rb") as file:
        file.seek(begins)
        return file.read().decode(errors="replace")


def _healthy(settings: Settings) -> bool:
    return _status(settings, "/api/health") == 200


def _closed(settings: Settings) -> bool:
    """True where the server refuses those who have no key, and takes this project's."""
    proof = {"Authorization": key.authorization(key.credentials(settings))}
    return _status(settings, "/api/version") == 401 and _status(settings, "/api/version", proof) == 200


def _status(settings: Settings, path: str, headers: Mapping[str, str] | None = None) -> int | None:
    try:
        return httpx.get(connection.address(settings) + path, headers=headers, timeout=5, trust_env=False).status_code
    except httpx.TransportError:
        return None


def _refuse_taken_port(settings: Settings) -> None:
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", settings.prefect_port)) == 0:
            raise SettingError(
                f"prefect_port: port {settings.prefect_port} is in use by {listener(settings.prefect_port)}; "
                "set another one"
            )


def listener(port: int) -> str:
    """Return who listens on the port, as far as this user may know it."""
    for process in psutil.process_iter():
        try:
            ours = any(
                each.status == psutil.CONN_LISTEN and each.laddr.port == port for each in process.net_connections("tcp")
            )
            if ours and "agentloop_flows.prefect_server" in process.cmdline():
                return f"the Prefect server of {process.cwd()} (process {process.pid})"
            if ours:
                return f"another program ({process.name()}, process {process.pid})"
        except (psutil.Error, OSError):  # somebody else's, or it has ended
            continue
    return "another program"


def _log_file(settings: Settings, name: str) -> Path:
    return settings.paths.logs / f"prefect-{name}.log"


def _record_file(settings: Settings, name: str) -> Path:
    return settings.paths.services / f"{name}.json"


def _recorded(settings: Settings, name: str) -> Identity | None:
    """The process that was written down, None where none was, where it has ended, and where the record cannot be read."""
    try:
        record = json.loads(_record_file(settings, name).read_text(encoding="utf-8"))
        if "created" in record:  # by an older version, which went by the clock
            began = psutil.Process(record["pid"]).create_time()
            return Identity.of(record["pid"]) if abs(began - record["created"]) < 1 else None
        process = Identity(record["pid"], record["ticks"], record["boot"])
    except (FileNotFoundError, ValueError, TypeError, KeyError, psutil.NoSuchProcess):
        return None
    return process if process.lives() else None


def _running(settings: Settings, name: str) -> bool:
    return _recorded(settings, name) is not None
