"""Suites: the held-out tasks that champion and challenger meet on, those of the campaign itself and those of its guards."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from agentloop import environments
from agentloop.errors import SettingError
from agentloop.evaluation.looks import Look
from agentloop.records import Task
from agentloop.settings import Settings

HELDOUT = "heldout"
"""Name of the campaign's own suite; a guard's is that of its environment."""


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
    """The campaign's own suite. Raises SettingError where the environment does not have so many tasks."""
    evaluate = settings.evaluate
    return Suite(HELDOUT, _blocks(settings.environment, evaluate.tasks, look, settings.seed), evaluate.samples)


def guards(settings: Settings, look: Look) -> list[Suite]:
    """The suites of the guards, which grow with the looks as the campaign's own does."""
    return [
        Suite(name, _blocks(name, guard.tasks, look, settings.seed), guard.samples)
        for name, guard in settings.gate.guards.items()
    ]


def check_guards(settings: Settings) -> None:
    """Raises SettingError for a guard that is no environment or the campaign's own one."""
    own = environments.get(settings.environment).name
    for name in settings.gate.guards:
        try:
            guard = environments.get(name)
        except SettingError as error:
            raise SettingError(f"gate.guards: {str(error).removeprefix('environment: ')}") from None
        if guard.name == own:
            raise SettingError(f"gate.guards: {name} is the campaign's own environment, which the gate judges anyway")


def _blocks(environment: str, tasks: int, look: Look, seed: int) -> tuple[tuple[Task, ...], ...]:
    # an environment's stream does not depend on how much is taken from it: that of an earlier look is its beginning
    stream = _stream(environment, tasks * look.scale, seed)
    ends = [tasks * 2**doublings for doublings in range(look.number)]
    return tuple(stream[first:end] for first, end in zip([0, *ends], ends, strict=False))


@cache
def _stream(environment: str, count: int, seed: int) -> tuple[Task, ...]:
    return tuple(environments.get(environment).tasks("heldout", count, seed))
