"""Who has the key by right notices nothing: `prefect` in the project's folder, the worker, what an older version left."""

import json
import os
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from home import Home, free_port

from agentloop_flows import connection, key, services
from agentloop_flows import dotenv as dotenv_file

HELLO = """
from prefect import flow, task

@task
def greet():
    print("hello from the worker")

@flow(log_prints=True)
def hello():
    greet()
"""


def prefect(*words: str, cwd: Path, **variables: str) -> str:
    """Output of a `prefect` command for which nothing is set but what is given."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "AGENTLOOP_"))}
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", *words],
        cwd=cwd,
        env=clean | {"COLUMNS": "200"} | variables,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prefect_in_the_projects_folder(home, tmp_path):
    listed = prefect("deployment", "ls", cwd=home.project, HOME=str(tmp_path))
    for name in ("self-improve/demo", "self-improve/nightly", "teach/experts", "evaluate/champion"):
        assert name in listed


def test_a_deployment_runs_on_the_worker(home, tmp_path):
    """Its task's events come over a WebSocket, which takes the key in its first message."""
    (tmp_path / "hello.py").write_text(HELLO)
    words = ("deploy", "hello.py:hello", "--name", "here", "--pool", services.WORK_POOL)
    api = {
        name: value for name, value in connection.environment(home.settings()).items() if name.startswith("PREFECT_API")
    }
    prefect(*words, cwd=tmp_path, HOME=str(tmp_path), **api)
    prefect("deployment", "run", "hello/here", "--watch", cwd=home.project, HOME=str(tmp_path))
    of_hello = {"flows": {"name": {"any_": ["hello"]}}}
    with home.prefect() as client:
        (run,) = client.post("/flow_runs/filter", json=of_hello).json()
        assert run["state"]["type"] == "COMPLETED"
        deadline = time.monotonic() + 60
        while not (tasks := client.post("/task_runs/filter", json=of_hello).json()) and time.monotonic() < deadline:
            time.sleep(0.5)
        assert [task["state"]["type"] for task in tasks] == ["COMPLETED"]


def test_the_users_own_lines_stay(home):
    lines = (home.project / ".env").read_text().splitlines()
    assert lines[:2] == ["MINE=1", "PREFECT_API_URL=http://127.0.0.1:1/api"]
    assert lines[2:] == [
        dotenv_file.BEGIN,
        f"PREFECT_API_URL=http://127.0.0.1:{home.port}/api",
        f"PREFECT_API_AUTH_STRING={key.credentials(home.settings())}",
        dotenv_file.END,
    ]


def test_writing_again_replaces_only_the_block(tmp_path):
    real, link = tmp_path / "real", tmp_path / ".env"
    real.write_text("A=1")
    link.symlink_to(real)
    assert dotenv_file.write(link, "http://127.0.0.1:1", "agentloop:one") == []
    real.write_text(real.read_text() + "B=2\n")
    assert dotenv_file.write(link, "http://127.0.0.1:2", "agentloop:two") == []
    assert link.is_symlink() and stat.S_IMODE(real.stat().st_mode) == 0o600
    text = real.read_text()
    assert text.splitlines()[:2] == ["A=1", "B=2"] and "one" not in text and text.count("PREFECT_API_URL") == 1
    before = real.stat().st_mtime_ns
    dotenv_file.write(link, "http://127.0.0.1:2", "agentloop:two")
    assert real.stat().st_mtime_ns == before
    (tmp_path / "folder").mkdir()
    (said,) = dotenv_file.write(tmp_path / "folder", "http://127.0.0.1:2", "agentloop:two")
    assert "folder" in said


def test_a_key_is_made_once_and_never_shared(tmp_path):
    settings = Home(tmp_path, free_port()).settings()
    with ThreadPoolExecutor(16) as pool:
        (first,) = set(pool.map(lambda _: key.load(settings), range(64)))
    assert len(first) >= 43
    file = settings.paths.services / "key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and os.listdir(file.parent) == ["key"]
    file.chmod(0o640)
    second = key.load(settings)
    file.write_text("")
    third = key.load(settings)
    assert len({first, second, third}) == 3 and stat.S_IMODE(file.stat().st_mode) == 0o600


def test_variables_of_the_users_are_left_out(tmp_path, monkeypatch):
    settings = Home(tmp_path, free_port()).settings()
    for name in ("PREFECT_API_DATABASE_CONNECTION_URL", "PREFECT_SERVER_API_BASE_PATH", "PREFECT_API_KEY", "all_proxy"):
        monkeypatch.setenv(name, "theirs")
    monkeypatch.setenv("NO_PROXY", "example.org")
    monkeypatch.setenv("no_proxy", "localhost")
    monkeypatch.setenv("KEPT", "theirs")
    found = connection.environment(settings)
    assert [name for name, value in found.items() if value == "theirs"] == ["KEPT"]
    assert found["NO_PROXY"] == found["no_proxy"] == "localhost,example.org,127.0.0.1"


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"pid": 1}'])
def test_a_broken_record_is_none(tmp_path, text):
    settings = Home(tmp_path, free_port()).settings()
    settings.paths.services.mkdir(parents=True)
    for name in ("server", "worker"):
        (settings.paths.services / f"{name}.json").write_text(text)
    assert not services.is_up(settings)
    assert services.down(settings) == ["Prefect worker is not running", "Prefect server is not running"]


def test_an_open_server_is_not_taken_for_a_closed_one(tmp_path):
    """As an older version left it running: without a key."""
    home = Home(tmp_path, free_port())
    settings = home.settings()
    settings.export()
    with open(tmp_path / "log", "wb") as log:
        older = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--port", str(home.port)],
            cwd=tmp_path,
            env=os.environ | settings.child_environment(),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    record = {"name": "server", "pid": older.pid, "created": psutil.Process(older.pid).create_time()}
    (settings.paths.services / "server.json").write_text(json.dumps(record))
    try:
        while not services._healthy(settings):
            assert older.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.2)
        assert not services.is_up(settings)
        lines = services.up_server(settings)
        assert lines[0] == "Prefect server is up without this project's key, and is started again"
        assert older.poll() is not None and services.is_up(settings)
    finally:
        services.down(settings)
        older.kill()
        older.wait()
