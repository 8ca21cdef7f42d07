"""`agentloop up` again: what somebody has changed in Prefect's UI since stays, and what only the file has changed is deployed."""

from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.client.schemas.schedules import IntervalSchedule

from agentloop import settings as configuration
from agentloop.errors import SettingError
from agentloop.project import CHECKOUT
from agentloop_flows import connection, deployments, services

NIGHTLY, DEMO = "self-improve/nightly", "self-improve/demo"


@pytest.fixture(scope="module")
def settings(tmp_path_factory, free_port):
    root = tmp_path_factory.mktemp("deployments")
    paths = {"data": str(root / "data"), "cache": str(root / "cache")}
    settings = configuration.load({"prefect_port": free_port, "paths": paths})
    settings.export()
    services.up_server(settings)
    services._prefect(settings, "work-pool", "create", services.WORK_POOL, "--type", "process")
    yield settings
    services.down(settings)


@pytest.fixture
def client(settings):
    api = connection.environment(settings)
    with SyncPrefectClient(api["PREFECT_API_URL"], auth_string=api["PREFECT_API_AUTH_STRING"]) as client:
        yield client


@pytest.fixture
def file(tmp_path) -> Path:
    """A copy of prefect.yaml that a test may change."""
    (tmp_path / "prefect.yaml").write_text((CHECKOUT / "prefect.yaml").read_text())
    return tmp_path / "prefect.yaml"


@pytest.fixture
def deploy(settings, file):
    def run(merged: Path) -> None:
        services._prefect(settings, "--no-prompt", "deploy", "--all", "--prefect-file", str(merged))

    def deploy(**options):
        return deployments.deploy(settings, file, run, **options)

    deploy(reset=True)
    return deploy


def of(file: Path, name: str):
    """The file, and its deployment of that name, to be changed and written again."""
    content = yaml.safe_load(file.read_text())
    (found,) = [each for each in content["deployments"] if each["name"] == name]
    return content, found


def test_nothing_stays_where_nothing_was_changed(deploy):
    names, kept = deploy()
    assert {NIGHTLY, DEMO, "teach/experts", "evaluate/champion", "prune/disk"} <= set(names) and kept == []


def test_schedules_and_parameters_of_the_ui_stay(deploy, client):
    there = client.read_deployment_by_name(NIGHTLY)
    client.update_deployment_schedule(there.id, there.schedules[0].id, active=True)
    given = there.parameters
    own = given | {"overrides": {"iterations": 1}}
    client.update_deployment(there.id, DeploymentUpdate(parameters=own))
    twice = IntervalSchedule(interval=timedelta(hours=12), timezone="Europe/Berlin")
    client.create_deployment_schedules(there.id, [(twice, False)])
    for _ in range(2):
        _, kept = deploy()
        assert kept == [
            f"{NIGHTLY}: parameters (overrides) and schedules stay as in Prefect's UI "
            "(agentloop up --reset: as in prefect.yaml)"
        ]
        there = client.read_deployment_by_name(NIGHTLY)
        assert there.parameters == own
        found = {
            getattr(each.schedule, "cron", None) or each.schedule.interval: (
                each.slug,
                each.active,
                each.schedule.timezone,
            )
            for each in there.schedules
        }
        assert found == {
            "0 1 * * *": ("every-night", True, "UTC"),
            timedelta(hours=12): (None, False, "Europe/Berlin"),
        }
    assert deploy(reset=True)[1] == []
    there = client.read_deployment_by_name(NIGHTLY)
    assert there.parameters == given
    assert [(each.slug, each.active) for each in there.schedules] == [("every-night", False)]


def test_a_schedule_that_was_removed_in_the_ui_does_not_come_back(deploy, client):
    there = client.read_deployment_by_name(NIGHTLY)
    client.delete_deployment_schedule(there.id, there.schedules[0].id)
    for _ in range(2):
        assert deploy()[1] == [
            f"{NIGHTLY}: schedules stay as in Prefect's UI (agentloop up --reset: as in prefect.yaml)"
        ]
        assert client.read_deployment_by_name(NIGHTLY).schedules == []


def test_a_paused_deployment_stays_paused(deploy, client):
    client.pause_deployment(client.read_deployment_by_name(DEMO).id)
    assert deploy()[1] == []
    assert client.read_deployment_by_name(DEMO).paused
    client.resume_deployment(client.read_deployment_by_name(DEMO).id)


def test_what_only_the_file_changes_is_deployed(deploy, client, file):
    content, nightly = of(file, "nightly")
    nightly["parameters"]["profile"] = "demo"
    nightly["schedules"] = [
        {"cron": "30 2 * * 1-5", "timezone": "America/New_York", "active": True, "slug": "weekdays"}
    ]
    file.write_text(yaml.safe_dump(content))
    assert deploy()[1] == []
    there = client.read_deployment_by_name(NIGHTLY)
    assert there.parameters["profile"] == "demo"
    (schedule,) = there.schedules
    assert (schedule.schedule.cron, schedule.schedule.timezone, schedule.active) == (
        "30 2 * * 1-5",
        "America/New_York",
        True,
    )


@pytest.mark.parametrize(
    "schedule",
    [
        {"interval": 43200, "anchor_date": "2026-01-01T00:00:00+00:00", "timezone": "Europe/Berlin"},
        pytest.param({"interval": "PT12H"}, marks=pytest.mark.slow),
        pytest.param({"rrule": "FREQ=DAILY;BYHOUR=1", "timezone": "Europe/Berlin"}, marks=pytest.mark.slow),
        pytest.param({"cron": "0 1 * * *", "day_or": False, "active": False}, marks=pytest.mark.slow),
    ],
)
def test_schedules_of_every_kind_are_known_again(deploy, client, file, schedule):
    content, nightly = of(file, "nightly")
    nightly["schedules"] = [{"slug": "own", **schedule}]
    file.write_text(yaml.safe_dump(content))
    assert deploy()[1] == []
    (there,) = client.read_deployment_by_name(NIGHTLY).schedules
    assert deploy()[1] == []
    assert [each.id for each in client.read_deployment_by_name(NIGHTLY).schedules] == [there.id]


def test_both_changed_the_same(deploy, client, file):
    """In the UI another parameter than in the file: each has its own; the same one: the UI's."""
    there = client.read_deployment_by_name(DEMO)
    client.update_deployment(there.id, DeploymentUpdate(parameters={"profile": "rtx3090", "overrides": {}}))
    content, demo = of(file, "demo")
    demo["parameters"]["overrides"] = {"seed": 3}
    file.write_text(yaml.safe_dump(content))
    assert "parameters (profile) stay" in deploy()[1][0]
    assert client.read_deployment_by_name(DEMO).parameters == {"profile": "rtx3090", "overrides": {"seed": 3}}


def test_without_a_record_what_is_there_stays(settings, deploy, client):
    """As after an `up` of an earlier version."""
    there = client.read_deployment_by_name(NIGHTLY)
    client.update_deployment_schedule(there.id, there.schedules[0].id, active=True)
    (settings.paths.data / "prefect" / "deployed.json").unlink()
    assert "schedules stay" in deploy()[1][0]
    assert client.read_deployment_by_name(NIGHTLY).schedules[0].active


@pytest.mark.parametrize("text", ["deployments: [", "7", "deployments: {}", "- a"])
def test_a_broken_file_is_named(settings, tmp_path, text):
    (tmp_path / "prefect.yaml").write_text(text)
    with pytest.raises(SettingError, match="^.*/prefect.yaml: "):
        deployments.deploy(settings, tmp_path / "prefect.yaml", lambda merged: pytest.fail("deployed"))
