"""Scheduled runs: when the next ones begin, and that of several that were missed one is made up for.

Prefect makes the runs of a schedule in advance, and a worker takes every one whose time has come. After some days without
power that would be a night's work for each missed night, one after the other; the newest of them does what they all would.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from agentloop.naming import canonical_json
from agentloop.settings import Settings
from agentloop_flows import connection, reconcile

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import FlowRun

_PAGE = 200
_WAITING = ("Scheduled", "Late", "AwaitingConcurrencySlot")
"""Names of the states of a run that was made by a schedule and has not begun. One that awaits its retry has."""


@dataclass(frozen=True)
class Schedule:
    """A schedule of a deployment, as the server knows it."""

    deployment: str
    """As `flow/name`."""
    told: str
    """The cron line, interval or rule, with its time zone."""
    active: bool
    """False also where its deployment is paused."""
    next: datetime | None
    """When the next run is to begin, with a time zone; None where none is."""


def catch_up(settings: Settings) -> list[str]:
    """Skip, of a deployment's overdue scheduled runs with the same parameters, all but the newest; one line for each."""
    connection.connect(settings)
    return asyncio.run(one_overdue())


async def one_overdue(client: PrefectClient | None = None) -> list[str]:
    """Do what `catch_up` does. Without `client`, one by Prefect's own settings."""
    from prefect.client.orchestration import get_client
    from prefect.states import Cancelled

    async with get_client() if client is None else nullcontext(client) as client:
        overdue: dict[tuple[UUID, str], list[FlowRun]] = defaultdict(list)
        for each in await _overdue(client):
            if each.auto_scheduled and each.deployment_id is not None and each.state_name in _WAITING:
                # a schedule may have parameters of its own, and then does what no other does
                overdue[each.deployment_id, canonical_json(each.parameters)].append(each)
        lines = []
        for runs in overdue.values():
            *missed, newest = runs
            why = (
                f"missed; {newest.name}, scheduled for {newest.expected_start_time:%Y-%m-%d %H:%M} UTC, makes up for it"
            )
            for each in missed:
                await client.set_flow_run_state(each.id, Cancelled(name="Skipped", message=why))
            if missed:
                lines.append(f"{len(missed)} scheduled runs were {why.replace('for it', 'for them')}")
        return lines


async def _overdue(client: PrefectClient) -> list[FlowRun]:
    """Runs whose time has come and that have not begun, the earliest first."""
    from prefect.client.schemas import filters
    from prefect.client.schemas.objects import StateType
    from prefect.client.schemas.sorting import FlowRunSort

    state = filters.FlowRunFilterState(type=filters.FlowRunFilterStateType(any_=[StateType.SCHEDULED]))
    before = filters.FlowRunFilterExpectedStartTime.model_validate({"before_": datetime.now(UTC)})
    found: list[FlowRun] = []
    while page := await client.read_flow_runs(
        flow_filter=filters.FlowFilter(name=filters.FlowFilterName(any_=list(reconcile.FLOWS))),
        flow_run_filter=filters.FlowRunFilter(state=state, expected_start_time=before),
        sort=FlowRunSort.EXPECTED_START_TIME_ASC,
        limit=_PAGE,
        offset=len(found),
    ):
        found += page
    return found


def schedules(settings: Settings) -> list[Schedule]:
    """Every schedule of this project's deployments, on the server that is up."""
    from prefect.client.schemas import filters
    from prefect.client.schemas.objects import StateType
    from prefect.client.schemas.sorting import FlowRunSort

    found = []
    with connection.client(settings) as client:
        ours = filters.FlowFilter(name=filters.FlowFilterName(any_=list(reconcile.FLOWS)))
        for deployment in client.read_deployments(flow_filter=ours, limit=_PAGE):
            flow = client.read_flow(deployment.flow_id).name
            for each in deployment.schedules:
                active = each.active and not deployment.paused
                runs = client.read_flow_runs(
                    deployment_filter=filters.DeploymentFilter(id=filters.DeploymentFilterId(any_=[deployment.id])),
                    flow_run_filter=filters.FlowRunFilter(
                        state=filters.FlowRunFilterState(
                            type=filters.FlowRunFilterStateType(any_=[StateType.SCHEDULED])
                        ),
                        expected_start_time=filters.FlowRunFilterExpectedStartTime.model_validate(
                            {"after_": datetime.now(UTC)}
                        ),
                    ),
                    sort=FlowRunSort.EXPECTED_START_TIME_ASC,
                    limit=1,
                )
                coming = runs[0].expected_start_time if active and runs else None
                found.append(Schedule(f"{flow}/{deployment.name}", _told(each.schedule), active, coming))
    return found


def worker_is_online(settings: Settings, work_pool: str) -> bool:
    """Return True where the server has heard from a worker of the pool a moment ago."""
    from prefect.exceptions import ObjectNotFound

    with connection.client(settings) as client:
        try:
            status = client.read_work_pool(work_pool).status
        except ObjectNotFound:
            return False
    return status is not None and status.value == "READY"


def _told(schedule: object) -> str:
    zone = f" {zone}" if (zone := getattr(schedule, "timezone", None)) else " UTC"
    if cron := getattr(schedule, "cron", None):
        return f"{cron}{zone}"
    if interval := getattr(schedule, "interval", None):
        return f"every {timedelta(seconds=interval.total_seconds())}"
    return f"{getattr(schedule, 'rrule', '?')}{zone}".splitlines()[-1]
