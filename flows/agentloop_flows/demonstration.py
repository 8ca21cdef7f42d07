"""Run a demonstration's deployments and show in the terminal what the Prefect UI shows: moving phases, then the result."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from agentloop import card
from agentloop import settings as configuration
from agentloop.campaign import results
from agentloop.campaign.teaching import Lesson, Teaching, is_taught
from agentloop.errors import RunError, SettingError
from agentloop.report import summary
from agentloop.serving import compiler
from agentloop.settings import Settings
from agentloop.store import campaigns
from agentloop.store.database import Database
from agentloop.teaching.source import EXPERTS, parse
from agentloop_flows import connection, telling

TEACH, IMPROVE = "teach/experts", "self-improve/demo"
"""Deployments."""
PROFILES = {
    "tiny": ("demo", "demo"),
    "tiny-textworld": ("textworld", "textworld"),
    "gemma-3-270m": ("gemma-270m", "gemma-270m-cpu"),
}
"""By model: the profile on a CUDA card, and the one without."""
UNTAUGHT = ("gemma-3-270m",)
"""Models that know nothing of tools yet, and are taught first."""
POLL_SECONDS = 1.0
QUEUED = ("Late", "AwaitingConcurrencySlot")
"""Names of the states of a run that could have begun."""


def profile(model: str) -> str:
    """The profile of the model's demonstration on this machine. Raises SettingError where there is none."""
    if model not in PROFILES:
        raise SettingError(f"--model: {model!r} has no demonstration; there are {', '.join(PROFILES)}")
    return PROFILES[model][0 if card.present() else 1]


def run(settings: Settings, console: Console, *, profile: str, overrides: Mapping[str, Any], new: bool) -> int:
    """Run or continue the demo campaign; with `new` begin another one. Returns the exit code.

    A model that knows nothing of tools yet is taught first. Raises RunError, with what Prefect says of the run, where one did
    not complete.
    """
    connection.connect(settings)
    chosen, complete = _choose_campaign(settings, console, new=new)
    if complete:
        _show(settings, console, chosen["campaign"], connection.address(settings))
        return 0
    _, fault = compiler.examine(settings)
    if fault:
        console.print(f"{compiler.UNCOMPILED}: {fault}", markup=False)
    # the worker's environment is not this one: what decides where things lie is handed over
    overrides = {**overrides, "paths": _paths(settings), **chosen}
    try:
        if settings.model in UNTAUGHT:
            taught = _taught_name(profile, overrides)
            if not is_taught(settings.paths.models / taught):
                lesson = {"profile": profile, "overrides": overrides, "name": taught, "measured": False}
                _complete(console, TEACH, lesson, settings)
            overrides |= {"model": taught}
        url = _complete(console, IMPROVE, {"profile": profile, "overrides": overrides}, settings)
    except KeyboardInterrupt:
        return 130
    _show(settings, console, overrides["campaign"], url)
    return 0


def _taught_name(profile: str, overrides: Mapping[str, Any]) -> str:
    """The directory that the lesson makes: named by all that determines it, for another seed's or environment's is another."""
    settings = configuration.load(overrides, profile=profile)
    lesson = Teaching.open(Lesson(settings, parse(EXPERTS))).campaign.name
    return f"{settings.model}-taught-{lesson.removeprefix('teaching-')}"


def _complete(console: Console, deployment: str, parameters: dict[str, Any], settings: Settings) -> str:
    """Run a deployment to its end and return the run's address. Raises RunError where it did not complete."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        found = client.read_deployment_by_name(deployment)
        flow_run = client.create_flow_run_from_deployment(found.id, parameters=parameters)
        url = connection.run_page(settings, flow_run.id)
        console.print(f"Flow run [bold]{flow_run.name}[/bold]: {url}")
        try:
            state = _watch(client, flow_run.id, console)
        except KeyboardInterrupt:
            console.print(f"No longer watched; the run goes on, cancel it in the UI: {url}")
            raise
    if not state.is_completed():
        console.print(f"The same command continues. Logs: {url}")
        raise RunError(telling.plain(state.message) or f"the run ended in state {state.name}")
    return url


def _show(settings: Settings, console: Console, campaign: str, url: str) -> None:
    """The campaign's table, and where more is to be seen."""
    with Database.open_snapshot(settings.paths.database) as database:
        rows = results.iterations(database, campaign)
    console.print(summary.table(rows))
    console.print(f"Prefect UI: {url}\nReport:     {settings.paths.reports / campaign}.html")
    console.print("The Prefect server and worker stay up; `agentloop down` ends them.")


def _choose_campaign(settings: Settings, console: Console, *, new: bool) -> tuple[dict[str, Any], bool]:
    """Settings that name the campaign, and whether it is complete.

    It is the newest demo campaign, or with `new` the next one with a seed of its own.
    """
    first = {"campaign": settings.campaign, "seed": settings.seed}
    if not settings.paths.database.exists():
        return first, False
    with Database.open_snapshot(settings.paths.database) as database:
        known = [
            name
            for name in campaigns.names(database)
            if name == settings.campaign or name.startswith(f"{settings.campaign}-")
        ]
        if not known:
            return first, False
        newest = known[0]
        rows = results.iterations(database, newest)
    done = sum(row.decision is not None for row in rows)
    controlled = any(row.control and row.after is not None for row in rows)
    complete = done >= settings.iterations and (controlled or not settings.gate.control)
    if new:
        number = len(known) + 1
        console.print(f"Starting a new campaign beside {', '.join(sorted(known))}.")
        return {"campaign": f"{settings.campaign}-{number}", "seed": settings.seed + number - 1}, False
    console.print(
        f"Campaign {newest} is there with {done} of {settings.iterations} iterations"
        f"{'' if complete else '; what is missing is done now'}. `agentloop demo --new` starts a new one."
    )
    number = int(newest.removeprefix(settings.campaign).lstrip("-") or 1)
    return {"campaign": newest, "seed": settings.seed + number - 1}, complete


def _paths(settings: Settings) -> dict[str, str]:
    return {name: str(path) for name, path in settings.paths.model_dump().items()}


def _watch(client: Any, flow_run_id: UUID, console: Console) -> Any:
    """Follow the run until it ends, one bar a phase; returns its final state."""
    bars: dict[UUID, TaskID] = {}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    queued = False
    with Progress(*columns, console=console) as progress:
        while True:
            state = client.read_flow_run(flow_run_id).state
            if state.name in QUEUED and not queued:
                console.print("It waits for its turn: one run at a time.")
                queued = True
            for artifact in sorted(_phases(client, flow_run_id), key=lambda artifact: artifact.created):
                if artifact.id not in bars:
                    bars[artifact.id] = progress.add_task(artifact.description, total=100)
                progress.update(bars[artifact.id], completed=float(artifact.data), description=artifact.description)
            if state.is_final():
                return state
            time.sleep(POLL_SECONDS)


def _phases(client: Any, flow_run_id: UUID) -> list[Any]:
    """Return the progress artifacts of the run and of its parts, which are runs of their own."""
    from prefect.client.schemas import filters

    below = filters.FlowRunFilter(parent_flow_run_id=filters.FlowRunFilterParentFlowRunId(any_=[flow_run_id]))
    runs = [flow_run_id, *(run.id for run in client.read_flow_runs(flow_run_filter=below))]
    wanted = filters.ArtifactFilter(
        flow_run_id=filters.ArtifactFilterFlowRunId(any_=runs), type=filters.ArtifactFilterType(any_=["progress"])
    )
    return client.read_artifacts(artifact_filter=wanted)
