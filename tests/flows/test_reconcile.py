"""Runs whose process is gone, on a real Prefect server: they are ended, can be retried, and hold up nobody else's."""

import asyncio
import os
import socket
import subprocess
import sys

import pytest
import yaml
from prefect import flow
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import ConcurrencyLimitStrategy, ConcurrencyOptions
from prefect.client.schemas.responses import SetStateStatus
from prefect.flows import load_flow_from_entrypoint
from prefect.states import Cancelled, Cancelling, Completed, Pending, Running, Scheduled

from agentloop import settings as configuration
from agentloop.project import CHECKOUT
from agentloop_flows import connection, presence, reconcile, services
from agentloop_flows.presence import Presence

LIVING = """
import fcntl, sys, time
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
print("locked", flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    root = tmp_path_factory.mktemp("prefect")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = configuration.load({"prefect_port": port, "paths": {"data": str(root), "cache": str(root / "cache")}})
    settings.paths.logs.mkdir()
    settings.paths.services.mkdir()
    services.up_server(settings)
    yield settings
    services.down(settings)


@pytest.fixture
def process(tmp_path):
    """A process that holds the file of its presence."""
    process = subprocess.Popen(
        [sys.executable, "-c", LIVING, str(tmp_path / "run.json")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline()
    yield process
    process.kill()
    process.communicate()


def test_no_flow_is_forgotten():
    deployed = yaml.safe_load((CHECKOUT / "prefect.yaml").read_text())["deployments"]
    flows = {load_flow_from_entrypoint(each["entrypoint"]).name for each in deployed}
    assert flows | {"iteration", "control"} == set(reconcile.FLOWS), "and the parts of a campaign"


def present(process, tmp_path, **changed):
    known = {"host": socket.gethostname(), "boot": presence.boot_id(), "pid": process.pid, "attempt": 1}
    return Presence(**known | {"file": str(tmp_path / "run.json")} | changed)


def client_of(settings):
    variables = connection.environment(settings)
    return PrefectClient(variables["PREFECT_API_URL"], auth_string=variables.get("PREFECT_API_AUTH_STRING"))


def on_server(settings, work):
    async def run():
        async with client_of(settings) as client:
            return await work(client)

    return asyncio.run(run())


@flow(name="evaluate")
def evaluate():
    """Has the name of one of the project's flows, and is never run."""


async def begun(client, *, name=evaluate, there=None, state=None):
    """A flow run that is Running, or in `state` after that."""
    run = await client.create_flow_run(name, state=Pending())
    await client.set_flow_run_state(run.id, Running())
    if there is not None:
        await client.update_flow_run_labels(run.id, there.labels)
    if state is not None:
        await client.set_flow_run_state(run.id, state)
    return run.id


async def state_of(client, run):
    return (await client.read_flow_run(run)).state


def test_a_run_ends_when_its_process_has_and_can_begin_again(settings, tmp_path, process):
    async def work(client):
        run = await begun(client, there=present(process, tmp_path))
        assert await reconcile.reconcile(client) == []
        assert (await state_of(client, run)).is_running()
        process.kill()
        process.wait()
        (line,) = await reconcile.reconcile(client)
        state = await state_of(client, run)
        assert state.is_crashed() and str(process.pid) in state.message
        assert str(run) in line and str(process.pid) in line
        assert await reconcile.reconcile(client) == []
        # another attempt is not judged by the first one's process
        await client.set_flow_run_state(run, Running(), force=True)
        assert (await client.read_flow_run(run)).run_count == 2
        assert await reconcile.reconcile(client) == []
        assert (await state_of(client, run)).is_running()

    on_server(settings, work)


def test_the_slot_of_a_dead_run_is_free_and_the_ui_can_retry_it(settings, tmp_path, process):
    async def work(client):
        flow_id = await client.create_flow(evaluate)
        options = ConcurrencyOptions(collision_strategy=ConcurrencyLimitStrategy.ENQUEUE)
        deployment = await client.create_deployment(flow_id, "one", concurrency_limit=1, concurrency_options=options)
        first, second = [(await client.create_flow_run_from_deployment(deployment)).id for _ in range(2)]
        await client.set_flow_run_state(first, Pending())
        await client.set_flow_run_state(first, Running())
        await client.update_flow_run_labels(first, present(process, tmp_path).labels)
        assert (await client.set_flow_run_state(second, Pending())).state.name == "AwaitingConcurrencySlot"
        process.kill()
        process.wait()
        assert len(await reconcile.reconcile(client)) == 1
        assert (await client.set_flow_run_state(second, Pending())).state.is_pending()
        await client.set_flow_run_state(second, Running())
        assert (await client.set_flow_run_state(first, Scheduled(name="AwaitingRetry"))).status == SetStateStatus.ACCEPT
        # it waits for the other one now
        assert (await client.set_flow_run_state(first, Pending())).state.name == "AwaitingConcurrencySlot"
        await client.set_flow_run_state(second, Completed())
        assert (await client.set_flow_run_state(first, Pending())).state.is_pending()
        await client.set_flow_run_state(first, Cancelled())

    on_server(settings, work)


def test_a_run_that_is_being_cancelled_is_cancelled_and_its_tasks_end(settings, tmp_path, process):
    async def work(client):
        run = await begun(client, there=present(process, tmp_path))
        task = await client.create_task_run(_task(), run, dynamic_key="0", state=Running())
        await client.set_flow_run_state(run, Cancelling())
        assert (await state_of(client, run)).is_cancelling()
        process.kill()
        process.wait()
        assert len(await reconcile.reconcile(client)) == 1
        assert (await state_of(client, run)).is_cancelled()
        assert (await client.read_task_run(task.id)).state.is_crashed()

    on_server(settings, work)


def _task():
    from prefect import task

    @task
    def nothing(): ...

    return nothing


@pytest.mark.parametrize(
    ("changed", "gone"),
    [
        ({"boot": "another start", "host": "elsewhere"}, False),  # another machine
        ({"boot": "another start"}, True),  # this one was started again
        ({"file": "/nowhere/run.json"}, True),
        ({"file": "/nowhere/run.json", "host": "elsewhere"}, False),  # a container with other folders
    ],
)
def test_only_processes_of_this_machine_are_judged(process, tmp_path, changed, gone):
    assert present(process, tmp_path, **changed).is_gone() == gone


def test_a_run_that_nobody_runs_is_given_time(settings, monkeypatch):
    async def work(client):
        run = await begun(client)
        other = await begun(client, name=flow(name="somebody-elses")(lambda: None))
        assert not [line for line in await reconcile.reconcile(client) if str(run) in line]
        monkeypatch.setattr(reconcile, "GRACE_SECONDS", 0.0)
        starting = subprocess.Popen(["sleep", "600"], env={**os.environ, "PREFECT__FLOW_RUN_ID": str(run)})
        try:
            await reconcile.reconcile(client)
            assert (await state_of(client, run)).is_running()
        finally:
            starting.kill()
            starting.wait()
        await reconcile.reconcile(client)
        assert (await state_of(client, run)).is_crashed()
        assert (await state_of(client, other)).is_running()

    on_server(settings, work)


def test_the_heartbeat_ends_runs_and_outlives_the_servers_absence(settings, tmp_path, process):
    async def work(client):
        run = await begun(client, there=present(process, tmp_path))
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            absent = PrefectClient(f"http://127.0.0.1:{nobody.getsockname()[1]}/api")
            beats = [asyncio.create_task(reconcile.heartbeat(each, seconds=0.1)) for each in (client, absent)]
            process.kill()
            process.wait()
            while not (await state_of(client, run)).is_final():
                await asyncio.sleep(0.1)
            assert not any(beat.done() for beat in beats)
            for beat in beats:
                beat.cancel()
            await asyncio.gather(*beats, return_exceptions=True)

    on_server(settings, work)


def test_the_command(settings):
    command = [sys.executable, "-m", "agentloop", "reconcile", f"paths.data={settings.paths.data}"]
    command += [f"prefect_port={settings.prefect_port}", f"paths.cache={settings.paths.cache}"]
    done = subprocess.run(command, text=True, capture_output=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "nothing to do"), done.stdout + done.stderr
    done = subprocess.run([*command, f"paths.data={settings.paths.data / 'other'}"], text=True, capture_output=True)
    assert done.returncode == 2 and done.stderr.startswith("error: the Prefect server is not up")
