"""JSON schemas as servers write them: shown as annotations, checked, and refused where a call could not be written."""

import pytest

from agentloop.tools import ToolError
from agentloop.tools.json_schema import SchemaArguments


def of(required=(), defs=None, **properties) -> SchemaArguments:
    return SchemaArguments(
        {"type": "object", "properties": properties, "required": list(required), "$defs": defs or {}}
    )


@pytest.mark.parametrize(
    "schema, shown",
    [
        ({"type": "string", "format": "date"}, "str"),
        ({"type": "number"}, "float"),
        ({}, "Any"),
        (True, "Any"),
        ({"enum": ["a", 1, None]}, "Literal['a', 1, None]"),
        ({"const": "a"}, "Literal['a']"),
        ({"type": ["null", "integer"]}, "int | None"),
        ({"anyOf": [{"type": "null"}, {"type": "string"}, {"type": "string", "maxLength": 3}]}, "str | None"),
        ({"oneOf": [{"type": "integer"}, {"type": "array", "items": {"type": "boolean"}}]}, "int | list[bool]"),
        ({"anyOf": [{"type": "integer"}, {}]}, "Any"),
        ({"type": "array"}, "list"),
        ({"type": "object"}, "dict"),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, "dict[str, int]"),
        ({"properties": {"x": {"type": "number"}, "y": {}}, "required": ["x"]}, "{'x': float, 'y'?: Any}"),
        ({"allOf": [{"$ref": "#/$defs/Unit"}], "default": "m"}, "Literal['m', 'ft']"),
        ({"$ref": "#/$defs/none"}, "Any"),
    ],
)
def test_a_type_is_shown_as_an_annotation(schema, shown):
    arguments = of(["a"], {"Unit": {"type": "string", "enum": ["m", "ft"]}}, a=schema)
    assert str(arguments.signature) == f"(a: {shown}) -> str"


def test_what_must_be_given_comes_first_and_the_rest_has_defaults():
    arguments = of(["b"], a={"type": "integer", "default": 3}, b={"type": "string"}, c={"type": "string"}, d={})
    assert str(arguments.signature) == "(b: str, a: int = 3, c: str | None = None, d: Any = None) -> str"
    assert arguments.bind(("x",), {}) == {"b": "x"}  # the server fills its defaults in
    assert arguments.bind(("x", 1, None), {}) == {"b": "x", "a": 1}
    assert arguments.bind(("x",), {"d": None}) == {"b": "x", "d": None}
    with pytest.raises(ToolError, match="^missing a required argument: 'b'$"):
        arguments.bind((), {"a": 1})


def test_a_schema_that_refers_to_itself_ends():
    tree = {"type": "object", "properties": {"child": {"$ref": "#/$defs/Tree"}, "n": {"type": "integer"}}}
    arguments = of(["tree"], {"Tree": tree}, tree={"$ref": "#/$defs/Tree"})
    assert "Any" in str(arguments.signature)
    assert arguments.bind(({"child": {"child": {"n": 1}}},), {})
    with pytest.raises(ToolError, match=r"^tree.child.child.n must be of type int$"):
        arguments.bind(({"child": {"child": {"n": "1"}}},), {})


@pytest.mark.parametrize(
    "schema, value, complaint",
    [
        ({"type": "integer", "minimum": 1}, 0, "a: 0 is less than the minimum of 1"),
        ({"type": ["string", "null"]}, 1, "a must be of type str | None"),
        ({"type": "string", "pattern": "^[a-z]+$"}, "A", "a: 'A' does not match '^[a-z]+$'"),
        ({"enum": [1, 2]}, 3, "a must be one of 1, 2"),
        ({"type": "object", "properties": {}, "additionalProperties": False}, {"b": 1}, "a: Additional properties are not allowed"),
    ],
)  # fmt: skip
def test_a_value_that_does_not_fit_is_named(schema, value, complaint):
    with pytest.raises(ToolError) as raised:
        of(["a"], a=schema).bind((value,), {})
    assert str(raised.value).startswith(complaint)


def test_a_pattern_of_another_language_is_left_to_the_server():
    assert of(["a"], a={"type": "string", "pattern": r"^\p{L}+$"}).bind(("Ä",), {}) == {"a": "Ä"}
    assert of(["pattern"], pattern={"type": "string"}).bind(("[",), {}) == {"pattern": "["}


@pytest.mark.parametrize(
    "properties, complaint",
    [
        ({"file-path": {"type": "string"}}, "parameter 'file-path': no name that a call can be written with"),
        ({"from": {"type": "string"}}, "parameter 'from': no name that a call can be written with"),
        ({"a": {"type": "text"}}, "its schema is none: 'text' is not valid under any of the given schemas"),
        (
            {"a": {"$ref": "http://127.0.0.1:9/a.json"}},
            "its schema refers to http://127.0.0.1:9/a.json, which is elsewhere",
        ),
    ],
)
def test_what_cannot_be_used_is_refused(properties, complaint):
    with pytest.raises(TypeError) as raised:
        of(**properties)
    assert str(raised.value) == complaint


def test_notes_on_parameters():
    arguments = of(
        ["b"], a={"type": "string", "description": "where\nto go"}, b={"type": "string", "description": "who"}
    )
    assert arguments.notes == ["b: who", "a: where to go"]
