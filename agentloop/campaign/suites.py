"""Suites: the held-out tasks that champion and challenger meet on, those of the campaign itself and those of its guards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

from agentloop import environments
from agentloop.environments import TooFewTasks
from agentloop.errors import SettingError
from agentloop.evaluation import looks
from agentloop.evaluation.looks import Look
from agentloop.records import Task
from agentloop.settings import Settings

HELDOUT = "heldout"
"""Name of the campaign's own suite, on which verdicts are based; a guard's is that of its environment."""

UNSEEN = "unseen"
"""Name of the suite on which no verdict is based."""


@dataclass(frozen=True)
class Suite:
    name: str
    blocks: tuple[tuple[Task, ...], ...]
    """The tasks of the first look, then those that each further look adds: what was run for one look is used by the next."""
    samples: int
    """Episodes for each task."""

    @property
    def tasks(self) -> list[Task]:
        return [task for block in self.blocks for task in block]


def heldout(settings: Settings, look: Look) -> Suite:
    """The campaign's own suite."""
    evaluate = settings.evaluate
    return Suite(HELDOUT, _blocks(settings.environment, evaluate.tasks, look, settings.seed), evaluate.samples)


def unseen(settings: Settings, last: Look) -> Suite:
    """Return as many tasks again, of which no look has seen one: no choice was made on them.

    Raises SettingError, naming the most that works, where the environment has none left.
    """
    evaluate = settings.evaluate
    used = evaluate.tasks * last.scale
    try:
        stream = _stream(settings.environment, used + evaluate.tasks, settings.seed)
    except TooFewTasks as error:
        most = _most_with_unseen(error.available, settings.gate.max_tasks)
        raise SettingError(
            f"evaluate.tasks: {_without_setting(error)}: {used} for verdicts and {evaluate.tasks} that no verdict sees; "
            + (f"a campaign with evaluate.tasks={most} leaves enough" if most else "no campaign leaves enough of them")
        ) from None
    return Suite(UNSEEN, (stream[used:],), evaluate.samples)


def guards(settings: Settings, look: Look) -> list[Suite]:
    """The suites of the guards, which grow with the looks as the campaign's own does."""
    return [
        Suite(name, _blocks(name, guard.tasks, look, settings.seed), guard.samples)
        for name, guard in settings.gate.guards.items()
    ]


def planned_looks(settings: Settings) -> tuple[Look, ...]:
    """Return the looks that the gate may take at a challenger's results: as `gate.max_tasks` allows and the environments have
    tasks for.

    Raises SettingError, naming the setting, where they do not have enough for the first look (and the most that works), and
    for a guard that is no environment or the campaign's own one.
    """
    own = environments.get(settings.environment).name
    for name in settings.gate.guards:
        with _blaming("gate.guards"):
            if environments.get(name).name == own:
                raise SettingError(f"{name} is the campaign's own environment, which the gate judges anyway")
    with enough("evaluate.tasks"):
        heldout(settings, Look(1, 1))
    for name, guard in settings.gate.guards.items():
        with _blaming("gate.guards"), enough(f"gate.guards.{name}.tasks"):
            _stream(name, guard.tasks, settings.seed)
    count = looks.most(settings.evaluate.tasks, settings.gate.max_tasks)
    while count > 1 and not _enough(settings, Look(count, count)):
        count -= 1
    return looks.plan(count)


def check_training_tasks(settings: Settings) -> None:
    """Raises SettingError where the environment has fewer training tasks than an iteration collects, naming the most."""
    with enough("collect.tasks"):
        environments.get(settings.environment).tasks("train", settings.collect.tasks, settings.seed)


@contextmanager
def enough(setting: str) -> Iterator[None]:
    """While the block runs, turn too few tasks into a SettingError that names the setting and the largest value that works."""
    try:
        yield
    except TooFewTasks as error:
        most = error.available
        remedy = f"set {setting}={most}" if most else "it has none of them"
        raise SettingError(f"{setting}: {_without_setting(error)}; {remedy}") from None


def check_tools(settings: Settings) -> None:
    """Raises SettingError, in one line, for an environment of the campaign or its guards whose tools cannot be made."""
    for name in (settings.environment, *settings.gate.guards):
        environments.check_tools(environments.get(name), settings.seed)


def _enough(settings: Settings, look: Look) -> bool:
    try:
        heldout(settings, look), guards(settings, look)
    except TooFewTasks:
        return False
    return True


@contextmanager
def _blaming(setting: str) -> Iterator[None]:
    try:
        yield
    except SettingError as error:
        if str(error).startswith(setting):
            raise
        raise SettingError(f"{setting}: {_without_setting(error)}") from None


def _without_setting(error: SettingError) -> str:
    return str(error).removeprefix("environment: ")


def _most_with_unseen(available: int, limit: int | None) -> int:
    """The most tasks at the first look that leave as many unseen ones, 0 where none do."""
    for tasks in range(available // 2, 0, -1):
        count = looks.most(tasks, limit)
        while count > 1 and tasks * Look(count, count).scale > available:
            count -= 1
        if tasks * (Look(count, count).scale + 1) <= available:
            return tasks
    return 0


def _blocks(environment: str, tasks: int, look: Look, seed: int) -> tuple[tuple[Task, ...], ...]:
    # of one stream, as long as the last look may need it: what an earlier look has is the beginning of what a later one has
    stream = _stream(environment, tasks * 2 ** (look.of - 1), seed)
    ends = [tasks * 2**doublings for doublings in range(look.number)]
    return tuple(stream[first:end] for first, end in zip([0, *ends], ends, strict=False))


@cache
def _stream(environment: str, count: int, seed: int) -> tuple[Task, ...]:
    return tuple(environments.get(environment).tasks("heldout", count, seed))
