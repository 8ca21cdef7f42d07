"""evaluate: the champion of a campaign on its held-out tasks."""

from __future__ import annotations

from typing import Annotated, Any

from prefect import flow
from prefect.states import Completed

from agentloop.campaign import live
from agentloop.campaign.campaign import Campaign
from agentloop_flows import artifacts, parameters, presence, steps, telling
from agentloop_flows.parameters import Described, Overrides, Profile
from agentloop_flows.self_improve import evaluate as measure_policy


@flow(name="evaluate", flow_run_name="evaluate", log_prints=True, **telling.HOOKS)
def evaluate(
    profile: Profile = None,
    campaign: parameters.Campaign = None,
    unseen: Annotated[bool, Described("And the base model, on held-out tasks that no verdict was based on.")] = False,
    overrides: Overrides = None,
) -> dict[str, Any]:
    """Measure the champion of a campaign on its held-out tasks, as `agentloop eval` does."""
    settings = parameters.load(profile, overrides, campaign=campaign)
    flow_run = presence.announce(settings)
    opened = Campaign.open(settings)
    presence.rename(f"{settings.campaign} · evaluate", (settings.campaign, settings.model))
    with live.reported(settings), opened.at_work(flow_run):
        steps.quantize(settings)
        champion = opened.champion()
        suite = opened.unseen() if unseen else opened.heldout()
        with steps.policies(settings):
            measured = measure_policy(opened, champion, 0, role="champion", suite=suite)
            if unseen and champion is not None:
                measured["base"] = measure_policy(opened, None, 0, role="base", suite=suite)["success"]
        steps.report(settings)
    artifacts.publish_evaluation(opened.name, champion, measured)
    sentence = f"{opened.name}: {champion or 'the base model'} {artifacts.interval(measured['success'])}"
    result = {"campaign": opened.name, "champion": champion, **measured}
    return Completed(name="Measured", message=sentence, data=result)  # type: ignore[return-value]
