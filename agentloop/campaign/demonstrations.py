"""Demonstrations of a teaching: planned by name, played through the episode code, and judged by the environment's verifier."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentloop.campaign import collect
from agentloop.campaign.campaign import Campaign
from agentloop.campaign.shard import OnEpisode, complete
from agentloop.campaign.teaching import TAUGHT, Teaching
from agentloop.errors import SettingError
from agentloop.model_directory.fingerprint import tokenizer_fingerprint
from agentloop.naming import content_id
from agentloop.records import Policy, Task, Trajectory
from agentloop.rollout.collection import OpenWorld, ShardPlan, in_shards, run_shard
from agentloop.rollout.collection import Policy as Acting
from agentloop.rollout.episode import World
from agentloop.settings import Collect
from agentloop.store import campaigns, families, tasks, teacher_usage
from agentloop.teaching import experts, messages, stored
from agentloop.teaching.script import Script, ScriptedPolicy, by_session, numbered
from agentloop.teaching.tasks import drawn
from agentloop.teaching.teacher import Endpoint, Teacher
from agentloop.worlds.recorded import RecordedWorld
from agentloop.worlds.stage import Stage
from agentloop.worlds.toolbox import ToolDescription

_PATIENCE_SECONDS = 7 * 86400.0
"""That an episode of a teacher may take, waits for a rate limit included."""


@dataclass(frozen=True)
class Demonstrations:
    """Episodes that are to be played: by whom, and in which shards."""

    policy: Policy
    shards: tuple[ShardPlan, ...]
    scripts: tuple[Script, ...] = ()
    """What is said in them; none where a teacher decides."""
    teacher_model: str = ""
    """As the teacher's endpoint calls it."""


def plan(teaching: Teaching) -> Demonstrations:
    """Return what is to be played.

    Raises SettingError, naming setting, file or row, where there is nothing to be, TeacherError.
    """
    if teaching.source.kind == "teacher":
        return _by_teacher(teaching)
    return _scripted(teaching, _scripts(teaching))


def _scripts(teaching: Teaching) -> list[Script]:
    campaign, settings = teaching.campaign, teaching.settings
    if teaching.source.kind == "experts":
        chosen = drawn(campaign.environment, settings.teach.tasks, settings.seed, teaching.families)
        return experts.scripts(campaign.environment, chosen)
    if teaching.source.kind == "stored":
        return _stored(teaching)
    with campaign.database() as database:
        questions = [conversation.question for conversation in teaching.conversations]
        known = tasks.asked(database, campaign.environment.name, questions)
    return messages.scripts(
        Path(teaching.source.place),
        teaching.conversations,
        campaign.environment,
        known,
        seed=settings.seed,
        families=teaching.families,
        unverified=teaching.lesson.unverified,
    )


def _stored(teaching: Teaching) -> list[Script]:
    """Chosen once: what the store holds later, these demonstrations themselves among it, changes nothing."""
    campaign, teach = teaching.campaign, teaching.settings.teach

    def work() -> list[str]:
        with campaign.database() as database:
            found = stored.choose(
                database,
                campaign.environment.name,
                student=campaign.base,
                families=teaching.families,
                per_task=teach.per_task,
                most_tasks=teach.tasks,
            )
        if not found:
            of = f" of the family {' or '.join(teaching.families)}" if teaching.families else ""
            raise SettingError(
                f"--from stored: the store has no task of {campaign.environment.name}{of} that another base has solved"
            )
        return found

    chosen = campaign.step("sources", TAUGHT, [], work)
    with campaign.database() as database:
        return stored.scripts(database, chosen)


def _by_teacher(teaching: Teaching) -> Demonstrations:
    campaign, settings = teaching.campaign, teaching.settings
    url, teach = teaching.source.place, settings.teach

    async def ask() -> str:
        async with Endpoint(url, teach) as endpoint:
            return await endpoint.only_model()

    model = teach.teacher_model or campaign.step("teacher", TAUGHT, [url], lambda: asyncio.run(ask()))
    about = [url, model, teach.calls, teach.max_turn_tokens, _tokens(campaign)]
    policy = Policy(content_id("teacher", about), None, campaign.prompt_name)
    chosen = drawn(campaign.environment, teach.tasks, settings.seed, teaching.families)
    episodes = [(task, sample) for task in chosen for sample in range(teach.samples)]
    return Demonstrations(
        policy, _shards(teaching, policy, episodes, temperature=teach.temperature), teacher_model=model
    )


def _scripted(teaching: Teaching, scripts: Sequence[Script]) -> Demonstrations:
    campaign = teaching.campaign
    about = [_tokens(campaign), [[script.task.id, script.turns, script.results] for script in scripts]]
    policy = Policy(content_id(teaching.source.kind, about), None, campaign.prompt_name)
    episodes = [(script.task, sample) for script, sample in numbered(scripts)]
    return Demonstrations(policy, _shards(teaching, policy, episodes, temperature=0.0), tuple(scripts))


def _tokens(campaign: Campaign) -> str:
    """What the tokens of a demonstration depend on, beside its words and the prompt's format."""
    return tokenizer_fingerprint(campaign.model, campaign.settings.paths.cache)


def _shards(teaching: Teaching, policy: Policy, episodes: Sequence, *, temperature: float) -> tuple[ShardPlan, ...]:
    settings = teaching.settings
    return tuple(
        in_shards(
            episodes,
            policy=policy.id,
            sampling=teaching.campaign.sampling(temperature),
            seed=settings.seed,
            shard_episodes=settings.teach.shard_episodes,
        )
    )


def is_played(teaching: Teaching, shard: ShardPlan) -> bool:
    return collect.is_collected(teaching.campaign, shard)


def play(
    teaching: Teaching,
    planned: Demonstrations,
    shard: ShardPlan,
    *,
    on_episode: OnEpisode = lambda trajectory: None,
) -> str:
    """Play the shard's episodes that are not finished yet and write it, unless it is there. Returns its id."""
    campaign = teaching.campaign
    if is_played(teaching, shard):
        return shard.id
    acting = _taught_by if teaching.source.kind == "teacher" else _saying

    async def rest(played: Mapping[str, Trajectory], ended: OnEpisode) -> list[Trajectory]:
        async with collect.stage(campaign) as (open_world, agent):
            async with acting(teaching, planned, shard, open_world) as (policy, open_world, limits):
                return await run_shard(
                    shard,
                    policy=policy,
                    prompt=campaign.prompt,
                    open_world=open_world,
                    play=agent,
                    limits=limits,
                    played=played,
                    on_episode=ended,
                )

    asyncio.run(complete(campaign, shard, rest, iteration=TAUGHT, purpose="demonstrate", on_episode=on_episode))
    return shard.id


@asynccontextmanager
async def _saying(
    teaching: Teaching, planned: Demonstrations, shard: ShardPlan, open_world: OpenWorld
) -> AsyncIterator[tuple[Acting, OpenWorld, Collect]]:
    """Scripts are said, in the environment's worlds, with the results that were recorded, or to an agent of one's own."""
    campaign = teaching.campaign
    scripts = by_session(planned.scripts, policy=shard.policy, seed=shard.seed)
    recorded = any(script.results is not None for script in planned.scripts) and campaign.settings.agent.command is None
    tools = _described_tools(campaign) if recorded else ()

    @asynccontextmanager
    async def open_recorded(task: Task, *, session: str) -> AsyncIterator[World]:
        script = scripts[_episode(session)]
        if script.results is not None:
            yield RecordedWorld(script.results, tools)
            return
        async with open_world(task, session=session) as world:
            yield world

    opened: OpenWorld = open_recorded if recorded else open_world
    yield ScriptedPolicy(scripts, campaign.prompt), opened, teaching.settings.collect


@asynccontextmanager
async def _taught_by(
    teaching: Teaching, planned: Demonstrations, shard: ShardPlan, open_world: OpenWorld
) -> AsyncIterator[tuple[Acting, OpenWorld, Collect]]:
    """A teacher acts; what it was asked is written down, however the shard ends."""
    campaign, teach = teaching.campaign, teaching.settings.teach
    began = time.monotonic()
    async with Endpoint(teaching.source.place, teach) as endpoint:
        teacher = Teacher(endpoint, planned.teacher_model, teach, campaign.prompt)

        @asynccontextmanager
        async def open_met(task: Task, *, session: str) -> AsyncIterator[World]:
            async with open_world(task, session=session) as world:
                if campaign.settings.agent.command is None:  # else its own request says what it has
                    teacher.meet(_episode(session), task.question, await world.describe())
                yield world

        # a rate limit is waited for, and every request has a limit of its own
        patient = {"concurrency": teach.concurrency, "episode_seconds": _PATIENCE_SECONDS}
        try:
            yield teacher, open_met, teaching.settings.collect.model_copy(update=patient)
        finally:
            endpoint.usage.seconds = time.monotonic() - began
            with campaign.database() as database:
                teacher_usage.add(database, campaign.name, shard.id, **dataclasses.asdict(endpoint.usage))


def _episode(session: str) -> str:
    """The session without the number of the attempt."""
    return session.rpartition("/")[0]


def _described_tools(campaign: Campaign) -> Sequence[ToolDescription]:
    task = next(campaign.environment.stream("train", campaign.settings.seed))
    with Stage.open(campaign.environment, task) as stage:
        return stage.describe().tools


def take_in(teaching: Teaching, planned: Demonstrations) -> dict[str, Any]:
    """The demonstrations into the database, judged by the environment's verifier: `{tried, accepted, families, spent}`."""
    campaign = teaching.campaign
    with campaign.database() as database:
        campaigns.begin_iteration(database, campaign.name, TAUGHT, champion=None)
    collect.take_in(campaign, planned.shards, policy=planned.policy, iteration=TAUGHT, purpose="demonstrate")
    with campaign.database() as database:
        met = families.met(database, campaign.name, "demonstrate")
        spent = teacher_usage.total(database, campaign.name)
    return {
        "tried": sum(family.trajectories for family in met),
        "accepted": sum(family.solved for family in met),
        "families": {family.name: [family.solved, family.trajectories] for family in met},
        "spent": spent,
    }
