"""self-improve: collect, select, train, check, measure, promote on evidence, and again.

Reads top to bottom as what happens. Every task is a step of agentloop.campaign that can be run again at any time: the
ledger and the files on disk decide what is still to do.
"""

from __future__ import annotations

from typing import Any

from prefect import flow

from agentloop import settings as configuration
from agentloop.campaign import collect as rollouts
from agentloop.campaign import gate, live, select, train
from agentloop.campaign.campaign import Campaign
from agentloop.campaign.suites import HELDOUT, Suite
from agentloop.rollout.collection import ShardPlan
from agentloop.serving.policy_server import PolicyServer
from agentloop.store.evaluations import Role
from agentloop.store.shards import Purpose
from agentloop_flows import artifacts, presence, steps


@flow(name="self-improve", flow_run_name="improve-{profile}", log_prints=True)
def self_improve(profile: str | None = None, overrides: dict[str, Any] | None = None) -> dict[str, Any]:
    """Run a campaign to its end, or continue it: `profile` and `overrides` are those of `agentloop run`."""
    settings = configuration.load(overrides or {}, profile=profile)
    flow_run = presence.announce(settings)
    campaign = Campaign.open(settings)
    with live.reported(settings), campaign.at_work(flow_run):
        steps.quantize(settings)
        with steps.policies(settings) as server:
            steps.judge_base(settings)
            iterations = [improve(campaign, server, iteration) for iteration in range(1, settings.iterations + 1)]
            control = measure_control(campaign, server, iterations[-1]) if settings.gate.control else None
        report = steps.report(settings)
    artifacts.publish_campaign(campaign.name, iterations, control, report)
    return {"campaign": campaign.name, "iterations": iterations, "control": control, "report": report}


def improve(campaign: Campaign, server: PolicyServer, iteration: int) -> dict[str, Any]:
    """One iteration: the champion makes data, a challenger learns from it, the better one stays."""
    champion = campaign.begin(iteration)
    server.retire(keep=champion)

    collect(campaign, champion, iteration)
    dataset = steps.select(campaign.settings, iteration)
    artifacts.publish_funnel(iteration, dataset["funnel"])
    if offer := select.never_solved(campaign):
        print(offer)
    run = train.plan(campaign, dataset["dataset"], parent=champion)
    server.make_room()
    trained = steps.train(campaign.settings, iteration, run)
    steps.canary(campaign.settings, iteration, run)

    contest = hold_contest(campaign, champion, run.adapter.id, iteration)
    campaign.finish(iteration)
    return {"iteration": iteration, "champion": champion, "dataset": dataset, "trained": trained, **contest}


def hold_contest(campaign: Campaign, champion: str | None, challenger: str, iteration: int) -> dict[str, Any]:
    """Champion against challenger, on more held-out tasks as long as the verdict asks for them and there are any."""

    def measure_both(suite: Suite) -> tuple[dict[str, Any], dict[str, Any]]:
        return (
            evaluate(campaign, champion, iteration, role="champion", suite=suite),
            evaluate(campaign, challenger, iteration, role="challenger", suite=suite),
        )

    for look in campaign.looks:
        before, after = measure_both(campaign.heldout(look))
        measured = {HELDOUT: (before["evaluation"], after["evaluation"])}
        if gate.would_promote(campaign, look, champion=before["evaluation"], challenger=after["evaluation"]):
            for guard in campaign.guards(look):
                measured[guard.name] = tuple(each["evaluation"] for each in measure_both(guard))
        verdict = steps.decide(campaign.settings, iteration, measured, look, adapter=challenger)
        artifacts.publish_verdict(iteration, verdict)
        if verdict["decision"] != "needs_more_data":
            break
    return {"before": before, "after": after, "verdict": verdict}


def collect(campaign: Campaign, adapter: str | None, iteration: int) -> None:
    """Fresh training tasks, rolled out by a policy."""
    planned = rollouts.plan_collection(campaign, iteration, adapter)
    roll_out(campaign, planned, adapter, iteration, purpose="collect")


def evaluate(
    campaign: Campaign,
    adapter: str | None,
    iteration: int,
    *,
    role: Role,
    suite: Suite | None = None,
) -> dict[str, Any]:
    """Success of a policy on held-out tasks, by default on those of the gate's first look."""
    suite = suite or campaign.heldout()
    planned = rollouts.plan_evaluation(campaign, adapter, suite)
    roll_out(campaign, planned, adapter, iteration, purpose="evaluate")
    return steps.measure(campaign.settings, iteration, adapter, suite, role=role)


def roll_out(
    campaign: Campaign,
    planned: list[ShardPlan],
    adapter: str | None,
    iteration: int,
    *,
    purpose: Purpose,
) -> None:
    """Run the episodes that are missing, one Prefect task a shard, and take them into the database."""
    steps.collect(campaign.settings, iteration, planned, adapter=adapter, purpose=purpose)
    steps.ingest(campaign.settings, iteration, planned, adapter=adapter, purpose=purpose)


def measure_control(campaign: Campaign, server: PolicyServer, last: dict[str, Any]) -> dict[str, Any]:
    """Was it the selection? An adapter from as many randomly chosen trajectories, trained and measured the same way."""
    iteration = last["iteration"]
    dataset = steps.select(campaign.settings, iteration, recipe="random", size=last["dataset"]["rows"])
    run = train.plan(campaign, dataset["dataset"], parent=last["champion"])
    server.make_room()
    steps.train(campaign.settings, iteration, run, role="control")
    steps.canary(campaign.settings, iteration, run)
    measured = evaluate(campaign, run.adapter.id, iteration, role="control")
    return {"adapter": run.adapter.id, "rows": dataset["rows"], **measured}
