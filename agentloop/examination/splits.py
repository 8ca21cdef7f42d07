"""The splits: what there is to train on, what is held out, and whether the one is nearly the other."""

from __future__ import annotations

from collections import Counter

from agentloop.campaign import suites
from agentloop.curation import contamination
from agentloop.errors import SettingError
from agentloop.examination.part import NAMED, Part, named
from agentloop.examination.subject import Subject

COMPARED = 1000
"""Training and held-out tasks whose questions are compared: with what questions of one template share, cost grows as their
product."""
TOLERATED = 0.01
"""Share of the training tasks that may nearly be held-out ones: of a generator's that is chance, and they are left out."""
_FAMILIES = 20


def examine(subject: Subject) -> Part:
    """Count the tasks, and compare training questions with held-out ones."""
    train, heldout = (Counter(task.family for task in tasks) for tasks in (subject.train, subject.heldout))
    more = "" if subject.complete else " at least (there may be more)"
    lines = [f"{len(subject.train):,} to train on, {len(subject.heldout):,} held out{more}"]
    families = sorted(train | heldout)
    if len(families) > 1:
        lines += [f"  {family}: {train[family]:,} and {heldout[family]:,}" for family in families[:_FAMILIES]]
        if len(families) > _FAMILIES:
            lines.append(f"  and {len(families) - _FAMILIES:,} families more")
    faults = _too_few(subject)
    if subject.complete:
        for name, one, other in (("train on", train, heldout), ("hold out", heldout, train)):
            if lacking := [family for family in families if not one[family] and other[family] > NAMED]:
                lines.append(f"  families without a task to {name}: {named(lacking)}")
    nearly_lines, nearly = _nearly(subject)
    return Part("Splits", (*lines, *nearly_lines), (*faults, *nearly))


def _too_few(subject: Subject) -> list[str]:
    """What a run would be refused for."""
    faults = []
    for check in (suites.planned_looks, suites.check_training_tasks):
        try:
            check(subject.settings)
        except SettingError as error:
            faults.append(str(error))
    return faults


def _nearly(subject: Subject) -> tuple[list[str], list[str]]:
    train = {task.id: task for task in subject.train[:COMPARED]}
    heldout = {task.id: task for task in subject.heldout[:COMPARED]}
    if not train or not heldout:
        return [], []
    found = contamination.between(
        {name: task.question for name, task in train.items()},
        {name: task.question for name, task in heldout.items()},
        {name: task.family for name, task in heldout.items()},
    )
    line = (
        f"training questions that nearly are a held-out one ({contamination.SHARE:.0%} of their runs of 13 words): "
        f"{len(found):,} of {len(train):,}, compared with {len(heldout):,}"
    )
    if len(found) <= TOLERATED * len(train):
        return [line], []
    pairs = [
        " is nearly ".join(subject.places([train[task], heldout[other]])) for task, other in list(found.items())[:NAMED]
    ]
    more = f" and {len(found) - NAMED:,} more" if len(found) > NAMED else ""
    return [line], [f"{len(found):,} training questions are nearly held-out ones: {'; '.join(pairs)}{more}"]
