"""evaluate: the champion of a campaign on its held-out tasks."""

from __future__ import annotations

from typing import Any

from prefect import flow

from agentloop import settings as configuration
from agentloop.campaign import live
from agentloop.campaign.campaign import Campaign
from agentloop_flows import artifacts, presence, steps
from agentloop_flows.self_improve import evaluate as measure_policy


@flow(name="evaluate", flow_run_name="evaluate-{profile}", log_prints=True)
def evaluate(
    profile: str | None = None, overrides: dict[str, Any] | None = None, unseen: bool = False
) -> dict[str, Any]:
    """Measure the champion; `unseen`: and the base model, on held-out tasks that no verdict was based on.

    `profile` and `overrides` are those of `agentloop eval`.
    """
    settings = configuration.load(overrides or {}, profile=profile)
    flow_run = presence.announce(settings)
    campaign = Campaign.open(settings)
    with live.reported(settings), campaign.at_work(flow_run):
        steps.quantize(settings)
        champion = campaign.champion()
        suite = campaign.unseen() if unseen else campaign.heldout()
        with steps.policies(settings):
            measured = measure_policy(campaign, champion, 0, role="champion", suite=suite)
            if unseen and champion is not None:
                measured["base"] = measure_policy(campaign, None, 0, role="base", suite=suite)["success"]
        steps.report(settings)
    artifacts.publish_evaluation(campaign.name, champion, measured)
    return {"campaign": campaign.name, "champion": champion, **measured}
