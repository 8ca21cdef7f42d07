"""Units that `agentloop up --install` has written, under a real systemd user manager: they keep server and worker up, and after
the machine has lost its power a schedule fires and its run comes to its end, with nobody logged in and nothing typed."""

import json
import sys
import time

import pytest
import user_manager
import yaml
from home import SMALL, Home, free_port
from listener import listening
from user_manager import Machine

from agentloop.files import is_locked

pytestmark = pytest.mark.slow
EVERY = 40
"""Seconds of the schedule: a run takes longer, so that some are overdue at any time."""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = Home(tmp_path_factory.mktemp("reboot") / "data of mine", free_port())
    file = home.project / "prefect.yaml"
    content = yaml.safe_load(file.read_text())
    demo = content["deployments"][0]
    demo["schedules"] = [{"interval": EVERY, "timezone": "UTC", "slug": "often", "active": False}]
    demo["parameters"]["overrides"] = _nested((*SMALL, "iterations=1"))
    file.write_text(yaml.safe_dump(content))
    return home


def _nested(words):
    from agentloop.settings import parse_overrides

    return parse_overrides(words)


@pytest.fixture(scope="module")
def listener():
    with listening() as listener:
        yield listener


@pytest.fixture(scope="module")
def machine(home, listener, tmp_path_factory):
    if lack := user_manager.lacking():
        pytest.skip(f"no systemd user manager can be started: {lack}")
    wanted = {name: value for name, value in home.environment.items() if name.startswith(("AGENTLOOP_", "PYTHONPATH"))}
    variables = wanted | {"NOTIFY_WEBHOOK": listener.address(), "AGENTLOOP_NOTIFY__DISK_GIB": "0", "COLUMNS": "160"}
    machine = Machine(tmp_path_factory.mktemp("machine") / "home", variables)
    machine.boot()
    yield machine
    machine.lose_power()


def agentloop(machine, home, *words, code=0):
    done = machine.run(sys.executable, "-m", "agentloop", *words, cwd=home.project)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def checks(machine, home):
    """What the doctor says, whose exit code is about the whole machine."""
    done = machine.run(sys.executable, "-m", "agentloop", "doctor", "--json", cwd=home.project)
    return {each["what"]: each for each in json.loads(done.stdout)["checks"]}


def pids(home):
    records = [home.root / "services" / f"{name}.json" for name in ("server", "worker")]
    return [json.loads(each.read_text())["pid"] for each in records]


def wait(what, seconds=120):
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline
        time.sleep(1)
    return found


def at_work(home):
    """What the runs that are at work say of themselves."""
    return [
        json.loads(each.read_text()) for each in (home.root / "services" / "runs").glob("*.json") if is_locked(each)
    ]


def answers(home):
    try:
        with home.prefect() as api:
            return api.get("/health").status_code == 200
    except Exception:
        return False


def test_they_are_installed_and_started(machine, home):
    said = agentloop(machine, home, "up", "--install")
    assert "Installed in" in said and "Lingering is off" in said and "started at" in said and "by systemd" in said
    for unit in (home_unit(machine, "server"), home_unit(machine, "worker")):
        assert machine.run("systemctl", "--user", "is-enabled", unit).stdout.strip() == "enabled"
        assert machine.run("systemctl", "--user", "is-active", unit).stdout.strip() == "active"
    before = pids(home)
    again = agentloop(machine, home, "up")
    assert "server is already up" in again and "worker is already up" in again and pids(home) == before
    key = (home.root / "services" / "key").read_text().strip()
    written = [*(machine.home / ".config/systemd/user").glob("*.service"), home.root / "services" / "units.env"]
    assert len(written) == 3 and not any(key in each.read_text() for each in written)
    assert (home.root / "services" / "units.env").stat().st_mode & 0o777 == 0o600


def home_unit(machine, service):
    (found,) = (machine.home / ".config/systemd/user").glob(f"*-{service}.service")
    return found.name


def test_the_doctor_says_what_a_reboot_would_do(machine, home):
    found = checks(machine, home)
    assert found["worker"]["state"] == "ok" and found["schedules"]["found"].startswith("none is switched on")
    assert found["reboot"]["found"] == "survived once you have logged in: lingering is off"


def test_one_that_is_killed_is_started_again(machine, home):
    server, worker = pids(home)
    machine.run("kill", "-9", str(server), str(worker))
    wait(lambda: pids(home)[0] != server and pids(home)[1] != worker and answers(home))
    assert "server is already up" in agentloop(machine, home, "up")


def test_down_stops_them_and_up_starts_the_units(machine, home):
    assert agentloop(machine, home, "down").splitlines() == ["Prefect worker ended", "Prefect server ended"]
    time.sleep(15)  # longer than systemd waits before it starts one again
    assert not answers(home)
    assert "by systemd" in agentloop(machine, home, "up")


def test_after_a_loss_of_power_the_schedule_fires_and_the_run_ends(machine, home, listener):
    with home.prefect() as api:
        deployment = api.get("/deployments/name/self-improve/demo").json()
        (schedule,) = deployment["schedules"]
        path = f"/deployments/{deployment['id']}/schedules/{schedule['id']}"
        assert api.patch(path, json={"active": True}).status_code == 204
    agentloop(machine, home, "up")  # a redeploy leaves it on
    wait(lambda: checks(machine, home)["schedule"]["state"] == "ok")
    found = checks(machine, home)
    assert "self-improve/demo: every 0:00:40, next " in found["schedule"]["found"]
    assert found["reboot"]["state"] == "fragile" and "enable-linger" in found["reboot"]["remedy"]
    (first,) = wait(lambda: at_work(home))
    machine.run("kill", "-9", str(first["pid"]))
    assert listener.wait(1)[0]["line"].startswith("demo: failed")  # as its worker says
    (second,) = wait(lambda: [each for each in at_work(home) if each["pid"] != first["pid"]])
    running = [each for each in home.flow_runs() if each["state"]["type"] == "RUNNING"]
    assert len(running) == 1
    machine.lose_power()
    assert not answers(home)
    time.sleep(2 * EVERY)
    machine.boot()
    wait(lambda: answers(home))
    done = wait(lambda: [each for each in home.flow_runs() if each["state"]["type"] == "COMPLETED"], seconds=500)
    states = {each["id"]: each["state"] for each in home.flow_runs()}
    assert states[running[0]["id"]]["type"] == "CRASHED"  # what the loss of power has cut
    missed = [each for each in home.flow_runs() if each["state"]["name"] == "Skipped"]
    assert missed and all("makes up for it" in each["state"]["message"] for each in missed)
    assert done[0]["auto_scheduled"]
    assert [body["event"] for body in listener.wait(3)][:2] == ["failed", "failed"]
    assert "is gone" in listener.bodies[1]["line"] and listener.bodies[2]["line"].startswith("demo, iteration 1: ")
    assert home.rows("SELECT count(*) FROM iterations WHERE finished IS NOT NULL") == [(1,)]


def test_they_are_removed(machine, home):
    said = agentloop(machine, home, "up", "--uninstall")
    assert "Prefect server ended" in said and "Removed from" in said and not answers(home)
    assert list((machine.home / ".config/systemd/user").rglob("*.service")) == []
    assert not (home.root / "services" / "units.env").exists()
    assert "No units of this project" in agentloop(machine, home, "up", "--uninstall")
