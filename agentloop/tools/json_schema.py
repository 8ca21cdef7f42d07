"""A tool's parameters as a JSON schema says them: what the prompt shows, and what a model is told of others."""

from __future__ import annotations

import inspect
import keyword
import re
from collections.abc import Mapping
from typing import Any

import jsonschema
from jsonschema.exceptions import best_match
from referencing import Registry

from agentloop.text import encodable, one_line_of
from agentloop.tools.tool import ToolError

_TYPES = {
    "string": "str",
    "integer": "int",
    "number": "float",
    "boolean": "bool",
    "null": "None",
    "array": "list",
    "object": "dict",
}
_DEPTH = 8
"""Of a type that is shown: schemas may refer to themselves."""


class SchemaArguments:
    """The parameters of one JSON schema: their signature, and how what a model passes is checked.

    Parameters come in the schema's order, those that must be given first. One that may be left out is shown with its default,
    or as `| None = None`, where None leaves it out.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        """Raises TypeError, naming the parameter, for what is no schema of an object, refers to other documents or has names
        that a call cannot be written with.
        """
        self._root = _usable(schema)
        kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
        try:
            kind.check_schema(self._root)
        except jsonschema.SchemaError as error:
            raise TypeError(f"its schema is none: {one_line_of(error.message, most=200)}") from None
        self._properties: dict[str, Any] = self._root.get("properties", {})
        required = [name for name in self._properties if name in self._root.get("required", ())]
        self._optional = [name for name in self._properties if name not in required]
        self._validator = kind(self._root, registry=Registry())  # an empty one: nothing is looked up on the network
        self.signature = inspect.Signature(
            [self._parameter(name) for name in [*required, *self._optional]], return_annotation=str
        )

    @property
    def notes(self) -> list[str]:
        """The schema's words about its parameters, a line each, in the signature's order."""
        said = ((name, _part(self._properties[name]).get("description")) for name in self.signature.parameters)
        return [f"{name}: {one_line_of(text)}" for name, text in said if text]

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments by name, as far as they are given. Raises ToolError, naming the one that does not fit."""
        try:
            given = dict(self.signature.bind(*args, **kwargs).arguments)
        except TypeError as error:
            raise ToolError(str(error)) from None
        for name in self._optional:
            if name in given and given[name] is None and not self._takes_none(name):
                del given[name]
        fault = best_match(self._validator.iter_errors(given))
        if fault is not None:
            raise ToolError(self._complaint(fault))
        return given

    def _takes_none(self, name: str) -> bool:
        return self._validator.evolve(schema=self._properties[name]).is_valid(None)

    def _parameter(self, name: str) -> inspect.Parameter:
        if not name.isidentifier() or keyword.iskeyword(name):
            raise TypeError(f"parameter {name!r}: no name that a call can be written with")
        shown = self._shown(self._properties[name])
        default: Any = inspect.Parameter.empty
        if name in self._optional:
            default = _part(self._properties[name]).get("default")
            if default is None and shown != "Any" and "None" not in shown.split(" | "):
                shown += " | None"
        return inspect.Parameter(
            name, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=_Shown(shown), default=default
        )

    def _shown(self, schema: Any, depth: int = 0) -> str:
        """The schema as an annotation is written; `'key'?` may be left out."""
        schema = _part(schema)
        if depth > _DEPTH:
            return "Any"
        if "$ref" in schema:
            return self._shown(self._referred(schema["$ref"]), depth + 1)
        if "const" in schema or "enum" in schema:
            values = schema["enum"] if "enum" in schema else [schema["const"]]
            return "None" if values == [None] else f"Literal[{', '.join(map(repr, values))}]"
        for choice in ("anyOf", "oneOf"):
            if choice in schema:
                return _union(self._shown(each, depth + 1) for each in schema[choice])
        if len(schema.get("allOf", ())) == 1 and "type" not in schema:
            return self._shown(schema["allOf"][0], depth + 1)
        types = schema.get("type", "object" if "properties" in schema else None)
        if isinstance(types, list):
            return _union(self._shown(schema | {"type": each}, depth + 1) for each in types)
        if types == "array" and "items" in schema:
            return f"list[{self._shown(schema['items'], depth + 1)}]"
        if types == "object" and schema.get("properties"):
            required = schema.get("required", ())
            fields = (
                f"{name!r}{'' if name in required else '?'}: {self._shown(each, depth + 1)}"
                for name, each in schema["properties"].items()
            )
            return f"{{{', '.join(fields)}}}"
        if types == "object" and isinstance(schema.get("additionalProperties"), Mapping):
            return f"dict[str, {self._shown(schema['additionalProperties'], depth + 1)}]"
        return _TYPES.get(types, "Any")

    def _referred(self, reference: str) -> Any:
        """The part of this schema that `#/…` names; one that names none stands for anything."""
        part: Any = self._root
        for step in reference.removeprefix("#").split("/")[1:]:
            step = step.replace("~1", "/").replace("~0", "~")
            part = part.get(step, {}) if isinstance(part, Mapping) else {}
        return part

    def _complaint(self, error: jsonschema.ValidationError) -> str:
        place = ".".join(map(str, error.absolute_path))
        if error.validator == "type":
            return f"{place} must be of type {self._shown({'type': error.validator_value})}"
        if error.validator == "enum":
            return f"{place} must be one of {', '.join(map(repr, error.validator_value))}"
        said = one_line_of(error.message, most=300)
        return f"{place}: {said}" if place else said


class _Shown:
    """An annotation that is shown as the text."""

    def __init__(self, text: str) -> None:
        self._text = encodable(text)

    def __repr__(self) -> str:
        return self._text


def _part(schema: Any) -> dict[str, Any]:
    """A schema's words; `true` has none."""
    return schema if isinstance(schema, dict) else {}


def _union(shown: Any) -> str:
    kinds = list(dict.fromkeys(shown))
    if "Any" in kinds:
        return "Any"
    return " | ".join(sorted(kinds, key=lambda kind: kind == "None"))  # stable: None comes last


def _usable(schema: Any) -> Any:
    """The schema without regular expressions that Python does not read: those are for the server to check.

    Raises TypeError for one that refers to another document.
    """
    if isinstance(schema, list):
        return [_usable(each) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    reference = schema.get("$ref")
    if isinstance(reference, str) and not reference.startswith("#"):
        raise TypeError(f"its schema refers to {one_line_of(reference, most=100)}, which is elsewhere")
    return {key: _usable(value) for key, value in schema.items() if key != "pattern" or _is_regular(value)}


def _is_regular(pattern: Any) -> bool:
    if not isinstance(pattern, str):
        return True  # a parameter named pattern
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True
