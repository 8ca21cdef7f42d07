"""evaluate: the champion of a campaign on its held-out tasks."""

from __future__ import annotations

from typing import Any

from prefect import flow

from agentloop import settings as configuration
from agentloop.campaign.campaign import Campaign
from agentloop.campaign.policies import PolicyServer
from flows import artifacts
from flows.self_improve import evaluate as measure_policy


@flow(name="evaluate", flow_run_name="evaluate-{profile}", log_prints=True)
def evaluate(profile: str | None = None, overrides: dict[str, Any] | None = None) -> dict[str, Any]:
    """Measure the champion; `profile` and `overrides` are those of `agentloop eval`."""
    campaign = Campaign.open(configuration.load(overrides or {}, profile=profile))
    with campaign.at_work(), PolicyServer(campaign) as server:
        champion = campaign.champion()
        measured = measure_policy(campaign, server, champion, 0, role="champion")
    artifacts.publish_evaluation(campaign.name, champion, measured)
    return {"campaign": campaign.name, "champion": champion, **measured}
