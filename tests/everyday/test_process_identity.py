"""A recorded process is met again whatever the clock does, and is not taken for another one."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import psutil
import pytest
from home import Home, free_port

from agentloop.identity import Identity
from agentloop_flows import services


@pytest.fixture
def process():
    # a name in which the kernel's line of the process could be misread
    started = subprocess.Popen(["bash", "-c", "exec -a ') 0 (' sleep 600"])
    yield started
    started.kill()
    started.wait()


def test_the_same_process_and_no_other(process):
    found = Identity.of(process.pid)
    assert found.lives() and Identity.of(process.pid) == found != Identity.of(os.getpid())
    assert not replace(found, ticks=found.ticks - 1).lives(), "the number was given to a later process"
    assert not replace(found, boot="another").lives(), "the machine was started again"
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody has asked how
    assert not found.lives() and Identity.of(process.pid) is None


@pytest.fixture
def settings(tmp_path):
    made = Home(tmp_path, free_port()).settings()
    made.export()
    return made


def test_a_service_is_known_after_the_clock_was_set(settings, process, monkeypatch):
    """psutil counts from the time at which the machine started, which follows the clock."""
    record = settings.paths.services / "worker.json"
    found = Identity.of(process.pid)
    record.write_text(json.dumps({"name": "worker", "pid": found.pid, "ticks": found.ticks, "boot": found.boot}))
    before = psutil.Process(process.pid).create_time()
    real = psutil._pslinux.boot_time
    monkeypatch.setattr(psutil._pslinux, "boot_time", lambda *args, **options: real() + 7200)
    monkeypatch.setattr(psutil._pslinux, "BOOT_TIME", real() + 7200, raising=False)
    assert abs(psutil.Process(process.pid).create_time() - before) > 3600
    assert services.is_running(settings, "worker")
    assert services.down(settings)[0] == "Prefect worker ended"
    assert process.wait(10) is not None and not record.exists()


def test_a_record_of_before_the_machine_was_started_is_nobodys(settings, process):
    found = Identity.of(process.pid)
    record = settings.paths.services / "worker.json"
    record.write_text(json.dumps({"name": "worker", "pid": found.pid, "ticks": found.ticks, "boot": "another"}))
    assert services.down(settings)[0] == "Prefect worker is not running"
    assert process.poll() is None


def test_a_record_of_an_older_version_is_understood(settings, process):
    record = settings.paths.services / "worker.json"
    began = psutil.Process(process.pid).create_time()
    record.write_text(json.dumps({"name": "worker", "pid": process.pid, "created": began - 60}))
    assert not services.is_running(settings, "worker")
    record.write_text(json.dumps({"name": "worker", "pid": process.pid, "created": began}))
    assert services.is_running(settings, "worker")


def test_whose_server_has_the_port_is_said(tmp_path):
    port = free_port()
    code = f"import socket, sys; s = socket.create_server(('127.0.0.1', {port})); print(flush=True); sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    for words, whose in (
        (["-c", code], r"another program \(python.*, process {}\)"),
        (["-c", code, "agentloop_flows.prefect_server"], r"the Prefect server of .*/clone \(process {}\)"),
    ):
        (tmp_path / "clone").mkdir(exist_ok=True)
        with subprocess.Popen([sys.executable, *words], cwd=tmp_path / "clone", **pipes) as other:
            other.stdout.readline()
            said = rf"prefect_port: port {port} is in use by {whose.format(other.pid)}; set another one"
            with pytest.raises(services.SettingError, match=said):
                services.up_server(Home(tmp_path / "home", port).settings())
            other.stdin.close()
