"""Teaching: demonstrations are played, judged and chosen, an adapter learns them in 16 bit, and a base is made of both.

A teaching is a campaign of its own, named by everything that determines it, so the same command continues it, whatever ended
it. Its iteration 0 is the measurement of the student, its iteration 1 the demonstrations, the adapter and the taught base.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from agentloop.at_hand import AtHand
from agentloop.campaign import heldout, own_agent, suites
from agentloop.campaign import select as selecting
from agentloop.campaign import train as training
from agentloop.campaign.campaign import Campaign
from agentloop.errors import ModelError, SettingError
from agentloop.evaluation.contrast import contrast
from agentloop.files import atomic
from agentloop.model_directory.fingerprint import base_fingerprint
from agentloop.naming import content, content_id
from agentloop.reading import read_object
from agentloop.records import NONE
from agentloop.settings import Settings, Training
from agentloop.store import campaigns, evaluations, families, taught_bases, teacher_usage
from agentloop.store.runs import FlowRun
from agentloop.store.taught_bases import TaughtBase
from agentloop.teaching import messages
from agentloop.teaching.messages import Conversation
from agentloop.teaching.source import Source
from agentloop.training.merging import merge as merge_in_child
from agentloop.training.run import TrainingRun

RECORD = "agentloop_taught.json"
"""In a taught base's directory: what it was made of, and how it was measured."""

RECIPE = "demonstrations"
STUDENT, TAUGHT = 0, 1
"""Iterations of a teaching."""

_OPEN: AtHand[Teaching] = AtHand()

_ADDED_LATER: tuple[tuple[str, Any], ...] = (
    ("agent.command", None),
    ("collect.give_up_after", None),
    ("collect.temperatures", []),
)
"""Settings that define a campaign and were no part of a teaching's name at first: they are none while they have this value."""

NOT_TAUGHT = ("concurrency", "key_variable", "request_seconds")
"""Settings of `teach` that change nothing of what is taught."""


@dataclass(frozen=True)
class Lesson:
    """The request that a teaching is opened from: what `agentloop teach` is asked for."""

    settings: Settings
    source: Source
    families: tuple[str, ...] = ()
    """Demonstrated alone, where any are named."""
    unverified: bool = False
    """Of a file, teach also what answers no question of the environment, as it stands."""
    name: str | None = None
    """Of the directory that is made; None: by its content."""

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal where the lessons are."""
        return (
            self.settings.model_dump_json(),
            self.source,
            tuple(sorted(set(self.families))),
            self.unverified,
            self.name,
        )


@dataclass(frozen=True)
class Teaching:
    lesson: Lesson
    campaign: Campaign
    """Of the teaching; its model is the student."""
    conversations: tuple[Conversation, ...] = ()
    """Of a file."""

    @classmethod
    def open(cls, lesson: Lesson) -> Teaching:
        """Check what is named. Raises SettingError or ModelError before anything is written."""
        settings, source = lesson.settings, lesson.source
        conversations = tuple(messages.read(Path(source.place))) if source.kind == "messages" else ()
        campaign = Campaign.open(settings)
        if settings.agent.command is not None:
            own_agent.check_teaching(settings, source)
        defining = campaigns.defining_settings(settings)
        about = [
            campaign.base,
            {"kind": "messages", "digest": messages.digest(conversations)} if conversations else source.told,
            sorted(set(lesson.families)),
            lesson.unverified,
            {key: value for key, value in content(settings.teach).items() if key not in NOT_TAUGHT},
            {name: value for name, value in defining.items() if (name, value) not in _ADDED_LATER},
            *([] if settings.agent.command is None else [campaign.prompt_name]),  # which names the agent's code
        ]
        own = settings.model_copy(
            update={"campaign": content_id("teaching", about).replace("_", "-"), "iterations": TAUGHT}
        )
        teaching = cls(lesson, dataclasses.replace(campaign, settings=own), conversations)
        teaching.refuse_taken_name()
        return teaching

    @classmethod
    def of(cls, lesson: Lesson) -> Teaching:
        """The teaching of this lesson that this process has open; where it has none, it is opened and kept.

        Raises as `open` does.
        """
        return _OPEN.get(lesson.key) or _OPEN.keep(lesson.key, cls.open(lesson))

    @contextmanager
    def at_work(self, flow_run: FlowRun | None = None) -> Iterator[None]:
        """Own the data root, as a campaign does, and be what `of` finds in this process."""
        with _OPEN.holding(self.lesson.key, self), self.campaign.at_work(flow_run):
            yield

    @property
    def settings(self) -> Settings:
        """The teaching's own, as a campaign."""
        return self.campaign.settings

    @property
    def source(self) -> Source:
        return self.lesson.source

    @property
    def families(self) -> tuple[str, ...]:
        """Demonstrated alone, where any are named; sorted."""
        return tuple(sorted(set(self.lesson.families)))

    @cached_property
    def learner(self) -> Campaign:
        """The campaign with the settings that demonstrations are learnt by: in 16 bit, for quantisation breaks small models."""
        teach = self.settings.teach
        training: Training = self.settings.training.on_successes().model_copy(
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
        learner = dataclasses.replace(self.campaign, settings=settings, given=NONE)
        learner.__dict__["place"] = self.campaign.place
        return learner

    def refuse_taken_name(self) -> None:
        """Raises SettingError where the directory is there and is not this teaching's."""
        name = self.lesson.name
        if name is not None and (directory := self.settings.paths.models / name).exists():
            if _record(directory).get("campaign") != self.campaign.name:
                raise SettingError(f"{directory}: is there already, and is not of this teaching; choose another --name")

    def directory(self, run: TrainingRun) -> Path:
        """Return the directory of the taught base that the run's adapter makes."""
        return self.settings.paths.models / (self.lesson.name or content_id("taught", run.adapter.id))

    def taught(self, directory: Path) -> Campaign:
        """The campaign with the taught base as its model: what a campaign with model=NAME measures is measured here."""
        settings = self.settings.model_copy(update={"model": directory.name})
        base = base_fingerprint(directory, settings.paths.cache)
        taught = dataclasses.replace(self.campaign, settings=settings, model=directory, base=base)
        taught.__dict__["place"] = self.campaign.place
        return taught


def choose(teaching: Teaching) -> dict[str, Any]:
    """Select the dataset, as `select.select` does; what is measured on is made known first, so that none of it is taught."""
    campaign = teaching.campaign
    with campaign.database() as database:
        ends = suites.reserve(campaign.settings, campaign.looks[-1], 1)
        heldout.note(database, campaign.name, campaign.settings.seed, ends)
    return selecting.select(teaching.learner, TAUGHT)


def plan_training(teaching: Teaching, dataset: str) -> TrainingRun:
    """The run that learns the dataset; the name of what it makes is known before it starts."""
    return training.plan(teaching.learner, dataset)


def train(
    teaching: Teaching, run: TrainingRun, *, on_step: Callable[[dict[str, Any]], None] = lambda metrics: None
) -> dict[str, Any]:
    """Train the adapter, or continue a killed run, as `train.train` does."""
    return training.train(teaching.learner, run, iteration=TAUGHT, role="teaching", on_step=on_step)


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
    """Return True where it is the directory of a taught base."""
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
        "unverified": teaching.lesson.unverified,
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
