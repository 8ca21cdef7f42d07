"""Suites: the held-out tasks that champion and challenger meet on, those of the campaign itself and those of its guards.

The environment's stream of held-out tasks is cut into sealed blocks, each as long as the last look may need. The first one
is the beginning of the stream; between it and the second lie the tasks on which no verdict is ever based.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from agentloop import environments
from agentloop.campaign.heldout import Take, drawn
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
    block: int = 1
    """Number of the sealed block that the tasks are from."""
    seed: int | None = None
    """Seed of the sampling, where it is not the campaign's."""

    @property
    def tasks(self) -> list[Task]:
        return [task for block in self.blocks for task in block]


def heldout(settings: Settings, look: Look, block: int = 1, *, take: Take | None = None) -> Suite:
    """The campaign's own suite. `take`: the order in which the campaign takes held-out tasks; None: that of its seed."""
    evaluate = settings.evaluate
    tasks = _blocks(
        take or drawn(settings.seed), settings.environment, evaluate.tasks, look, _first_own(settings, look, block)
    )
    return Suite(HELDOUT, tasks, evaluate.samples, block)


def unseen(settings: Settings, last: Look, *, take: Take | None = None) -> Suite:
    """Return as many tasks again, of which no look has seen one: no choice was made on them.

    Raises SettingError, naming the most that works, where the environment has none left.
    """
    evaluate = settings.evaluate
    used = evaluate.tasks * last.scale
    try:
        tasks = (take or drawn(settings.seed))(settings.environment, used, evaluate.tasks)
    except TooFewTasks as error:
        most = _most_with_unseen(error.available, settings.gate.max_tasks)
        raise SettingError(
            f"evaluate.tasks: {_without_setting(error)}: {used} for verdicts and {evaluate.tasks} that no verdict sees; "
            + (f"a campaign with evaluate.tasks={most} leaves enough" if most else "no campaign leaves enough of them")
        ) from None
    return Suite(UNSEEN, (tasks,), evaluate.samples)


def guards(settings: Settings, look: Look, block: int = 1, *, take: Take | None = None) -> list[Suite]:
    """The suites of the guards, which grow with the looks as the campaign's own does.

    A guard whose environment has fewer blocks stays at its last one.
    """
    take, suites = take or drawn(settings.seed), []
    for name, guard in settings.gate.guards.items():
        own = guard_block(settings, name, look, block, take=take)
        first = (own - 1) * _size(guard.tasks, look)
        suites.append(Suite(name, _blocks(take, name, guard.tasks, look, first), guard.samples, own))
    return suites


def has_block(settings: Settings, look: Look, block: int, *, take: Take | None = None) -> bool:
    """Return True where the environment has enough held-out tasks for a block of this number. `look`: any of the plan."""
    try:
        heldout(settings, Look(look.of, look.of), block, take=take)
    except TooFewTasks:
        return False
    return True


def guard_block(settings: Settings, name: str, look: Look, block: int, *, take: Take | None = None) -> int:
    """Return the number of a guard's block that goes with a block of the campaign's own."""
    size = _size(settings.gate.guards[name].tasks, look)
    while block > 1:
        try:
            (take or drawn(settings.seed))(name, (block - 1) * size, size)
            break
        except TooFewTasks as error:
            block = max(1, min(block - 1, error.available // size))
    return block


def reserve(settings: Settings, look: Look, block: int) -> dict[str, int]:
    """Return how many held-out tasks of each environment nothing may be learnt from: those of all blocks up to the next one,
    those that no verdict is based on, and those of the guards.
    """
    following = block + 1
    own = _first_own(settings, look, following) + _size(settings.evaluate.tasks, look)
    of_guards = {name: following * _size(guard.tasks, look) for name, guard in settings.gate.guards.items()}
    return {settings.environment: own, **of_guards}


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
            drawn(settings.seed)(name, 0, guard.tasks)
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


def _size(tasks: int, look: Look) -> int:
    """Tasks of a block: as many as the last look may need."""
    return tasks * 2 ** (look.of - 1)


def _first_own(settings: Settings, look: Look, block: int) -> int:
    """The place in the stream at which a block of the campaign's own begins."""
    tasks = settings.evaluate.tasks
    return 0 if block == 1 else (block - 1) * _size(tasks, look) + tasks  # the second is behind the unseen ones


def _blocks(take: Take, environment: str, tasks: int, look: Look, first: int = 0) -> tuple[tuple[Task, ...], ...]:
    # of one stretch, as long as the last look may need it: what an earlier look has is the beginning of what a later one has
    stretch = take(environment, first, _size(tasks, look))
    ends = [tasks * 2**doublings for doublings in range(look.number)]
    return tuple(stretch[first:end] for first, end in zip([0, *ends], ends, strict=False))
