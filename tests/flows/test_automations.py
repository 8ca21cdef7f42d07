"""Automations on a real Prefect server, with a real notification block that posts to a real web server."""

import uuid
from datetime import UTC, datetime

import pytest
from listener import listening
from prefect import flow
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.events.schemas.automations import AutomationCore
from prefect.states import Crashed, Pending, Running

from agentloop import settings as configuration
from agentloop.notices.notice import Notice
from agentloop_flows import automations, connection, rehearsal, services, telling

BLOCK = "custom-webhook/mine"
EVERY = {"notices", "a run failed", "a run is late", "no worker"}


@pytest.fixture(scope="module")
def listener():
    with listening() as listener:
        yield listener


@pytest.fixture(scope="module")
def project(tmp_path_factory, free_port):
    root = tmp_path_factory.mktemp("automations")
    paths = {"data": str(root / "data"), "cache": str(root / "cache")}
    settings = configuration.load({"prefect_port": free_port, "paths": paths, "notify": {"block": BLOCK}})
    settings.export()
    services.up_server(settings)
    yield settings
    services.down(settings)


@pytest.fixture
def client(project):
    with connection.client(project) as client:
        yield client


@pytest.fixture
def settings(project, client, listener, connected):
    """The project, with the block and no automation of ours."""
    content = {"title": "{{subject}}", "body": "{{body}}"}
    block = CustomWebhookNotificationBlock(name="mine", url=listener.address(), json_data=content)
    with connected(project):
        block.save("mine", overwrite=True, _sync=True)
    for each in client.read_automations():
        client.delete_automation(each.id)
    (project.paths.data / "prefect" / "automations.json").unlink(missing_ok=True)
    listener.bodies.clear()
    return project


def settle(settings, **options):
    return automations.settle(settings, work_pool=services.WORK_POOL, **options)


def there(client):
    return {each.name.removeprefix(automations.PREFIX): each for each in client.read_automations()}


def changed(settings, **notify):
    return settings.model_copy(update={"notify": settings.notify.model_copy(update=notify)})


def test_they_are_made_once(settings, client):
    assert settle(settings) == [f"Told through {BLOCK}: notices, a run failed, a run is late, no worker"]
    before = there(client)
    assert set(before) == EVERY
    settle(settings)
    assert {name: each.id for name, each in there(client).items()} == {name: each.id for name, each in before.items()}


def test_without_a_block_there_are_none_and_one_that_is_missing_is_named(settings, client):
    assert settle(changed(settings, block=None)) == [] and there(client) == {}
    assert settle(changed(settings, block="slack-webhook/gone")) == [
        "notify.block: Prefect has no block slack-webhook/gone; make it in the UI, then agentloop up"
    ]
    settle(settings)
    assert settle(changed(settings, block=None)) == [] and there(client) == {}


def test_what_was_changed_in_the_ui_stays_until_a_reset(settings, client):
    settle(settings)
    before = there(client)
    client.pause_automation(before["no worker"].id)
    client.delete_automation(before["a run is late"].id)
    kept = "Automations (a run is late, no worker) stay as in Prefect's UI (agentloop up --reset: made again)"
    for _ in range(2):
        assert settle(settings)[0] == kept
        assert set(there(client)) == EVERY - {"a run is late"} and not there(client)["no worker"].enabled
    assert len(settle(settings, reset=True)) == 1
    assert set(there(client)) == EVERY and there(client)["no worker"].enabled


def test_what_only_the_settings_change_is_brought_about(settings, client):
    settle(settings)
    only = changed(settings, on=("promoted",))
    assert settle(only) == [f"Told through {BLOCK}: notices"] and set(there(client)) == {"notices"}
    settle(settings)
    assert set(there(client)) == EVERY


def test_automations_of_ones_own_are_left_alone(settings, client):
    settle(settings)
    own = there(client)["no worker"].model_copy(update={"name": "mine"})
    client.create_automation(AutomationCore.model_validate(own.model_dump(exclude={"id", "created", "updated"})))
    settle(changed(settings, block=None))
    assert [each.name for each in client.read_automations()] == ["mine"]


def test_a_notice_arrives_through_the_block(settings, client, listener):
    settle(settings)
    line = "units, iteration 4: promoted, 51.2 → 55.4 % (+4.2)"
    telling.emit(client, Notice(("done", "promoted"), line, "units", "http://127.0.0.1/run"))
    (body,) = listener.wait(1)
    assert body == {"title": "agentloop: promoted", "body": f"{line}\nRun: http://127.0.0.1/run"}


def test_a_run_whose_process_is_gone_is_told_of_by_prefect_alone(settings, client, listener):
    @flow(name="evaluate")
    def evaluate():
        """Has the name of one of the project's flows, and is never run."""

    @flow(name="somebody-elses")
    def other():
        """Is none of this project's business."""

    settle(settings)
    for each in (other, evaluate):
        run = client.create_flow_run(each, name=f"{each.name}-units", state=Pending())
        client.set_flow_run_state(run.id, Running())
        client.set_flow_run_state(run.id, Crashed(message="its process 7 is gone"))
    (body,) = listener.wait(1)
    assert body["title"] == "agentloop: a run failed"
    assert body["body"].startswith("evaluate-units: Crashed. its process 7 is gone\nRun: http://")
    assert body["body"].endswith(f"/runs/flow-run/{run.id}")
    assert len(listener.bodies) == 1


def test_a_pool_without_a_worker_is_told_of(settings, client, listener):
    settle(settings)
    client.create_work_pool(WorkPoolCreate(name=services.WORK_POOL, type="process"), overwrite=True)
    client.send_worker_heartbeat(services.WORK_POOL, "a worker", heartbeat_interval_seconds=1)
    (body,) = listener.wait(1, seconds=240)
    assert body["title"] == "agentloop: no worker"


def test_a_rehearsal_says_what_arrived(settings, client, listener):
    (outcome,) = rehearsal.notices(settings)
    assert (outcome.way, outcome.fault) == (f"Prefect's block {BLOCK}", None)
    assert listener.bodies[0]["title"] == "agentloop: a test"
    listener.status = 500
    try:
        (outcome,) = rehearsal.notices(settings)
    finally:
        listener.status = 200
    assert outcome.fault.startswith("Prefect ")  # which of the two it knows depends on the block
    (outcome,) = rehearsal.notices(changed(settings, block="slack-webhook/gone"))
    assert outcome.fault == "Prefect has no block slack-webhook/gone; make it in the UI, then agentloop up"


FAILED, LATE, NO_WORKER, NOTICES = "a run failed", "a run is late", "no worker", "notices"


@pytest.mark.parametrize(
    ("event", "state", "flow_name", "told"),
    [
        ("prefect.flow-run.Crashed", "CRASHED", "evaluate", FAILED),
        ("prefect.flow-run.Canary failed", "FAILED", "self-improve", FAILED),  # a state with a name of its own
        ("prefect.flow-run.Crashed", "CRASHED", "somebody-elses", None),
        ("prefect.flow-run.Completed", "COMPLETED", "evaluate", None),
        ("prefect.flow-run.Late", "SCHEDULED", "teach", LATE),
        ("prefect.flow-run.Late", "SCHEDULED", "somebody-elses", None),
        ("prefect.work-pool.not-ready", None, services.WORK_POOL, NO_WORKER),
        ("prefect.work-pool.not-ready", None, "another pool", None),
        ("agentloop.notice.stalled", None, None, NOTICES),
        ("agentloop.notice.failed", None, None, None),  # Prefect tells of it, whoever is left to do so
    ],
)
def test_which_of_them_an_event_sets_off(event, state, flow_name, told):
    """As Prefect's server decides it: lateness takes a quarter of an hour to be seen."""
    from prefect.server.events.schemas.automations import AutomationCreate
    from prefect.server.events.schemas.events import ReceivedEvent

    kind = "prefect.work-pool" if "work-pool" in event else "prefect.flow-run" if state else "agentloop.campaign"
    now, id = datetime.now(UTC).isoformat(), str(uuid.uuid4())
    resource = {
        "prefect.resource.id": f"{kind}.{id}",
        "prefect.resource.name": str(flow_name),
        "prefect.state-type": state or "",
    }
    of = {
        "prefect.resource.id": "prefect.flow.1",
        "prefect.resource.role": "flow",
        "prefect.resource.name": str(flow_name),
    }
    happened = ReceivedEvent.model_validate(
        {"event": event, "resource": resource, "related": [of], "id": id, "occurred": now, "received": now}
    )
    settings = configuration.load({"notify": {"block": BLOCK}})
    made = automations._automations(settings, uuid.uuid4(), services.WORK_POOL)
    triggers = {each.name: AutomationCreate.model_validate(each.model_dump(mode="json")).trigger for each in made}
    set_off = [
        name.removeprefix(automations.PREFIX)
        for name, trigger in triggers.items()
        if trigger.covers(happened)
        and (trigger.starts_after(event) if trigger.posture.value == "Proactive" else trigger.expects(event))
    ]
    assert set_off == ([told] if told else [])
