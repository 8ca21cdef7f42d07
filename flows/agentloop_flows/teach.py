"""teach: demonstrations are played, judged and chosen, learnt, and merged into a base that the loop can improve.

Reads top to bottom as what happens. Every task is a step of agentloop.campaign.teaching that can be run again at any time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from prefect import flow
from prefect.states import Completed

from agentloop.campaign import demonstrations, live, needs
from agentloop.campaign import teaching as lessons
from agentloop.campaign.campaign import Campaign
from agentloop.campaign.demonstrations import Demonstrations
from agentloop.campaign.teaching import STUDENT, TAUGHT, Lesson, Teaching
from agentloop.rollout.collection import ShardPlan
from agentloop.store.evaluations import Role
from agentloop.teaching.source import EXPERTS, parse
from agentloop.training.run import TrainingRun
from agentloop_flows import artifacts, parameters, presence, steps, telling
from agentloop_flows.parameters import Described, Overrides, Profile
from agentloop_flows.progress import advance, progress
from agentloop_flows.self_improve import evaluate


@flow(name="teach", flow_run_name="teach", log_prints=True, **telling.HOOKS)
def teach(
    profile: Profile = None,
    model: parameters.Model = None,
    environment: parameters.Environment = None,
    source: Annotated[
        str, Described("Who demonstrates: experts, stored, a .jsonl file of messages, or a teacher's URL.")
    ] = EXPERTS,
    families: Annotated[Sequence[str], Described("Demonstrate only these families of tasks.")] = (),
    unverified: Annotated[
        bool, Described("From a file: teach also what answers no question of the environment.")
    ] = False,
    name: Annotated[
        str | None, Described("Directory that is made, under the models' root. Default: one by its content.")
    ] = None,
    measured: Annotated[bool, Described("Play held-out tasks before and after.")] = True,
    overrides: Overrides = None,
) -> dict[str, Any]:
    """Make a taught base, or continue: the parameters are those of `agentloop teach`.

    Without `measured` student and taught base are not played: the same command with it does that later.
    """
    settings = parameters.load(profile, overrides, model=model, environment=environment)
    flow_run = presence.announce(settings)
    teaching = Teaching.open(Lesson(settings, parse(source), tuple(families), unverified, name))
    presence.rename(f"teach {settings.model} {settings.environment}", (settings.model,))
    with live.reported(teaching.settings), teaching.at_work(flow_run):
        judged = demonstrate(teaching)
        dataset = choose(teaching.lesson)
        run = lessons.plan_training(teaching, dataset["dataset"])
        trained = train(teaching.lesson, run)
        made = merge(teaching.lesson, run)
        success = measure_both(teaching, run) if measured else None
        report = steps.report(teaching.settings)
    result = {
        "campaign": teaching.campaign.name,
        "demonstrations": judged,
        "dataset": dataset,
        "trained": trained,
        "made": made,
        "directory": str(teaching.directory(run)),
        "measured": success,
        "report": report,
    }
    artifacts.publish_teaching(result)
    return Completed(name="Taught", message=f"{made['name']}: {dataset['rows']} demonstrations", data=result)  # type: ignore[return-value]


def demonstrate(teaching: Teaching) -> dict[str, Any]:
    """Play the episodes that are missing, one Prefect task a shard, and take them into the database."""
    planned = demonstrations.plan(teaching)
    missing = [shard for shard in planned.shards if not demonstrations.is_played(teaching, shard)]
    if missing:
        needs.episodes(teaching.campaign, missing)
        episodes = sum(len(shard.episodes) for shard in missing)
        title = f"demonstrations from {teaching.source}"
        with teaching.campaign.phase("demonstrate", TAUGHT), progress(title, episodes):
            for shard in missing:
                number = f"{planned.shards.index(shard) + 1} of {len(planned.shards)}"
                play(title, number, teaching.lesson, planned, shard)
    return take_in(teaching.lesson, planned)


def measure_both(teaching: Teaching, run: TrainingRun) -> dict[str, Any]:
    """Success of the student and of what was made of it, on the same held-out tasks."""
    before = measure(teaching.campaign, STUDENT, role="base")
    taught = teaching.taught(teaching.directory(run))
    with taught.held():
        after = measure(taught, TAUGHT, role="taught")
    return lessons.finish(teaching, run, before["evaluation"], after["evaluation"])


def measure(campaign: Campaign, iteration: int, *, role: Role) -> dict[str, Any]:
    """Success of the campaign's base on its held-out tasks: what a campaign with this model would measure first."""
    steps.quantize(campaign.settings)
    with steps.policies(campaign.settings):
        return evaluate(campaign, None, iteration, role=role)


@steps.step(name="demonstrations", task_run_name="{title}, shard {number}", **steps.attempts)
def play(title: str, number: str, lesson: Lesson, planned: Demonstrations, shard: ShardPlan) -> str:
    return demonstrations.play(Teaching.of(lesson), planned, shard, on_episode=lambda trajectory: advance(title))


@steps.step(name="judge", task_run_name="judge the demonstrations")
def take_in(lesson: Lesson, planned: Demonstrations) -> dict[str, Any]:
    return demonstrations.take_in(Teaching.of(lesson), planned)


@steps.step(name="select", task_run_name="select the demonstrations")
def choose(lesson: Lesson) -> dict[str, Any]:
    return lessons.choose(Teaching.of(lesson))


@steps.step(name="train", task_run_name="learn the demonstrations", **steps.attempts)
def train(lesson: Lesson, run: TrainingRun) -> dict[str, Any]:
    with progress(f"learn the demonstrations: {run.adapter.id}", 1) as bar:

        def on_step(metrics: dict[str, Any]) -> None:
            bar.total = metrics["steps"]
            bar.advance_to(metrics["step"])

        return lessons.train(Teaching.of(lesson), run, on_step=on_step)


@steps.step(name="merge", task_run_name="make the taught base", **steps.attempts)
def merge(lesson: Lesson, run: TrainingRun) -> dict[str, Any]:
    return lessons.merge(Teaching.of(lesson), run)
