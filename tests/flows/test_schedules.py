"""Scheduled runs on a real Prefect server: of several that were missed one is made up for."""

import asyncio
import time
from datetime import UTC, datetime, timedelta

import pytest
from prefect import flow
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from prefect.states import AwaitingRetry, Running

from agentloop import settings as configuration
from agentloop_flows import connection, schedules, services


@pytest.fixture(scope="module")
def settings(tmp_path_factory, free_port):
    root = tmp_path_factory.mktemp("schedules")
    paths = {"data": str(root / "data"), "cache": str(root / "cache")}
    settings = configuration.load({"prefect_port": free_port, "paths": paths})
    settings.export()
    services.up_server(settings)
    yield settings
    services.down(settings)


@flow(name="evaluate")
def evaluate(seed: int = 0):
    """Has the name of one of the project's flows, and is never run."""


def on_server(settings, work):
    async def run():
        server = connection.environment(settings)
        where, auth = server["PREFECT_API_URL"], server["PREFECT_API_AUTH_STRING"]
        async with PrefectClient(where, auth_string=auth) as client:
            return await work(client)

    return asyncio.run(run())


async def deployed(client, name, *every, flow=evaluate):
    flow_id = await client.create_flow(flow)
    return await client.create_deployment(
        flow_id, name, schedules=[{"schedule": each, "active": True} for each in every]
    )


async def waiting(client, deployment, count):
    """The runs whose time has come, once there are so many."""
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId

    ours = DeploymentFilter(id=DeploymentFilterId(any_=[deployment]))
    deadline = time.monotonic() + 120
    while True:
        runs = await client.read_flow_runs(deployment_filter=ours, limit=200)
        due = [each for each in runs if each.expected_start_time < datetime.now(UTC)]
        if len(due) >= count:
            return sorted(due, key=lambda each: each.expected_start_time)
        assert time.monotonic() < deadline
        await asyncio.sleep(1)


def test_of_missed_runs_the_newest_makes_up_for_all(settings):
    async def miss(client):
        often = IntervalSchedule(interval=timedelta(seconds=3), timezone="UTC")
        deployment = await deployed(client, "often", often)
        elsewhere = await deployed(client, "often", often, flow=flow(name="somebody-elses")(lambda: None))
        by_hand = await client.create_flow_run_from_deployment(deployment)
        again = await client.create_flow_run_from_deployment(deployment)
        await client.set_flow_run_state(again.id, Running())
        await client.set_flow_run_state(again.id, AwaitingRetry(scheduled_time=datetime.now(UTC)), force=True)
        await waiting(client, deployment, 6)
        await waiting(client, elsewhere, 2)
        return deployment, elsewhere, by_hand.id, again.id

    deployment, elsewhere, by_hand, again = on_server(settings, miss)
    before = datetime.now(UTC)
    on_server(settings, schedules.one_overdue)

    async def look(client):
        return await waiting(client, deployment, 0), await waiting(client, elsewhere, 0)

    ours, others = on_server(settings, look)
    missed = [each for each in ours if each.auto_scheduled and each.expected_start_time < before]
    left = [each for each in missed if each.state.is_scheduled()]
    skipped = [each for each in missed if each.state.name == "Skipped"]
    assert len(missed) == len(left) + len(skipped) and len(left) <= 1 and len(skipped) >= 3
    assert left in ([], [missed[-1]])  # one that came due meanwhile makes up for this one, too
    assert all(each.state.is_cancelled() and "makes up for it" in each.state.message for each in skipped)
    states = {each.id: each.state.name for each in ours}
    assert states[by_hand] in ("Scheduled", "Late") and states[again] == "AwaitingRetry"
    assert all(each.state.is_scheduled() for each in others)


def test_schedules_are_told_with_their_next_run(settings):
    async def work(client):
        await deployed(client, "nightly", CronSchedule(cron="0 1 * * *", timezone="Europe/Berlin"))
        paused = await deployed(client, "paused", CronSchedule(cron="0 2 * * *", timezone="UTC"))
        await client.pause_deployment(paused)

    on_server(settings, work)
    deadline = time.monotonic() + 60
    while True:  # the scheduler makes them
        found = {each.deployment: each for each in schedules.schedules(settings)}
        if found["evaluate/nightly"].next is not None or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    nightly, paused = found["evaluate/nightly"], found["evaluate/paused"]
    assert (nightly.told, nightly.active) == ("0 1 * * * Europe/Berlin", True)
    assert timedelta(0) < nightly.next - datetime.now(UTC) < timedelta(days=1, hours=1)
    assert (paused.active, paused.next) == (False, None)


def test_a_pool_without_a_worker_is_not_online(settings):
    assert schedules.worker_is_online(settings, services.WORK_POOL) is False
