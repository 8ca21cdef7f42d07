"""self-improve: collect, select, train, check, measure, promote on evidence, and again.

Reads top to bottom as what happens. Every task is a step of agentloop.campaign that can be run again at any time: the
ledger and the files on disk decide what is still to do.
"""

from __future__ import annotations

from typing import Any

from prefect import flow

from agentloop import settings as configuration
from agentloop.campaign import learning, rollouts
from agentloop.campaign.campaign import Campaign
from agentloop.campaign.policies import PolicyServer
from flows import artifacts, steps


@flow(name="self-improve", flow_run_name="improve-{profile}", log_prints=True)
def self_improve(profile: str | None = None, overrides: dict[str, Any] | None = None) -> dict[str, Any]:
    """Run a campaign to its end, or continue it: `profile` and `overrides` are those of `agentloop run`."""
    campaign = Campaign.open(configuration.load(overrides or {}, profile=profile))
    with campaign.at_work():
        with PolicyServer(campaign) as server:
            iterations = [
                improve(campaign, server, iteration) for iteration in range(1, campaign.settings.iterations + 1)
            ]
            control = measure_control(campaign, server, iterations[-1]) if campaign.settings.gate.control else None
        report = steps.report(campaign)
    artifacts.publish_campaign(campaign.name, iterations, control, report)
    return {"campaign": campaign.name, "iterations": iterations, "control": control, "report": report}


def improve(campaign: Campaign, server: PolicyServer, iteration: int) -> dict[str, Any]:
    """One iteration: the champion makes data, a challenger learns from it, the better one stays."""
    champion = campaign.begin(iteration)
    server.retire(keep=champion)

    roll_out(campaign, server, champion, iteration, purpose="collect")
    before = evaluate(campaign, server, champion, iteration, role="champion")

    dataset = steps.select(campaign, iteration)
    artifacts.publish_funnel(iteration, dataset["funnel"])
    run = learning.plan_training(campaign, dataset["dataset"], parent=champion)
    server.make_room()
    trained = steps.train(campaign, iteration, run)

    steps.canary(campaign, iteration, server, run)
    after = evaluate(campaign, server, run.adapter.id, iteration, role="challenger")

    verdict = steps.decide(campaign, iteration, champion=before, challenger=after, adapter=run.adapter.id)
    artifacts.publish_verdict(iteration, verdict)
    campaign.finish(iteration)
    return {
        "iteration": iteration,
        "champion": champion,
        "dataset": dataset,
        "trained": trained,
        "before": before,
        "after": after,
        "verdict": verdict,
    }


def evaluate(
    campaign: Campaign, server: PolicyServer, adapter: str | None, iteration: int, *, role: str
) -> dict[str, Any]:
    """Success of a policy on the held-out tasks."""
    roll_out(campaign, server, adapter, iteration, purpose="evaluate")
    return steps.measure(campaign, iteration, adapter, role=role)


def roll_out(campaign: Campaign, server: PolicyServer, adapter: str | None, iteration: int, *, purpose: str) -> None:
    """Run the episodes that are missing, one Prefect task a shard, and take them into the database."""
    planned = (
        rollouts.plan_collection(campaign, iteration, adapter)
        if purpose == "collect"
        else rollouts.plan_evaluation(campaign, adapter)
    )
    steps.collect(campaign, iteration, server, planned, adapter=adapter, purpose=purpose)
    steps.ingest(campaign, iteration, planned, adapter=adapter, purpose=purpose)


def measure_control(campaign: Campaign, server: PolicyServer, last: dict[str, Any]) -> dict[str, Any]:
    """Was it the selection? An adapter from as many randomly chosen trajectories, trained and measured the same way."""
    iteration = last["iteration"]
    dataset = steps.select(campaign, iteration, recipe="random", size=last["dataset"]["rows"])
    run = learning.plan_training(campaign, dataset["dataset"])
    server.make_room()
    steps.train(campaign, iteration, run, role="control")
    steps.canary(campaign, iteration, server, run)
    measured = evaluate(campaign, server, run.adapter.id, iteration, role="control")
    return {"adapter": run.adapter.id, "rows": dataset["rows"], **measured}
