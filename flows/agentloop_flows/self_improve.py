"""self-improve: collect, select, train, check, measure, promote on evidence, and again.

Reads top to bottom as what happens. Every task is a step of agentloop.campaign that can be run again at any time: the
ledger and the files on disk decide what is still to do.
"""

from __future__ import annotations

import time
from typing import Annotated, Any

from prefect import Flow, flow
from prefect.context import FlowRunContext
from prefect.states import Completed, Failed, State

from agentloop.campaign import collect as rollouts
from agentloop.campaign import contest as contests
from agentloop.campaign import gate, live, meeting, night_plan, nights, prepare, select, train
from agentloop.campaign.campaign import Campaign
from agentloop.campaign.night_plan import Deadline
from agentloop.campaign.suites import HELDOUT, Suite
from agentloop.errors import CanaryError, EmptySelectionError
from agentloop.records import Entry
from agentloop.rollout.collection import ShardPlan
from agentloop.settings import Settings
from agentloop.store.evaluations import Role
from agentloop.store.runs import FlowRun
from agentloop.store.shards import Purpose
from agentloop_flows import artifacts, parameters, presence, steps, telling
from agentloop_flows.parameters import Described, Overrides, Profile

More = Annotated[
    bool,
    Described("Add `iterations` to those that the campaign has, instead of having so many in all: for every night."),
]


@flow(name="self-improve", flow_run_name="self-improve", log_prints=True, **telling.HOOKS)
def self_improve(
    profile: Profile = None,
    campaign: parameters.Campaign = None,
    model: parameters.Model = None,
    environment: parameters.Environment = None,
    iterations: parameters.Iterations = None,
    more: More = False,
    tasks: parameters.Tasks = None,
    samples: parameters.Samples = None,
    quantization: parameters.Quantization = None,
    rank: parameters.Rank = None,
    learning_rate: parameters.LearningRate = None,
    epochs: parameters.Epochs = None,
    seed: parameters.Seed = None,
    overrides: Overrides = None,
) -> dict[str, Any]:
    """Run a campaign to its end, continue it, or add iterations to it.

    What is not given is as the profile and agentloop.toml say, as for `agentloop run`.
    """
    given = {name: value for name, value in locals().items() if name in parameters.NAMES}
    settings = parameters.load(profile, overrides, **given)
    flow_run = presence.announce(settings)
    try:
        done, control, report, ending = _run(settings, flow_run, more=more)
    except EmptySelectionError as error:
        return Failed(name="Nothing to train on", message=str(error), data=error)  # type: ignore[return-value]
    except CanaryError as error:
        return Failed(name="Canary failed", message=str(error), data=error)  # type: ignore[return-value]
    result = {"campaign": settings.campaign, "iterations": done, "control": control, "report": report}
    return Completed(name=ending.name, message=ending.sentence, data=result)  # type: ignore[return-value]


def _run(settings: Settings, flow_run: FlowRun, *, more: bool) -> tuple[list[dict[str, Any]], Any, str, nights.Ending]:
    if more:
        settings = _with_more(settings, flow_run)
    campaign = Campaign.open(settings)
    with live.reported(settings), campaign.at_work(flow_run):
        work = nights.work(campaign)
        presence.rename(nights.title(settings, work.iterations), (settings.campaign, settings.model))
        done, control = _improve(settings, work)
        report = steps.report(settings)
        artifacts.publish_campaign(campaign, report)
        return done, control, report, nights.ending(campaign, work.iterations)


def _with_more(settings: Settings, flow_run: FlowRun) -> Settings:
    before = Campaign.open(settings)
    with before.at_work(flow_run):
        return settings.model_copy(update={"iterations": nights.aim(before, flow_run.id)})


def _improve(settings: Settings, work: nights.Work) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    if not work:
        return [], None
    hours, deadline = settings.night.hours, None
    if hours is not None and work.iterations:
        deadline = Deadline(time.time() + 3600 * hours, work.iterations[-1])
    steps.quantize(settings)
    with steps.policies(settings) as server:
        if work.iterations or work.damaged:
            server.get_ready()
        steps.judge_base(settings)
        for number in work.damaged:
            _as_a_run(iterate, f"{settings.campaign} · iteration {number}, damaged files", settings, number)
        done = [
            _as_a_run(iterate, nights.title(settings, (number,)), settings, number, deadline)
            for number in work.iterations
        ]
        if not work.control:
            return done, None
        last = settings.iterations
        if not done:  # the steps of a finished iteration only say what came of it
            done = [_as_a_run(iterate, nights.title(settings, (last,)), settings, last)]
        return done, _as_a_run(measure_control, f"{settings.campaign} · control", settings, done[-1])


def _as_a_run(part: Flow[..., Any], *arguments: Any) -> dict[str, Any]:
    """A part of this run as a flow run of its own, below it in Prefect's UI; of a run that is tried again, as part of itself.

    Prefect would take what the attempt before had run in the same place for it, which may have been another iteration.
    """
    if FlowRunContext.get().flow_run.run_count <= 1:
        return part(*arguments)
    made = part.fn(*arguments)
    return made.data if isinstance(made, State) else made


@flow(name="iteration", flow_run_name="{title}", log_prints=True)
def iterate(title: str, settings: Settings, iteration: int, deadline: Deadline | None = None) -> dict[str, Any]:
    """One iteration: the champion makes data, a challenger learns from it, the better one stays."""
    presence.announce(settings)
    campaign = Campaign.of(settings)
    meet(campaign, iteration)
    champion = campaign.begin(iteration)
    with prepare.policies(campaign) as server:
        server.retire(keep=champion)
        planned = night_plan.plan(campaign, iteration, deadline)
        if planned.told:
            print(planned.told)
        collect(campaign, champion, iteration, most=planned.tasks)
        contests.make_known(campaign, iteration)
        dataset = steps.select(settings, iteration, rows=planned.rows)
        artifacts.publish_funnel(campaign.name, iteration, dataset["funnel"])
        if offer := select.never_solved(campaign):
            print(offer)
        run = train.plan(campaign, dataset["dataset"], parent=champion)
        server.make_room()
        trained = steps.train(settings, iteration, run)
        steps.canary(settings, iteration, run)

        contest = hold_contest(campaign, champion, run.adapter.id, iteration)
        campaign.finish(iteration)
    result = {"iteration": iteration, "champion": champion, "dataset": dataset, "trained": trained, **contest}
    ending = nights.ending(campaign, (iteration,))
    return Completed(name=ending.name, message=ending.sentence, data=result)  # type: ignore[return-value]


def hold_contest(campaign: Campaign, champion: str | None, challenger: str, iteration: int) -> dict[str, Any]:
    """Champion against challenger, on more held-out tasks as long as the verdict asks for them and there are any."""

    def measure_both(suite: Suite) -> tuple[dict[str, Any], dict[str, Any]]:
        return (
            evaluate(campaign, champion, iteration, role="champion", suite=suite),
            evaluate(campaign, challenger, iteration, role="challenger", suite=suite),
        )

    entry = contests.begin(campaign, iteration, challenger)
    for look in campaign.looks:
        before, after = measure_both(campaign.heldout(look, entry.block))
        measured = {HELDOUT: (before["evaluation"], after["evaluation"])}
        if gate.would_promote(campaign, look, entry, measured, adapter=challenger, iteration=iteration):
            for guard in campaign.guards(look, entry.block):
                measured[guard.name] = tuple(each["evaluation"] for each in measure_both(guard))
        verdict = steps.decide(campaign.settings, iteration, measured, look, adapter=challenger)
        artifacts.publish_verdict(campaign.name, iteration, verdict)
        if verdict["decision"] != "needs_more_data":
            break
    meet_itself(campaign, champion, entry, iteration)
    return {"before": before, "after": after, "verdict": verdict}


def meet(campaign: Campaign, iteration: int) -> None:
    """The champion meets the base and the best earlier champion where a new block of held-out tasks begins."""
    opponents = meeting.due(campaign, iteration)
    if not opponents:
        return
    champion = evaluate(campaign, campaign.champion(), iteration, role="champion", suite=opponents[0].suite)
    others = {
        each.kind: evaluate(campaign, each.adapter, iteration, role=each.role, suite=each.suite)["evaluation"]
        for each in opponents
    }
    for held in meeting.hold(campaign, iteration, champion["evaluation"], others, opponents):
        print(held.reason)


def meet_itself(campaign: Campaign, champion: str | None, entry: Entry, iteration: int) -> None:
    """Now and then the champion meets itself, which tells how often the gate is wrong."""
    suite = meeting.itself_due(campaign, entry)
    if suite is None:
        return
    first, second = (
        evaluate(campaign, champion, iteration, role="champion", suite=each)["evaluation"]
        for each in (suite, meeting.other_seed(campaign, suite))
    )
    print(meeting.hold_itself(campaign, iteration, entry, first, second).reason)


def collect(campaign: Campaign, adapter: str | None, iteration: int, *, most: int) -> None:
    """Fresh training tasks, rolled out by a policy."""
    planned = rollouts.plan_collection(campaign, iteration, adapter, most=most)
    roll_out(campaign, planned, adapter, iteration, purpose="collect", what="collect")


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
    roll_out(campaign, planned, adapter, iteration, purpose="evaluate", what=f"evaluate {role}")
    return steps.measure(campaign.settings, iteration, adapter, suite, role=role)


def roll_out(
    campaign: Campaign,
    planned: list[ShardPlan],
    adapter: str | None,
    iteration: int,
    *,
    purpose: Purpose,
    what: str,
) -> None:
    """Run the episodes that are missing, one Prefect task a shard, and take them into the database.

    `what` names them for people.
    """
    steps.collect(campaign.settings, iteration, planned, adapter=adapter, purpose=purpose, what=what)
    steps.ingest(campaign.settings, iteration, planned, adapter=adapter, purpose=purpose)


@flow(name="control", flow_run_name="{title}", log_prints=True)
def measure_control(title: str, settings: Settings, last: dict[str, Any]) -> dict[str, Any]:
    """Was it the selection? An adapter from as many randomly chosen trajectories, trained and measured the same way."""
    presence.announce(settings)
    campaign, iteration = Campaign.of(settings), last["iteration"]
    dataset = steps.select(settings, iteration, recipe="random", size=last["dataset"]["rows"])
    run = train.plan(campaign, dataset["dataset"], parent=last["champion"], control=True)
    with prepare.policies(campaign) as server:
        server.make_room()
        steps.train(settings, iteration, run, role="control")
        steps.canary(settings, iteration, run)
        measured = evaluate(campaign, run.adapter.id, iteration, role="control")
    return {"adapter": run.adapter.id, "rows": dataset["rows"], **measured}
