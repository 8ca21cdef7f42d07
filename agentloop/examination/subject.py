"""The subject of an examination: an environment with the tasks of it that are looked at."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

from agentloop import environments
from agentloop.environments import Environment, QuestionFile
from agentloop.records import Split, Task
from agentloop.settings import Settings
from agentloop.text import one_line_of

OF_A_FILE, MADE_UP = 10_000, 500
"""Tasks of a split that are looked at: of a file practically all, of a stream that may be endless these."""


@dataclass(frozen=True)
class Subject:
    """An environment, and the tasks of each split that are looked at."""

    settings: Settings
    environment: Environment
    train: tuple[Task, ...]
    heldout: tuple[Task, ...]
    complete: bool
    """True where the environment has no others."""

    @classmethod
    def of(cls, settings: Settings, most: int | None = None) -> Subject:
        """Draw the tasks. `most`: of each split. Raises SettingError, in one line, where the environment cannot be used."""
        environment = environments.get(settings.environment)
        most = most or (OF_A_FILE if isinstance(environment, QuestionFile) else MADE_UP)
        splits: tuple[Split, Split] = "train", "heldout"
        train, heldout = (tuple(islice(environment.stream(split, settings.seed), most + 1)) for split in splits)
        return cls(settings, environment, train[:most], heldout[:most], max(len(train), len(heldout)) <= most)

    @cached_property
    def tasks(self) -> tuple[Task, ...]:
        return self.train + self.heldout

    @property
    def by_outcome(self) -> bool:
        """Return True where the world, and not the answer alone, says how an episode went."""
        return not self.environment.plain and type(self.environment).score is not Environment.score

    @property
    def by_family(self) -> dict[str, Task]:
        """Return the first task of each family."""
        found: dict[str, Task] = {}
        for task in self.tasks:
            found.setdefault(task.family, task)
        return found

    def some(self, count: int) -> list[Task]:
        """Return so many tasks, or all where there are fewer, from everywhere among them."""
        step = max(1, len(self.tasks) // count)
        return list(self.tasks[::step][:count])

    def places(self, tasks: Iterable[Task]) -> list[str]:
        """Return where these tasks stand: file and line, else their questions."""
        tasks = list(tasks)
        found: dict[str, str] = {}
        if tasks and isinstance(self.environment, QuestionFile):
            found = self.environment.places({task.question for task in tasks})
        return [found.get(task.question, repr(one_line_of(task.question, most=60))) for task in tasks]
