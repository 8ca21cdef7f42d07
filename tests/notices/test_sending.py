"""A notice to a real program and to a real web server; and what is said where it does not arrive."""

import json
import logging
import socket
import sys
import threading
from pathlib import Path

import pytest
from listener import listening

from agentloop import settings as configuration
from agentloop.errors import SettingError
from agentloop.notices.notice import Notice
from agentloop.notices.sending import Outcome, send

NOTICE = Notice(
    ("done", "promoted"),
    "units, iteration 4: promoted, 51.2 → 55.4 % (+4.2)",
    "units",
    "http://127.0.0.1:4200/runs/flow-run/7",
    "/data/reports/units.html",
)
SECRET = "s3cret-T0ken"
WRITE = "import json, os, sys; json.dump([dict(os.environ), json.load(sys.stdin)], open(sys.argv[1], 'w'))"


@pytest.fixture
def listener():
    with listening() as listener:
        yield listener


def notify(**values):
    return configuration.load({"notify": values}).notify


def test_a_command_gets_it_in_its_environment_and_as_json(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "the key of the server")
    out = tmp_path / "it's $here"
    assert send(NOTICE, notify(command=[sys.executable, "-c", WRITE, str(out)])) == [Outcome("command")]
    variables, body = json.loads(out.read_text())
    assert body == NOTICE.body and "PREFECT_API_AUTH_STRING" not in variables
    assert variables["NOTICE_EVENT"] == "promoted" and variables["NOTICE_LINE"] == NOTICE.line
    assert (
        variables["NOTICE_TEXT"] == f"agentloop: promoted\n{NOTICE.line}\nRun: {NOTICE.link}\nReport: {NOTICE.report}"
    )


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        (["/nowhere/program"], "/nowhere/program: No such file or directory"),
        ([sys.executable, "-c", "raise SystemExit('no mail today')"], "exit code 1: no mail today"),
        ([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], "signal 9"),
        (["/bin/true\0"], "the command has a null character in it"),
    ],
)
def test_a_command_that_fails_is_said(command, fault):
    assert send(NOTICE, notify(command=command)) == [Outcome("command", fault)]


def test_a_command_that_hangs_is_ended_with_what_it_has_started(tmp_path):
    program = "import subprocess, sys; subprocess.run(['sleep', '600'])"
    values = notify(command=[sys.executable, "-c", program], seconds=1)
    assert send(NOTICE, values) == [Outcome("command", "not done after 1 s (notify.seconds)")]


def test_a_web_address_gets_json(listener, monkeypatch):
    monkeypatch.setenv("NOTIFY_WEBHOOK", listener.address())
    assert send(NOTICE, notify()) == [Outcome("http://127.0.0.1")]
    (body,) = listener.bodies
    assert body["text"] == body["content"] == f"agentloop: promoted\n{NOTICE.text}"
    assert (body["title"], body["event"], body["events"]) == ("agentloop: promoted", "promoted", ["done", "promoted"])


def test_any_other_address_is_apprises(listener, monkeypatch):
    monkeypatch.setenv("NOTIFY_WEBHOOK", f"json://127.0.0.1:{listener.port}/{SECRET} nosuch://{SECRET}")
    outcomes = send(NOTICE, notify())
    assert outcomes == [
        Outcome("json://"),
        Outcome("nosuch://", "Apprise knows no such address; see its list of services"),
    ]
    (body,) = listener.bodies
    assert (body["title"], body["message"]) == (NOTICE.title, NOTICE.text)


def test_addresses_of_a_file_that_nobody_else_can_read(listener, tmp_path):
    file = tmp_path / "addresses"
    file.write_text(f"# mine\n{listener.address('/a')}\n\n{listener.address('/b')}\n")
    file.chmod(0o600)
    assert [each.fault for each in send(NOTICE, notify(webhook_file=str(file)))] == [None, None]
    assert len(listener.bodies) == 2
    file.chmod(0o640)
    (outcome,) = send(NOTICE, notify(webhook_file=str(file)))
    assert outcome.fault == f"notify.webhook_file: other users can read {file}, which is a secret; chmod 600 it"
    (outcome,) = send(NOTICE, notify(webhook_file=str(tmp_path / "none")))
    assert outcome.fault == f"notify.webhook_file: {tmp_path / 'none'}: No such file or directory"


def test_an_address_is_never_said(listener, monkeypatch, caplog, capfd):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        closed = nobody.getsockname()[1]
    listener.status = 404
    urls = [
        listener.address(f"/{SECRET}"),
        f"http://127.0.0.1:{closed}/{SECRET}",
        f"http://{SECRET}:{SECRET}@127.0.0.1:{closed}/",
        f"http://[{SECRET}",
        f"http://127.0.0.1:{SECRET}/",
        f"json://127.0.0.1:{closed}/{SECRET}",
        f"{SECRET}",
    ]
    monkeypatch.setenv("NOTIFY_WEBHOOK", " ".join(urls))
    caplog.set_level(logging.DEBUG)
    outcomes = send(NOTICE, notify(seconds=1))
    assert len(outcomes) == len(urls) and all(each.fault for each in outcomes)
    assert outcomes[0] == Outcome("http://127.0.0.1", "answered 404")
    assert outcomes[1] == Outcome("http://127.0.0.1", "not reached (ConnectError)")
    said = [*map(str, outcomes), caplog.text, *capfd.readouterr()]
    assert not [text for text in said if SECRET in text]


def test_what_is_not_reached_at_once_is_tried_again(monkeypatch):
    """As after a reboot, when the network comes later than the services."""
    with listening() as listener:
        monkeypatch.setenv("NOTIFY_WEBHOOK", listener.address())
        listener.status = 503
        mending = threading.Timer(2, lambda: setattr(listener, "status", 200))
        mending.start()
        assert send(NOTICE, notify(seconds=60)) == [Outcome("http://127.0.0.1")]
        mending.join()
        assert len(listener.bodies) >= 2
        listener.status = 503
        assert send(NOTICE, notify(seconds=1)) == [Outcome("http://127.0.0.1", "answered 503")]


def test_an_address_among_the_settings_is_refused_without_being_said():
    with pytest.raises(SettingError) as refused:
        configuration.load({"notify": {"webhook": f"https://example.org/{SECRET}"}})
    assert str(refused.value).startswith("notify.webhook: an address is a secret") and SECRET not in str(refused.value)


def test_the_database_does_not_keep_how_anybody_is_told(tmp_path):
    from agentloop.store import campaigns
    from agentloop.store.database import Database

    settings = configuration.load({"notify": {"command": ["curl", SECRET]}, "paths": {"data": str(tmp_path)}})
    with Database.open(tmp_path / "agentloop.duckdb") as database:
        campaigns.register(database, settings)
        changed = configuration.load({"notify": {"nights": 3}, "paths": {"data": str(tmp_path)}})
        assert campaigns.changes(database, changed) == []
        ((kept,),) = database.execute("SELECT settings FROM campaigns")
    assert SECRET not in kept and not any(SECRET.encode() in file.read_bytes() for file in Path(tmp_path).iterdir())


def test_who_wants_what():
    assert NOTICE.wanted(["promoted"]) and NOTICE.wanted(["done"]) and not NOTICE.wanted(["failed", "stalled"])
    assert Notice(("test",), "a test").wanted([])
