"""The local Prefect server and worker: started once, left running, ended by name; nobody without the key can use them.

What was started is written down as the kernel names it (see agentloop/identity.py), so that `down` ends exactly those
processes and never one that happens to have got the same process id, whatever happens to the clock.
"""

from __future__ import annotations

import base64
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
from typing import Any

import httpx
import psutil

from agentloop import caches, child_log, project, scratch
from agentloop.errors import ServerError, SettingError
from agentloop.files import atomic
from agentloop.identity import Identity
from agentloop.settings import Settings
from agentloop.settings.variables import ENV_PREFIX
from agentloop.text import one_line_of
from agentloop_flows import automations, connection, deployments, dotenv, key, reconcile, schedules, units
from agentloop_flows.users_server import UsersServer

NAMES = ("server", "worker")
WORK_POOL = "agentloop"
START_SECONDS = 120
WORKER_SECONDS = 60


def _server_environment(settings: Settings) -> dict[str, str]:
    return connection.environment(settings) | {
        f"{ENV_PREFIX}PATHS__DATA": str(settings.paths.data),  # whose reports it shows, and whose disk it watches
        # the server itself removes old runs, hour by hour, with all that hangs on them; events it keeps for a week anyway
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(round(settings.retention.flow_run_days * 86_400)),
        "PREFECT_SERVER_API_AUTH_STRING": key.credentials(settings),
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": connection.own_address(settings),
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
    """Return True where the Prefect server answers: the user's own, or this project's, and only those who have the key."""
    if theirs := connection.users(settings):
        return why_unreachable(theirs) is None
    return is_running(settings, "server") and answers(settings)


def answers(settings: Settings) -> bool:
    """Return True where something on the port knows this project's key, and answers only those who have it."""
    return _healthy(settings) and _closed(settings)


def is_running(settings: Settings, name: str) -> bool:
    """Return True while the process lives that was written down as the server or the worker."""
    return _recorded(settings, name) is not None


def program(settings: Settings, name: str, *, listen: str = "127.0.0.1") -> tuple[list[str], dict[str, str]]:
    """Return what the server or worker is: the words after `python -m`, and its whole environment."""
    if name == "server":
        return ["agentloop_flows.prefect_server", str(settings.prefect_port), listen], _server_environment(settings)
    worker = ["prefect", "worker", "start", "--pool", WORK_POOL, "--name", f"agentloop-{os.getpid()}"]
    return worker, _worker_environment(settings)


def prepare(settings: Settings) -> list[str]:
    """Do what comes before a worker begins its first run, on a server that is up; one line a thing for a person."""
    _make_work_pool(settings)
    return [*reconcile.run(settings), *schedules.catch_up(settings)]


def _make_work_pool(settings: Settings) -> None:
    """One run at a time, each a process on this machine. Whether the pool is paused is left as it was set in Prefect's UI."""
    connection.connect(settings)
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectAlreadyExists, PrefectException
    from prefect.workers.process import ProcessWorker

    made: dict[str, Any] = {"base_job_template": ProcessWorker.get_default_base_job_template(), "concurrency_limit": 1}
    try:
        with connection.client(settings) as client:
            try:
                client.create_work_pool(WorkPoolCreate(name=WORK_POOL, type=ProcessWorker.type, **made))
            except ObjectAlreadyExists:
                client.update_work_pool(WORK_POOL, WorkPoolUpdate(**made))
    except (PrefectException, httpx.HTTPError) as error:
        raise ServerError(f"work pool {WORK_POOL}: {one_line_of(error)}") from None


def up(settings: Settings, *, reset: bool = False) -> list[str]:
    """Start what is not running, deploy prefect.yaml, and return one line a thing for a person.

    What was changed in Prefect's UI stays, unless `reset`.
    """
    lines = [*up_server(settings), *reconcile.run(settings)]
    if connection.users(settings) is None:
        lines += dotenv.write(project.root() / ".env", connection.address(settings), key.credentials(settings))
    log_begins = None
    if is_running(settings, "worker"):
        lines.append("Prefect worker is already up")
    else:
        lines += prepare(settings)
        log_begins = _start(settings, "worker")
    deployed = deploy(settings, reset=reset)  # which takes as long as the worker's start
    if log_begins is not None:
        _wait_for_worker(settings, log_begins)
        lines.append(f"Prefect worker started in the pool {WORK_POOL}{_by(settings)}")
    return [*lines, *deployed, f"Prefect UI, opened by this link: {connection.entrance(settings)}"]


def deploy(settings: Settings, *, reset: bool = False) -> list[str]:
    """Deploy prefect.yaml and the automations to the server, which is up; lines for a person."""

    def run(file: Path) -> None:
        _prefect(settings, "--no-prompt", "deploy", "--all", "--prefect-file", str(file))

    deployed, kept = deployments.deploy(settings, project.root() / "prefect.yaml", run, reset=reset)
    told = automations.settle(settings, work_pool=WORK_POOL, reset=reset)
    return [*kept, *told, f"Deployed: {', '.join(deployed)}"]


def up_server(settings: Settings) -> list[str]:
    """Start the Prefect server where it is not running; lines for a person.

    One that the user has already is only asked whether it answers. Raises ServerError where it does not.
    """
    if theirs := connection.users(settings):
        if reason := why_unreachable(theirs):
            raise ServerError(
                f"PREFECT_API_URL: {theirs.url} {reason}; where neither it nor a Prefect profile names a server, one of this "
                "project starts"
            )
        return [f"Your Prefect server is used: {theirs.page}"]
    if is_up(settings):
        return [f"Prefect server is already up at {connection.address(settings)}"]
    lines = []
    if is_running(settings, "server"):
        # an older version's, or one whose key was lost; the worker has to learn the key as well
        lines += ["Prefect server is up without this project's key, and is started again", *down(settings)]
    _refuse_taken_port(settings)
    log_begins = _start(settings, "server")
    _wait_for_server(settings, log_begins)
    return [*lines, f"Prefect server started at {connection.address(settings)}{_by(settings)}"]


def _by(settings: Settings) -> str:
    return " by systemd" if units.installed(settings) else ""


def down(settings: Settings) -> list[str]:
    """End exactly the processes that `up` or their units started; return one line for each. Units stay installed."""
    lines = []
    for name in reversed(NAMES):
        process = _recorded(settings, name)
        units.stop(settings, name)  # else it would be started again
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


def _start(settings: Settings, name: str) -> int:
    """Start the process, by its unit where that is installed, and write it down. Returns where in its log its lines begin."""
    log = _log_file(settings, name)
    if units.installed(settings):
        begins = log.stat().st_size if log.exists() else 0
        units.start(settings, name)
        return begins
    module, environment = program(settings, name)
    with open(log, "ab") as output:
        begins = output.tell()
        started = subprocess.Popen(
            [sys.executable, "-m", *module],
            cwd=project.root(),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            umask=0o077,
        )
    write_down(settings, name, started.pid)
    return begins


def write_down(settings: Settings, name: str, pid: int) -> None:
    """Note which process the server or the worker is."""
    # the identity of one that has ended already is never met again
    found = Identity.of(pid) or Identity(pid, 0, "")
    with atomic(_record_file(settings, name)) as temporary:
        temporary.write_text(json.dumps({"name": name, **asdict(found)}), encoding="utf-8")


def _lives(settings: Settings, name: str) -> bool:
    return is_running(settings, name) or units.is_active(settings, name)


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
        if not _lives(settings, "server"):
            break
        time.sleep(0.3)
    raise _failed_start(settings, "server", log_begins)


def _wait_for_worker(settings: Settings, log_begins: int) -> None:
    """Until the worker says that it has started; one that says nothing and lives is believed after a while."""
    deadline = time.monotonic() + WORKER_SECONDS
    while time.monotonic() < deadline:
        if not _lives(settings, "worker"):
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


def why_unreachable(server: UsersServer) -> str | None:
    """Return why a server of the user's cannot be worked with; None where it can."""
    headers = {}
    if proof := server.variables.get("PREFECT_API_AUTH_STRING"):
        headers["Authorization"] = f"Basic {base64.b64encode(proof.encode()).decode()}"
    elif token := server.variables.get("PREFECT_API_KEY"):
        headers["Authorization"] = f"Bearer {token}"
    try:
        code = httpx.get(f"{server.url}/version", headers=headers, timeout=10).status_code
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, ImportError) as error:  # ImportError: a SOCKS proxy
        return f"cannot be reached ({type(error).__name__})"
    if code in (401, 403):
        return "does not accept PREFECT_API_AUTH_STRING or PREFECT_API_KEY"
    return f"answers {code}" if code >= 500 else None  # Prefect Cloud has no such page, and says so with 404


def _status(settings: Settings, path: str, headers: Mapping[str, str] | None = None) -> int | None:
    try:
        return httpx.get(
            connection.own_address(settings) + path, headers=headers, timeout=5, trust_env=False
        ).status_code
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
