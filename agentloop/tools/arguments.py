"""A tool's parameters as pydantic reads them: what a model may pass, and what it is told where it passes something else."""

from __future__ import annotations

import inspect
import json
import warnings
from typing import Any

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from agentloop.tools.tool import ToolError

_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_PLAIN = (str, int, float, bool)


class Arguments:
    """The parameters of one signature, and how what a model passes is read.

    Values come as JSON, so pydantic reads them as it reads JSON, strictly: no text counts as a number, an int is a float, an
    object is a nested model, an ISO text a date.
    """

    def __init__(self, signature: inspect.Signature) -> None:
        """Raises TypeError, naming the parameter, for `*args`, `**kwargs`, one without an annotation and one of a type that
        JSON cannot hold.
        """
        self.signature = signature
        self._readers: dict[str, TypeAdapter] = {}
        for name, parameter in signature.parameters.items():
            if parameter.kind in _VARIADIC:
                raise TypeError(f"parameter {parameter}: a model needs named parameters")
            if parameter.annotation is inspect.Parameter.empty:
                raise TypeError(f"parameter {name}: needs an annotation (Any, where anything will do)")
            annotation = parameter.annotation
            if parameter.default is None:
                annotation = annotation | None if annotation is not Any else Any
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    self._readers[name] = _reader(annotation)
            except (PydanticUserError, TypeError, NameError, ValueError, RecursionError) as error:
                reason = str(error).splitlines()[0]
                raise TypeError(f"parameter {name}: {_named(annotation)} cannot be read from JSON ({reason})") from None

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> inspect.BoundArguments:
        """Return the arguments as Python values, defaults filled in. Raises ToolError, naming the one that does not fit."""
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise ToolError(str(error)) from None
        for name, value in bound.arguments.items():
            bound.arguments[name] = self._read(name, value)
        bound.apply_defaults()
        return bound

    def _read(self, name: str, value: Any) -> Any:
        annotation = self.signature.parameters[name].annotation
        try:
            return self._readers[name].validate_json(json.dumps(value), strict=True)
        except ValidationError as error:
            if annotation in _PLAIN:
                raise ToolError(f"{name} must be of type {annotation.__name__}") from None
            raise ToolError(f"{name}: {_complaint(error)}") from None
        except (ValueError, TypeError, RecursionError):  # a number that JSON does not write, nesting without end
            raise ToolError(f"{name} must be a JSON value") from None


def _reader(annotation: Any) -> TypeAdapter:
    try:
        # JSON has integers that are too large for a float, which would then be infinite
        reader = TypeAdapter(annotation, config=ConfigDict(allow_inf_nan=False))
    except PydanticUserError as error:
        if error.code != "type-adapter-config-unused":
            raise
        reader = TypeAdapter(annotation)  # a model has a configuration of its own
    reader.json_schema()  # a function, say, can be checked but never be written as JSON
    return reader


def _named(annotation: Any) -> str:
    return getattr(annotation, "__name__", None) or str(annotation)


def _complaint(error: ValidationError) -> str:
    """The first fault with its place: `city.name: Field required`."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else first["msg"]
