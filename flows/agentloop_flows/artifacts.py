"""What a run leaves in the Prefect UI: tables, verdicts and a link to the report."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import httpx
from prefect import get_run_logger
from prefect.artifacts import create_image_artifact, create_markdown_artifact, create_table_artifact
from prefect.settings import PREFECT_API_REQUEST_TIMEOUT, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from agentloop.text import odds

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


def publish_funnel(iteration: int, funnel: Sequence[tuple[str, int]]) -> None:
    """Show how many trajectories each rule of the selection left."""
    show(
        create_table_artifact,
        table=[{"rule": rule, "trajectories left": left} for rule, left in funnel],
        key=f"iteration-{iteration}-selection",
        description=f"Iteration {iteration}: what was selected, rule by rule",
    )


def publish_verdict(iteration: int, verdict: Mapping[str, Any]) -> None:
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
        key=f"iteration-{iteration}-verdict",
        description=f"Iteration {iteration}: {verdict['decision']}",
    )


def publish_campaign(
    campaign: str, iterations: Sequence[Mapping[str, Any]], control: Mapping[str, Any] | None, report: str
) -> None:
    rows = [
        {
            "iteration": row["iteration"],
            "trained on": row["dataset"]["rows"],
            "before": interval(row["before"]["success"]),
            "after": interval(row["after"]["success"]),
            "verdict": row["verdict"]["decision"],
            "adapter": row["trained"]["adapter"],
        }
        for row in iterations
    ]
    if control:
        rows.append(
            {
                "iteration": "control",
                "trained on": iterations[-1]["dataset"]["rows"],
                "before": "",
                "verdict": "not a candidate",
                "after": interval(control["success"]),
                "adapter": control["adapter"],
            }
        )
    show(
        create_table_artifact,
        table=rows,
        key=f"{campaign}-iterations",
        description=f"Campaign {campaign}: success on held-out tasks. Report: {report}",
    )


def publish_plots(campaign: str, plots: Mapping[str, bytes]) -> None:
    """SVG images by name, shown in place."""
    for name, image in plots.items():
        show(
            create_image_artifact,
            image_url=f"data:image/svg+xml;base64,{base64.b64encode(image).decode()}",
            key=f"{campaign}-{name}",
            description=name.replace("-", " "),
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
