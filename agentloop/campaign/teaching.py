"""Teaching: demonstrations are played, judged and chosen, an adapter learns them in 16 bit, and a base is made of both.

A teaching is a campaign of its own, named by everything that determines it, so the same command continues it, whatever ended
it. Its iteration 0 is the measurement of the student, its iteration 1 the demonstrations, the adapter and the taught base.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from agentloop.agent.collection import OpenWorld, ShardPlan, in_shards, run_shard
from agentloop.agent.collection import Policy as Acting
from agentloop.agent.episode import World
from agentloop.campaign import learning, rollouts, suites
from agentloop.campaign.campaign import Campaign
from agentloop.engine.fingerprint import base_fingerprint, tokenizer_fingerprint
from agentloop.errors import ModelError, SettingError
from agentloop.evaluation.contrast import contrast
from agentloop.files import atomic
from agentloop.naming import content, content_id
from agentloop.reading import read_object
from agentloop.records import NONE, Policy, Task, Trajectory
from agentloop.settings import Collect, Settings, Training
from agentloop.store import campaigns, evaluations, families, tasks, taught_bases, teacher_usage
from agentloop.store.shards import write_shard
from agentloop.store.taught_bases import TaughtBase
from agentloop.teaching import experts, messages, stored
from agentloop.teaching.messages import Conversation
from agentloop.teaching.script import Script, ScriptedPolicy, by_session, numbered
from agentloop.teaching.source import Source
from agentloop.teaching.tasks import drawn
from agentloop.teaching.teacher import Endpoint, Teacher
from agentloop.training.merging import merge as merge_in_child
from agentloop.training.run import TrainingRun
from agentloop.worlds.recorded import RecordedWorld
from agentloop.worlds.toolbox import Toolbox, ToolDescription

RECORD = "agentloop_taught.json"
"""In a taught base's directory: what it was made of, and how it was measured."""

RECIPE = "demonstrations"
STUDENT, TAUGHT = 0, 1
"""Iterations of a teaching."""

NOT_TAUGHT = ("concurrency", "key_variable", "request_seconds")
"""Settings of `teach` that change nothing of what is taught."""

_PATIENCE_SECONDS = 7 * 86400.0
"""That an episode of a teacher may take, waits for a rate limit included."""


@dataclass(frozen=True)
class Teaching:
    campaign: Campaign
    """Of the teaching; its model is the student."""
    source: Source
    families: tuple[str, ...] = ()
    """Demonstrated alone, where any are named."""
    unverified: bool = False
    """Of a file, teach also what answers no question of the environment, as it stands."""
    name: str | None = None
    """Of the directory that is made; None: by its content."""
    conversations: tuple[Conversation, ...] = ()
    """Of a file."""

    @classmethod
    def open(
        cls, settings: Settings, source: Source, *, families: Sequence[str], unverified: bool, name: str | None
    ) -> Teaching:
        """Check what is named. Raises SettingError or ModelError before anything is written."""
        conversations = tuple(messages.read(Path(source.place))) if source.kind == "messages" else ()
        campaign = Campaign.open(settings)
        chosen = tuple(sorted(set(families)))
        about = [
            campaign.base,
            {"kind": "messages", "digest": messages.digest(conversations)} if conversations else source.told,
            list(chosen),
            unverified,
            {key: value for key, value in content(settings.teach).items() if key not in NOT_TAUGHT},
            campaigns.defining_settings(settings),
        ]
        own = settings.model_copy(
            update={"campaign": content_id("teaching", about).replace("_", "-"), "iterations": TAUGHT}
        )
        teaching = cls(dataclasses.replace(campaign, settings=own), source, chosen, unverified, name, conversations)
        teaching.refuse_taken_name()
        return teaching

    @property
    def settings(self) -> Settings:
        return self.campaign.settings

    @cached_property
    def learner(self) -> Campaign:
        """The campaign with the settings that demonstrations are learnt by: in 16 bit, for quantisation breaks small models."""
        teach = self.settings.teach
        training: Training = self.settings.training.model_copy(
            update={
                "rank": teach.rank,
                "alpha": teach.alpha,
                "learning_rate": teach.learning_rate,
                "epochs": teach.epochs,
                "batch_tokens": teach.batch_tokens,
                "continue_adapter": False,
            }
        )
        selection = self.settings.selection.model_copy(update={"recipe": RECIPE, "per_task": teach.per_task})
        settings = self.settings.model_copy(update={"training": training, "selection": selection})
        return dataclasses.replace(self.campaign, settings=settings, given=NONE)

    def refuse_taken_name(self) -> None:
        """Raises SettingError where the directory is there and is not this teaching's."""
        if self.name is not None and (directory := self.settings.paths.models / self.name).exists():
            if _record(directory).get("campaign") != self.campaign.name:
                raise SettingError(f"{directory}: is there already, and is not of this teaching; choose another --name")

    def directory(self, run: TrainingRun) -> Path:
        """Of the taught base that the run's adapter makes."""
        return self.settings.paths.models / (self.name or content_id("taught", run.adapter.id))

    def taught(self, directory: Path) -> Campaign:
        """The campaign with the taught base as its model: what a campaign with model=NAME measures is measured here."""
        settings = self.settings.model_copy(update={"model": directory.name})
        base = base_fingerprint(directory, settings.paths.cache)
        return dataclasses.replace(self.campaign, settings=settings, model=directory, base=base)


@dataclass(frozen=True)
class Demonstrations:
    """Episodes that are to be played: by whom, and in which shards."""

    policy: Policy
    shards: tuple[ShardPlan, ...]
    scripts: tuple[Script, ...] = ()
    """What is said in them; none where a teacher decides."""
    teacher_model: str = ""
    """As the teacher's endpoint calls it."""


def plan_demonstrations(teaching: Teaching) -> Demonstrations:
    """What is to be played. Raises SettingError, naming setting, file or row, where there is nothing to be, TeacherError."""
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
        unverified=teaching.unverified,
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
    policy = Policy(content_id("teacher", about), None, campaign.prompt.name)
    chosen = drawn(campaign.environment, teach.tasks, settings.seed, teaching.families)
    episodes = [(task, sample) for task in chosen for sample in range(teach.samples)]
    return Demonstrations(
        policy, _shards(teaching, policy, episodes, temperature=teach.temperature), teacher_model=model
    )


def _scripted(teaching: Teaching, scripts: Sequence[Script]) -> Demonstrations:
    campaign = teaching.campaign
    about = [_tokens(campaign), [[script.task.id, script.turns, script.results] for script in scripts]]
    policy = Policy(content_id(teaching.source.kind, about), None, campaign.prompt.name)
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
    return rollouts.is_collected(teaching.campaign, shard)


def play(
    teaching: Teaching,
    planned: Demonstrations,
    shard: ShardPlan,
    *,
    on_episode: Callable[[Trajectory], None] = lambda trajectory: None,
) -> str:
    """Play the shard's episodes and write it, unless it is there. Returns its id."""
    campaign = teaching.campaign
    if is_played(teaching, shard):
        return shard.id
    campaign.worlds.start()
    acting = _taught_by if teaching.source.kind == "teacher" else _saying
    path = shard.path(teaching.settings.paths.shards)

    async def episodes() -> list[Trajectory]:
        async with acting(teaching, planned, shard) as (policy, open_world, limits):
            return await run_shard(
                shard,
                policy=policy,
                prompt=campaign.prompt,
                open_world=open_world,
                limits=limits,
                on_episode=on_episode,
            )

    write_shard(path, asyncio.run(episodes()), purpose="demonstrate", campaign=campaign.name, iteration=TAUGHT)
    return shard.id


@asynccontextmanager
async def _saying(
    teaching: Teaching, planned: Demonstrations, shard: ShardPlan
) -> AsyncIterator[tuple[Acting, OpenWorld, Collect]]:
    """Scripts are said, in the environment's worlds or with the results that were recorded."""
    campaign = teaching.campaign
    scripts = by_session(planned.scripts, policy=shard.policy, seed=shard.seed)
    tools = _described_tools(campaign) if any(script.results is not None for script in planned.scripts) else ()

    @asynccontextmanager
    async def open_world(task: Task, *, session: str) -> AsyncIterator[World]:
        script = scripts[_episode(session)]
        if script.results is not None:
            yield RecordedWorld(script.results, tools)
            return
        async with campaign.worlds.open(task, session=session) as world:
            yield world

    yield ScriptedPolicy(scripts, campaign.prompt), open_world, teaching.settings.collect


@asynccontextmanager
async def _taught_by(
    teaching: Teaching, planned: Demonstrations, shard: ShardPlan
) -> AsyncIterator[tuple[Acting, OpenWorld, Collect]]:
    """A teacher acts; what it was asked is written down, however the shard ends."""
    campaign, teach = teaching.campaign, teaching.settings.teach
    began = time.monotonic()
    async with Endpoint(teaching.source.place, teach) as endpoint:
        teacher = Teacher(endpoint, planned.teacher_model, teach, campaign.prompt)

        @asynccontextmanager
        async def open_world(task: Task, *, session: str) -> AsyncIterator[World]:
            async with campaign.worlds.open(task, session=session) as world:
                teacher.meet(_episode(session), task.question, await world.describe())
                yield world

        # a rate limit is waited for, and every request has a limit of its own
        patient = {"concurrency": teach.concurrency, "episode_seconds": _PATIENCE_SECONDS}
        try:
            yield teacher, open_world, teaching.settings.collect.model_copy(update=patient)
        finally:
            endpoint.usage.seconds = time.monotonic() - began
            with campaign.database() as database:
                teacher_usage.add(database, campaign.name, shard.id, **dataclasses.asdict(endpoint.usage))


def _episode(session: str) -> str:
    """The session without the number of the attempt."""
    return session.rpartition("/")[0]


def _described_tools(campaign: Campaign) -> list[ToolDescription]:
    task = next(campaign.environment.stream("train", campaign.settings.seed))
    return Toolbox(campaign.environment.tools(task)).descriptions


def take_in(teaching: Teaching, planned: Demonstrations) -> dict[str, Any]:
    """The demonstrations into the database, judged by the environment's verifier: `{tried, accepted, families, spent}`."""
    campaign = teaching.campaign
    with campaign.database() as database:
        campaigns.begin_iteration(database, campaign.name, TAUGHT, champion=None)
    rollouts.take_in(campaign, planned.shards, policy=planned.policy, iteration=TAUGHT, purpose="demonstrate")
    with campaign.database() as database:
        met = families.met(database, campaign.name, "demonstrate")
        spent = teacher_usage.total(database, campaign.name)
    return {
        "tried": sum(family.trajectories for family in met),
        "accepted": sum(family.solved for family in met),
        "families": {family.name: [family.solved, family.trajectories] for family in met},
        "spent": spent,
    }


def choose(teaching: Teaching) -> dict[str, Any]:
    """Select the dataset, as `learning.choose` does; what is measured on is made known first, so that none of it is taught."""
    campaign = teaching.campaign
    last = campaign.looks[-1]
    with campaign.database() as database:
        for suite in (campaign.heldout(last), *campaign.guards(last)):
            tasks.save(database, suite.tasks)
    return learning.choose(teaching.learner, TAUGHT)


def plan_training(teaching: Teaching, dataset: str) -> TrainingRun:
    """The run that learns the dataset; the name of what it makes is known before it starts."""
    return learning.plan_training(teaching.learner, dataset)


def train(
    teaching: Teaching, run: TrainingRun, *, on_step: Callable[[dict[str, Any]], None] = lambda metrics: None
) -> dict[str, Any]:
    """Train the adapter, or continue a killed run, as `learning.train` does."""
    return learning.train(teaching.learner, run, iteration=TAUGHT, role="teaching", on_step=on_step)


def merge(teaching: Teaching, run: TrainingRun) -> dict[str, Any]:
    """Make the taught base's directory, whole or not at all: `{name, base}`. Raises SettingError where the name is taken."""
    campaign, directory = teaching.campaign, teaching.directory(run)

    def work() -> dict[str, Any]:
        if directory.exists() and _record(directory).get("adapter") != run.adapter.id:
            raise SettingError(f"{directory}: is there already, and is not of this teaching; choose another --name")
        if not directory.exists():
            record = json.dumps(_told(teaching, run), indent=2)
            merge_in_child(run, directory, teaching.settings, beside={RECORD: record})
        taught = teaching.taught(directory)
        with campaign.database() as database:
            taught_bases.save(database, _taught_base(teaching, run, taught.base, directory.name))
        return {"name": directory.name, "base": taught.base}

    made = campaign.step("merge", TAUGHT, [run.adapter.id, directory.name], work)
    return made if directory.exists() else work()  # somebody has removed it since


def finish(teaching: Teaching, run: TrainingRun, before: str, after: str) -> dict[str, Any]:
    """Write both measurements (evaluation ids) into the database and beside the weights, and return them.

    `{before, after, difference: {estimate, low, high}, p, families: {family: [before, after]}}`
    """
    campaign, directory = teaching.campaign, teaching.directory(run)
    base = teaching.taught(directory).base
    with campaign.database() as database:
        pair = evaluations.pair(*(evaluations.load(database, each) for each in (before, after)))
        shares = [evaluations.by_family(database, each) for each in (before, after)]
        taught_bases.save(database, _taught_base(teaching, run, base, directory.name, before=before, after=after))
        campaigns.finish_iteration(database, campaign.name, TAUGHT)
    seen = contrast(*pair, resamples=teaching.settings.gate.resamples)
    measured = {
        "suite": suites.HELDOUT,
        "tasks": len(pair[0].tasks),
        "samples": pair[0].samples,
        "before": dataclasses.asdict(seen.before),
        "after": dataclasses.asdict(seen.after),
        "difference": dataclasses.asdict(seen.difference),
        "mcnemar_p": seen.test.p,
        "families": {family: [share, shares[1].get(family)] for family, share in shares[0].items()},
        "evaluations": [before, after],
    }
    record = _record(directory)
    if record.get("measured") != measured:
        with atomic(directory / RECORD) as temporary:
            temporary.write_text(json.dumps(record | {"measured": measured}, indent=2), encoding="utf-8")
    return measured


def is_taught(directory: Path) -> bool:
    """Whether it is the directory of a taught base."""
    return bool(_record(directory))


def _told(teaching: Teaching, run: TrainingRun) -> dict[str, Any]:
    """What the directory says of how it was made."""
    with teaching.campaign.database() as database:
        met = families.met(database, teaching.campaign.name, "demonstrate")
        spent = teacher_usage.total(database, teaching.campaign.name)
    return {
        "campaign": teaching.campaign.name,
        "student": {"base": teaching.campaign.base, "model": teaching.campaign.model.name},
        "environment": teaching.campaign.environment.name,
        "source": teaching.source.told,
        "families": list(teaching.families),
        "unverified": teaching.unverified,
        "demonstrations": {family.name: {"accepted": family.solved, "of": family.trajectories} for family in met},
        "spent": spent,
        "dataset": run.adapter.dataset,
        "adapter": run.adapter.id,
        "teach": teaching.settings.teach.model_dump(mode="json", exclude=set(NOT_TAUGHT)),
        "training": run.adapter.training,
        "seed": run.adapter.seed,
    }


def _taught_base(teaching: Teaching, run: TrainingRun, base: str, name: str, **measured: str) -> TaughtBase:
    campaign = teaching.campaign
    about = {"base": base, "name": name, "campaign": campaign.name, "student": campaign.base, **measured}
    return TaughtBase(adapter=run.adapter.id, dataset=run.adapter.dataset, source=teaching.source.told, **about)


def _record(directory: Path) -> dict[str, Any]:
    """Empty where there is none."""
    try:
        return read_object(directory / RECORD, ModelError)
    except ModelError:
        return {}
