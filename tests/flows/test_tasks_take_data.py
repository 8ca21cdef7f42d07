"""Tasks are given data alone: settings, plans, names. Nothing that lives in one process, so that another one can run them."""

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from prefect import Task
from pydantic import BaseModel

from agentloop_flows import steps, teach

TASKS = {
    f"{room.__name__}.{name}": task
    for room in (steps, teach)
    for name, task in vars(room).items()
    if isinstance(task, Task)
}
PLAIN = (str, int, float, bool, type(None), Path, typing.Any)


def live(kind, seen=frozenset()) -> list[str]:
    """The parts of a type that are no data."""
    if kind in PLAIN or kind in seen or isinstance(kind, typing.TypeVar):
        return []
    seen |= {kind}
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return []
    if origin is typing.Annotated:
        return live(arguments[0], seen)
    if origin in (typing.Union, types.UnionType, tuple, list, dict, set, frozenset, Sequence, Mapping):
        return [part for each in arguments if each is not Ellipsis for part in live(each, seen)]
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [part for field in kind.model_fields.values() for part in live(field.annotation, seen)]
    if dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen:
        return [part for field in typing.get_type_hints(kind).values() for part in live(field, seen)]
    return [repr(kind)]


@pytest.mark.parametrize("name", TASKS)
def test_parameters(name):
    hints = typing.get_type_hints(TASKS[name].fn)
    found = {parameter: live(kind) for parameter, kind in hints.items() if parameter != "return"}
    assert {parameter: parts for parameter, parts in found.items() if parts} == {}
    assert hints and live(hints["return"]) == [], "and so are results"


def test_what_lives_in_a_process_is_seen():
    from agentloop.campaign.campaign import Campaign
    from agentloop.serving.policy_server import PolicyServer

    assert live(Campaign) and live(PolicyServer)
    assert len(TASKS) >= 14
