"""What a run leaves in the Prefect UI: tables, verdicts and a link to the report."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from prefect.artifacts import create_image_artifact, create_markdown_artifact, create_table_artifact


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def interval(success: Mapping[str, float]) -> str:
    return f"{percent(success['estimate'])} ({percent(success['low'])} to {percent(success['high'])})"


def publish_funnel(iteration: int, funnel: Sequence[tuple[str, int]]) -> None:
    """How many trajectories each rule of the selection left."""
    create_table_artifact(
        [{"rule": rule, "trajectories left": left} for rule, left in funnel],
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
    create_markdown_artifact(
        f"## {verdict['decision']}\n\n{verdict['reason']}\n\n"
        f"| | success on held-out tasks |\n|---|---|\n"
        f"| champion | {interval(verdict['champion_success'])} |\n"
        f"| challenger | {interval(verdict['challenger_success'])} |\n{guards}\n"
        f"Exact McNemar p = {verdict['mcnemar_p']:.2g}, look {verdict['look']} of {verdict['looks']}",
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
    create_table_artifact(
        rows,
        key=f"{campaign}-iterations",
        description=f"Campaign {campaign}: success on held-out tasks. Report: {report}",
    )


def publish_plots(campaign: str, plots: Mapping[str, bytes]) -> None:
    """SVG images by name, shown in place."""
    for name, image in plots.items():
        create_image_artifact(
            f"data:image/svg+xml;base64,{base64.b64encode(image).decode()}",
            key=f"{campaign}-{name}",
            description=name.replace("-", " "),
        )


def publish_evaluation(campaign: str, champion: str | None, measured: Mapping[str, Any]) -> None:
    create_markdown_artifact(
        f"{champion or 'base model'}: {interval(measured['success'])}",
        key=f"{campaign}-champion",
        description=f"Success of campaign {campaign}'s champion on held-out tasks",
    )
