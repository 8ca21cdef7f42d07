"""Ends of runs on a real Prefect server, told to a real web server: each once, whoever is left to tell it."""

import asyncio
import logging
import socket
import time
from datetime import UTC, datetime

import pytest
from listener import listening
from prefect import flow
from prefect.client.orchestration import PrefectClient, SyncPrefectClient
from prefect.context import FlowRunContext
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Completed, Crashed, Pending, Running

from agentloop import settings as configuration
from agentloop.errors import SettingError
from agentloop.store import notices
from agentloop.store.database import Database
from agentloop_flows import connection, presence, reconcile, services, telling
from agentloop_flows.presence import Presence


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("telling")


@pytest.fixture(scope="module")
def project(data, free_port):
    """The settings of the project, as whoever finds a run gone reads them."""
    paths = {"data": str(data), "cache": str(data / "cache")}
    settings = configuration.load({"prefect_port": free_port, "paths": paths})
    settings.export()
    services.up_server(settings)
    yield settings
    services.down(settings)


@pytest.fixture
def listener(monkeypatch, project, connected):
    with listening() as listener, connected(project):
        monkeypatch.setenv("NOTIFY_WEBHOOK", listener.address())
        monkeypatch.setenv("AGENTLOOP_PREFECT_PORT", str(project.prefect_port))
        monkeypatch.setenv("AGENTLOOP_NOTIFY__DISK_GIB", "0")
        yield listener


@pytest.fixture
def settings(project):
    return project.model_copy(
        update={"campaign": "units", "notify": project.notify.model_copy(update={"disk_gib": 0.0, "seconds": 1.0})}
    )


def run(settings, work, **options):
    @flow(name="evaluate", flow_run_name="evaluate-units", **options, **telling.HOOKS)
    def evaluate():
        presence.announce(settings)
        return work()

    return evaluate(return_state=True)


def kept(settings):
    with Database.open(settings.paths.database) as database:
        return notices.newest(database, 100)


def fail():
    raise SettingError("training.rank: 7 is no rank")


def test_a_run_tells_its_end_itself(settings, listener):
    assert run(settings, lambda: Completed(message="The champion solves 55.4 %")).is_completed()
    (body,) = listener.bodies
    assert (body["line"], body["event"]) == ("units: The champion solves 55.4 %", "done")
    assert body["link"].startswith(f"{connection.address(settings)}/runs/flow-run/")
    assert kept(settings)[0].arrived == ("http://127.0.0.1",)
    assert run(settings, fail).is_failed()
    assert listener.bodies[1]["line"] == "units: failed: training.rank: 7 is no rank"
    assert len(listener.bodies) == 2


def test_what_prefect_says_of_its_own_is_left_out(settings, listener):
    run(settings, lambda: 1)
    run(settings, lambda: 1 / 0)
    assert [body["line"] for body in listener.bodies] == ["units: done", "units: failed: division by zero"]


def test_only_what_is_wanted_is_told_and_all_of_it_is_kept(settings, listener):
    failures = settings.model_copy(update={"notify": settings.notify.model_copy(update={"on": ("failed",)})})
    run(failures, lambda: Completed(message="not wanted"))
    assert listener.bodies == [] and (kept(failures)[0].line, kept(failures)[0].arrived) == ("units: not wanted", None)


def test_a_server_that_is_away_keeps_nobody_from_being_told(settings, listener):
    @flow(name="evaluate")
    def untold():
        presence.announce(settings)
        return FlowRunContext.get().flow_run

    flow_run = untold()
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{nobody.getsockname()[1]}/api"}):
            telling.tell(untold, flow_run, Completed(message="while it was away"))
    telling.tell(untold, flow_run, Completed(message="it is back"))
    assert [body["line"] for body in listener.bodies] == ["units: while it was away"]
    (fault,) = kept(settings)[0].failed
    assert fault.startswith("not told through Prefect's events: ")


def test_ctrl_c_is_not_told(settings, listener):
    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(settings, interrupt)
    assert listener.bodies == []


def test_a_way_that_fails_is_one_line_and_ends_no_run(settings, listener, caplog):
    listener.status = 500
    caplog.set_level(logging.WARNING)
    assert run(settings, lambda: 1).is_completed()
    said = [each.getMessage() for each in caplog.records if "not told" in each.getMessage()]
    assert said == ["not told through http://127.0.0.1: answered 500"]
    assert kept(settings)[0].failed == tuple(said) and kept(settings)[0].arrived == ()


def test_a_database_that_cannot_be_opened_keeps_nobody_from_being_told(settings, listener, tmp_path):
    (tmp_path / "agentloop.duckdb").write_text("this is no database" * 100)
    broken = settings.model_copy(update={"paths": settings.paths.model_copy(update={"data": tmp_path})})
    (tmp_path / "services").mkdir()
    run(broken, fail)
    assert [body["line"] for body in listener.bodies] == ["units: failed: training.rank: 7 is no rank"]


def test_a_run_that_ends_before_it_knows_its_campaign_is_told_by_its_name(settings, listener):
    @flow(name="self-improve", flow_run_name="improve-demo", **telling.HOOKS)
    def improve():
        fail()

    improve(return_state=True)
    assert [body["line"] for body in listener.bodies] == ["improve-demo: failed: training.rank: 7 is no rank"]


@flow(name="evaluate")
def evaluate():
    """Has the name of one of the project's flows, and is never run."""


# the server looks for such runs too, and if it is faster it tells of them with its own settings: seen once in many runs
@pytest.mark.slow
def test_a_run_whose_process_is_gone_is_told_of_once_and_its_next_attempt_again(settings, listener):
    gone = Presence(
        socket.gethostname(), presence.boot_id(), 4_000_000, 1, str(settings.paths.services / "runs" / "x.json")
    )

    async def work():
        async with PrefectClient(*where, auth_string=auth) as client:
            run = await client.create_flow_run(evaluate, name="improve-units", state=Pending())
            for attempt in (1, 2):
                await client.set_flow_run_state(run.id, Running(), force=True)
                labels = {**gone.labels, "agentloop.attempt": attempt, presence.CAMPAIGN: "units"}
                await client.update_flow_run_labels(run.id, labels)
                first, again = await reconcile.reconcile(client), await reconcile.reconcile(client)
                assert len(first) == 1 and again == []
                # the worker, which started it, hears of its end as well
                await asyncio.to_thread(
                    telling.tell, evaluate, await client.read_flow_run(run.id), Crashed(message="code -9")
                )

    server = connection.environment(settings)
    where, auth = [server["PREFECT_API_URL"]], server["PREFECT_API_AUTH_STRING"]
    asyncio.run(work())
    lines = [body["line"] for body in listener.bodies]
    assert lines == ["units: failed: its process 4000000 is gone; a retry or a new run continues where it stopped"] * 2


def test_a_disk_that_is_low_is_told_of_once_until_it_has_recovered(settings, listener):
    def with_at_least(gib):
        return settings.model_copy(update={"notify": settings.notify.model_copy(update={"disk_gib": gib})})

    for gib, told in ((0.0, 0), (1e9, 1), (1e9, 1), (0.0, 1), (1e9, 2)):
        assert telling.disk(with_at_least(gib)) == []
        assert len(listener.bodies) == told
    assert listener.bodies[0]["title"] == "agentloop: disk low" and "GiB are free at" in listener.bodies[0]["line"]
    telling.disk(with_at_least(0.0))


def test_every_notice_is_an_event_of_prefects(settings, listener):
    begun = datetime.now(UTC)
    run(settings, lambda: Completed(message="for an automation of one's own"))
    server = connection.environment(settings)
    filter = {"filter": {"event": {"prefix": [telling.EVENT]}, "occurred": {"since": begun.isoformat()}}}
    with SyncPrefectClient(server["PREFECT_API_URL"], auth_string=server["PREFECT_API_AUTH_STRING"]) as client:
        deadline = time.monotonic() + 60  # it is written down with others, some seconds later
        while not (events := client.request("POST", "/events/filter", json=filter).json()["events"]):
            assert time.monotonic() < deadline
            time.sleep(0.2)
    (event,) = events
    assert (
        event["event"] == "agentloop.notice.done"
        and event["resource"]["prefect.resource.id"] == "agentloop.campaign.units"
    )
    assert event["payload"] == listener.bodies[0] and event["related"][0]["prefect.resource.role"] == "flow-run"
