"""Runs whose process is gone are ended, so that they can be retried and hold up no other run.

Prefect hears of a run's end from its process or from the worker that started it. Where both were killed, or the server was
away, the run would stay Running for ever. What decides here is whether the process lives (see presence.py); a run
that another machine works on is left alone.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from agentloop.settings import Settings
from agentloop_flows import connection, telling
from agentloop_flows.presence import Presence

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import FlowRun

FLOWS = ("self-improve", "iteration", "control", "evaluate", "teach", "rescore", "prune", "reconcile")
"""Every flow of this project; whatever else the user runs on this server is left alone."""
HEARTBEAT_SECONDS = 20.0
GRACE_SECONDS = 60.0
"""A run has so long to write down its process, from when it became Pending or Running."""
_PAGE = 200


def run(settings: Settings) -> list[str]:
    """End the runs of this project's server whose process is gone; one line for each."""
    connection.connect(settings)
    return asyncio.run(reconcile())


async def heartbeat(
    client: PrefectClient | None = None,
    *,
    seconds: float = HEARTBEAT_SECONDS,
    also: Sequence[Callable[[], Awaitable[list[str]]]] = (),
) -> None:
    """Reconcile, and do what is to be done `also`, again and again until cancelled. Faults are logged; they end nothing."""
    log = logging.getLogger(__name__)
    while True:
        await asyncio.sleep(seconds)
        for work in (partial(reconcile, client), *also):
            try:
                for line in await work():
                    log.warning(line)
            except Exception as error:
                log.warning("heartbeat: %s: %s", type(error).__name__, error)


async def reconcile(client: PrefectClient | None = None) -> list[str]:
    """End every run whose process is gone; one line for each. Without `client`, one by Prefect's own settings."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas import filters
    from prefect.client.schemas.objects import StateType

    working = filters.FlowRunFilterState(
        type=filters.FlowRunFilterStateType(any_=[StateType.PENDING, StateType.RUNNING, StateType.CANCELLING])
    )
    async with get_client() if client is None else nullcontext(client) as client:
        runs = await client.read_flow_runs(
            flow_filter=filters.FlowFilter(name=filters.FlowFilterName(any_=list(FLOWS))),
            flow_run_filter=filters.FlowRunFilter(state=working),
            limit=_PAGE,
        )
        return [await _end(client, each, reason) for each in runs if (reason := _why_gone(each))]


async def _end(client: PrefectClient, flow_run: FlowRun, reason: str) -> str:
    """Give the run and its tasks a final state. Orchestration stays on: it frees what the run holds of any limit."""
    from prefect.states import Cancelled, Crashed

    await _end_tasks(client, flow_run.id, reason)
    if flow_run.state.is_cancelling():
        state = Cancelled(message=f"{reason}; it was being cancelled")
    else:
        state = Crashed(message=f"{reason}; a retry or a new run continues where it stopped")
    answer = await client.set_flow_run_state(flow_run.id, state)
    if answer.state is None or not answer.state.is_final():
        return f"{flow_run.name}: {reason}, but the server refuses to end it ({answer.details.reason})"
    if answer.state.is_crashed() and flow_run.parent_task_run_id is None:  # a part of a run is told with the whole
        for line in await asyncio.to_thread(telling.told_of_the_gone, flow_run, answer.state):
            logging.getLogger(__name__).warning(line)
    return f"{flow_run.name} ({flow_run.id}): {answer.state.name}, {reason}"


async def _end_tasks(client: PrefectClient, flow_run: UUID, reason: str) -> None:
    from prefect.client.schemas import filters
    from prefect.client.schemas.objects import StateType
    from prefect.states import Crashed

    tasks = await client.read_task_runs(
        flow_run_filter=filters.FlowRunFilter(id=filters.FlowRunFilterId(any_=[flow_run])),
        task_run_filter=filters.TaskRunFilter(
            state=filters.TaskRunFilterState(
                name=None, type=filters.TaskRunFilterStateType(any_=[StateType.PENDING, StateType.RUNNING])
            )
        ),
        limit=_PAGE,
    )
    for task in tasks:
        await client.set_task_run_state(task.id, Crashed(message=reason), force=True)


def _why_gone(flow_run: FlowRun) -> str | None:
    """Why nobody works on the run; None where somebody does, or may."""
    presence = Presence.of(flow_run.labels)
    if presence and presence.attempt == flow_run.run_count and not flow_run.state.is_pending():
        return f"its process {presence.pid} is gone" if presence.is_gone() else None
    # its process, if there is one, has not come so far as to write itself down
    waited = (datetime.now(UTC) - flow_run.state.timestamp).total_seconds()
    host, colon, _ = (flow_run.infrastructure_pid or "").rpartition(":")
    elsewhere = colon and host != socket.gethostname()
    if waited < GRACE_SECONDS or elsewhere or str(flow_run.id) in _being_started():
        return None
    return f"no process has run it for {waited:.0f} s"


def _being_started() -> Iterator[str]:
    """Flow runs that a process of this machine was started for: a worker names them in the environment."""
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            variables = (directory / "environ").read_bytes().split(b"\0")
        except OSError:  # it has ended, or is somebody else's
            continue
        for variable in variables:
            name, _, value = variable.partition(b"=")
            if name == b"PREFECT__FLOW_RUN_ID":
                yield value.decode()
