"""Functions as tools: signatures are read when the tool is made, or refused then."""

import datetime
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Optional

import pytest
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from agentloop.tools import FunctionTool, ToolError


class Person(BaseModel):
    name: str
    age: int | None = None


@dataclass
class Point:
    x: float
    y: float = 0.0


class Options(TypedDict, total=False):
    deep: bool


def scale(value: float, by: int = 2) -> str:
    """Value times by."""
    if by < 0:
        raise ValueError("by must not be negative")
    return str(value * by)


def test_a_function_as_a_tool():
    tool = FunctionTool(scale)
    assert (tool.name, tool.description, str(tool.signature)) == (
        "scale",
        "Value times by.",
        "(value: float, by: int = 2) -> str",
    )
    assert tool.call(3) == "6.0" and tool.call(1.5, by=3) == "4.5"


@pytest.mark.parametrize(
    "args, kwargs, complaint",
    [
        (("3",), {}, "value must be of type float"),
        ((True,), {}, "value must be of type float"),
        ((1,), {"by": 2.0}, "by must be of type int"),
        ((1,), {"by": -1}, "by must not be negative"),
        ((), {}, "missing a required argument: 'value'"),
        ((1, 2, 3), {}, "too many positional arguments"),
        ((), {"self": 1}, "missing a required argument: 'value'"),
        ((1,), {"self": 1}, "got an unexpected keyword argument 'self'"),
        ((1,), {"value": 1}, "multiple values for argument 'value'"),
        ((10**400,), {}, "value must be of type float"),
    ],
)
def test_a_wrong_call_is_a_complaint(args, kwargs, complaint):
    with pytest.raises(ToolError, match=f"^{complaint}$"):
        FunctionTool(scale).call(*args, **kwargs)


ACCEPTED = [
    (int | None, [1, None], ["1", 1.5]),
    (Optional[int], [None, 2], [True]),  # noqa: UP045
    (Literal["a", 1], ["a", 1], ["b", None]),
    (Any, [None, [1], {"a": {}}], []),
    (list[int], [[], [1, 2]], [[1, "2"], {"a": 1}, 1]),
    (dict[str, list[float]], [{}, {"a": [1, 2.5]}], [{"a": 1}]),
    (tuple[int, str], [[1, "a"]], [[1], ["a", 1]]),
    (set[str], [["a", "b"]], ["a"]),
    (Person, [{"name": "Ada"}, {"name": "Ada", "age": 36}], [{"age": 1}, "Ada", {"name": 1}]),
    (list[Person], [[{"name": "Ada"}]], [[{}]]),
    (Point, [{"x": 1}], [{"y": 1}]),
    (Options, [{}, {"deep": True}], [{"deep": 1}]),
    (datetime.date, ["2026-11-28"], ["yesterday", 5]),
    (str | int, ["a", 1], [None, 1.5]),
    (Annotated[int, Field(ge=1)], [1], [0]),
    (bytes, ["a"], [1]),
]


@pytest.mark.parametrize("annotation, right, wrong", ACCEPTED, ids=lambda value: getattr(value, "__name__", None))
def test_annotations_are_read_as_pydantic_reads_json(annotation, right, wrong):
    def take(value) -> str:
        """Takes one."""
        return "taken"

    take.__annotations__["value"] = annotation
    tool = FunctionTool(take)
    for value in right:
        assert tool.call(value) == tool.call(value=value) == "taken", value
    for value in wrong:
        with pytest.raises(ToolError, match="^value"):
            tool.call(value)


def test_defaults_of_none_may_be_passed():
    def look(place: str = None, deep: bool = False) -> str:
        """Looks."""
        return f"{place} {deep}"

    tool = FunctionTool(look)
    assert tool.call() == tool.call(None) == tool.call(place=None) == "None False"
    with pytest.raises(ToolError, match="^place must be of type str$"):
        tool.call(1)


def test_models_arrive_as_models_and_async_functions_are_awaited():
    async def greet(person: Person, at: datetime.date | None = None, /, *, loud: bool = False) -> str:
        """Greets."""
        return f"{person.name} {at and at.year} {loud}"

    assert FunctionTool(greet).call({"name": "Ada"}, "2026-11-28", loud=True) == "Ada 2026 True"


def refused(function: Callable) -> str:
    with pytest.raises(TypeError) as raised:
        FunctionTool(function)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_what_a_model_cannot_fill_is_refused_when_the_tool_is_made():
    def bare(value):
        """Takes one."""

    def variadic(*values: int):
        """Takes many."""

    def options(**options: int):
        """Takes all."""

    def function(each: Callable[[int], int]):
        """Takes a function."""

    def opaque(thing: "FunctionTool"):
        """Takes an object."""

    def unknown(thing: "Nowhere"):  # noqa: F821
        """Takes something that is not defined."""

    def undescribed(value: int):
        pass

    assert refused(bare) == "tool bare: parameter value: needs an annotation (Any, where anything will do)"
    assert refused(variadic) == "tool variadic: parameter *values: int: a model needs named parameters"
    assert refused(options).startswith("tool options: parameter **options: int: a model needs named parameters")
    assert refused(function).startswith("tool function: parameter each: ")
    assert refused(opaque).startswith("tool opaque: parameter thing: FunctionTool cannot be read from JSON (")
    assert refused(unknown) == "tool unknown: name 'Nowhere' is not defined"
    assert refused(undescribed) == "tool undescribed: needs a docstring for the model"
