"""What a run leaves in the Prefect UI: tables, verdicts and a link to the report."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
from prefect import get_run_logger
from prefect.artifacts import create_image_artifact, create_markdown_artifact, create_table_artifact
from prefect.settings import PREFECT_API_REQUEST_TIMEOUT, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from agentloop.campaign import results
from agentloop.campaign.campaign import Campaign
from agentloop.report.summary import DECISIONS
from agentloop.store.database import Database
from agentloop.text import odds
from agentloop_flows import connection

SERVER_SECONDS = 5.0


def show(make: Callable[..., Any], **content: Any) -> Any | None:
    """Make an artifact, and return what Prefect returns.

    It is for people, so the run goes on without it where the server does not take it soon: None then, and a line in the log.
    """
    quick = {PREFECT_CLIENT_MAX_RETRIES: 0, PREFECT_API_REQUEST_TIMEOUT: SERVER_SECONDS}
    try:
        with temporary_settings(quick):
            return make(**content, _sync=True)  # also from within an event loop
    except (httpx.HTTPError, RuntimeError) as error:  # RuntimeError: the server cannot be reached
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        get_run_logger().warning("not shown in the UI: %s (%s)", content.get("description"), reason)
        return None


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def interval(success: Mapping[str, float]) -> str:
    return f"{percent(success['estimate'])} ({percent(success['low'])} to {percent(success['high'])})"


def publish_funnel(campaign: str, iteration: int, funnel: Sequence[tuple[str, int]]) -> None:
    """Show how many trajectories each rule of the selection left."""
    show(
        create_table_artifact,
        table=[{"rule": rule, "trajectories left": left} for rule, left in funnel],
        key=f"{campaign}-{iteration}-selection",
        description=f"{campaign}, iteration {iteration}: what was selected, rule by rule",
    )


def publish_verdict(campaign: str, iteration: int, verdict: Mapping[str, Any]) -> None:
    """The newest look of the gate at an iteration's challenger."""
    guards = "".join(
        f"| difference at {guard['environment']} (guard, margin {percent(guard['margin'])}) "
        f"| {interval(guard['difference'])} |\n"
        for guard in verdict["guards"]
    )
    known = verdict.get("evidence") is not None  # not from before the gate went by e-values
    evidence = f"Evidence e = {odds(verdict['evidence'])}, {odds(verdict['needed'])} needed; " if known else ""
    show(
        create_markdown_artifact,
        markdown=f"## {verdict['decision']}\n\n{verdict['reason']}\n\n"
        f"| | success on held-out tasks |\n|---|---|\n"
        f"| champion | {interval(verdict['champion_success'])} |\n"
        f"| challenger | {interval(verdict['challenger_success'])} |\n{guards}\n"
        f"{evidence}exact McNemar p = {verdict['mcnemar_p']:.2g}, look {verdict['look']} of {verdict['looks']}",
        key=f"{campaign}-{iteration}-verdict",
        description=f"{campaign}, iteration {iteration}: {verdict['decision']}",
    )


def publish_campaign(campaign: Campaign, report: str) -> None:
    """The campaign's table, every iteration and the control, and where its report is."""
    with Database.open_snapshot(campaign.settings.paths.database) as database:
        rows = results.iterations(database, campaign.name)
    show(
        create_table_artifact,
        table=[
            {
                "iteration": row.name,
                "trained on": row.rows,
                "before": interval(asdict(row.before)) if row.before else "",
                "after": interval(asdict(row.after)) if row.after else "",
                "verdict": "not a candidate" if row.control else DECISIONS[row.decision],
                "adapter": row.adapter,
            }
            for row in rows
        ],
        key=f"{campaign.name}-iterations",
        description=f"Campaign {campaign.name}: success on held-out tasks. {_linked(campaign, Path(report))}",
    )


def _linked(campaign: Campaign, report: Path) -> str:
    page = connection.report_page(campaign.settings, report)
    return f"[Open the report]({page})" if page else f"Report: {report}"


def publish_plots(campaign: str, plots: Mapping[str, bytes]) -> None:
    """SVG images by name, shown in place."""
    for name, image in plots.items():
        show(
            create_image_artifact,
            image_url=f"data:image/svg+xml;base64,{base64.b64encode(image).decode()}",
            key=f"{campaign}-{name}",
            description=f"{campaign}: {name.replace('-', ' ')}",
        )


def publish_evaluation(campaign: str, champion: str | None, measured: Mapping[str, Any]) -> None:
    show(
        create_markdown_artifact,
        markdown=f"{champion or 'base model'}: {interval(measured['success'])}",
        key=f"{campaign}-champion",
        description=f"Success of campaign {campaign}'s champion on held-out tasks",
    )


def publish_teaching(result: Mapping[str, Any]) -> None:
    """Show what demonstrations made of a base."""
    measured, demonstrations = result["measured"], result["demonstrations"]
    success = ""
    if measured:
        success = (
            "\n\n| held-out success | before | after |\n|---|---|---|\n"
            f"| all | {interval(measured['before'])} | {interval(measured['after'])} |\n"
        ) + "".join(
            f"| {family} | {percent(before)} | {'' if after is None else percent(after)} |\n"
            for family, (before, after) in measured["families"].items()
        )
    show(
        create_markdown_artifact,
        markdown=f"## {result['made']['name']}\n\n{demonstrations['accepted']} of {demonstrations['tried']} demonstrations "
        f"were accepted, {result['dataset']['rows']} taught.{success}",
        key=result["campaign"],
        description=f"{result['made']['name']}: a base taught by demonstrations",
    )
