"""Held-out tasks in the order in which a campaign takes them, each once.

They are drawn from the environment chapter by chapter, for a stream that is drawn from its beginning takes longer every night.
What a campaign has taken is noted: it stays as it is, and the next ones are others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from itertools import islice

from agentloop import environments
from agentloop.environments import TooFewTasks
from agentloop.environments.environment import too_few
from agentloop.records import Task
from agentloop.store import heldout_tasks, tasks
from agentloop.store.database import Database

Take = Callable[[str, int, int], tuple[Task, ...]]
"""Returns the held-out tasks of the environment that a setting names so: from which place on, counted from 0, and how many.

Raises TooFewTasks, with the number of all that there are, where there are not as many.
"""


def drawn(seed: int) -> Take:
    """Return the order that this seed gives, as long as nothing is noted."""

    def take(environment: str, first: int, count: int) -> tuple[Task, ...]:
        return _drawn(environment, seed, first, count)

    return take


def noted(database: Database, campaign: str, seed: int) -> Take:
    """Return the campaign's own order: what is noted, then what this seed gives. `database` stays open meanwhile."""

    def take(environment: str, first: int, count: int) -> tuple[Task, ...]:
        name = environments.get(environment).name
        found = heldout_tasks.load(database, campaign, name, first, count)
        if len(found) == count:
            return tuple(found)
        known = tuple(heldout_tasks.ids(database, campaign, name))
        if not known:
            return _drawn(environment, seed, first, count)
        new = _continued(environment, seed, known, first + count)
        _refuse_too_few(name, len(known) + len(new), first + count)
        return (*found, *new[max(0, first - len(known)) :])

    return take


def note(database: Database, campaign: str, seed: int, ends: Mapping[str, int]) -> int:
    """Note the tasks of each environment up to this place, as far as there are any, and make them known.

    Returns how many of them no campaign has known before.
    """
    take, unknown = noted(database, campaign, seed), 0
    for environment, end in ends.items():
        name = environments.get(environment).name
        first = heldout_tasks.count(database, campaign, name)
        new = at_most(take, environment, first, end - first)
        with database.transaction():
            unknown += tasks.save(database, new)
            heldout_tasks.append(database, campaign, name, first, new)
    return unknown


def at_most(take: Take, environment: str, first: int, count: int) -> tuple[Task, ...]:
    """Return as many of these tasks as there are."""
    try:
        return take(environment, first, max(0, count))
    except TooFewTasks as error:
        return take(environment, first, max(0, error.available - first))


def _drawn(environment: str, seed: int, first: int, count: int) -> tuple[Task, ...]:
    found = _continued(environment, seed, (), first + count)
    _refuse_too_few(environments.get(environment).name, len(found), first + count)
    return found[first:]


@lru_cache(maxsize=16)
def _continued(environment: str, seed: int, known: tuple[str, ...], end: int) -> tuple[Task, ...]:
    """Return the tasks behind those with the known ids, up to the place `end`; fewer where there are no more."""
    source, ids, found = environments.get(environment), set(known), []
    while (place := len(ids)) < end:
        chapter = place // source.chapter
        wanted = min(end, (chapter + 1) * source.chapter) - place
        stream = (task for task in source.stream("heldout", seed, chapter) if task.id not in ids)
        new = list(islice(stream, wanted))
        found += new
        ids.update(task.id for task in new)
        if len(new) < wanted:
            break
    return tuple(found)


def _refuse_too_few(name: str, available: int, needed: int) -> None:
    if available < needed:
        raise too_few(name, "heldout", available, needed)
