"""The parameters of the flows: what Prefect's UI makes a form of, and checks before a run begins.

The few that are changed most have a name of their own; `overrides` has every setting. What is not given is as the profile,
agentloop.toml and the defaults say.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import GetJsonSchemaHandler, WithJsonSchema
from pydantic.fields import FieldInfo

from agentloop import settings as configuration
from agentloop.settings import Settings, sections
from agentloop.settings.loading import PROFILES
from agentloop.settings.values import RANKS

NAMES = {
    **{name: name for name in ("campaign", "model", "environment", "iterations", "seed")},
    **{name: f"collect.{name}" for name in ("tasks", "samples")},
    **{name: f"training.{name}" for name in ("quantization", "rank", "learning_rate", "epochs")},
}
"""Parameters of their own, and the settings that they are."""


@dataclass(frozen=True)
class Described:
    """A parameter's description for the form. Of pydantic's own, Prefect takes only what the flow's docstring says."""

    text: str

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return handler(schema) | {"description": self.text}


def _descriptions(kind: type) -> dict[str, str]:
    """Field -> the text below it in the source."""
    [body] = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(body, ast.ClassDef)
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in zip(body.body, body.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
    }


def _form() -> dict[str, Any]:
    """The JSON schema of settings of which none has to be given."""
    whole = Settings.model_json_schema()
    kinds = {"Settings": Settings, **{name: getattr(sections, name) for name in whole["$defs"]}}

    def resolved(schema: Any) -> Any:
        if isinstance(schema, list):
            return [resolved(each) for each in schema]
        if not isinstance(schema, dict):
            return schema
        if "$ref" in schema:
            name = schema["$ref"].removeprefix("#/$defs/")
            return section(whole["$defs"][name], kinds[name])
        return {key: resolved(value) for key, value in schema.items()}

    def section(schema: Mapping[str, Any], kind: type) -> dict[str, Any]:
        described = _descriptions(kind)
        properties: dict[str, Any] = {}
        for name, field in schema["properties"].items():
            # a default would be sent with the form, and would count more than the profile's value
            shown = {key: value for key, value in resolved(field).items() if key != "default"}
            about = described.get(name, shown.get("description", ""))
            if "properties" not in shown:
                about = f"{about} Default: {field.get('default')}"
            properties[name] = shown | {"title": name, "description": about, "position": len(properties)}
        return {"type": "object", "title": kind.__name__, "properties": properties, "additionalProperties": False}

    return section(whole, Settings)


def _settings() -> Iterator[tuple[str, FieldInfo, str]]:
    """Name with dots, field, description."""
    for name, described in _descriptions(Settings).items():
        yield name, Settings.model_fields[name], described
    for kind in sections.Section.__subclasses__():
        for name, described in _descriptions(kind).items():
            yield f"{kind.__name__.lower()}.{name}", kind.model_fields[name], described


_DESCRIBED = {name: (field, described) for name, field, described in _settings()}


def _like(parameter: str, kind: Any = None) -> Any:
    """The type of a setting, or None where it is not given, with its limits and its description."""
    setting = NAMES[parameter]
    field, described = _DESCRIBED[setting]
    if kind is None:
        kind = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    return Annotated[kind | None, Described(f"{described} ({setting})")]


_SHIPPED = tuple(sorted(file.stem for file in PROFILES.glob("*.toml")))
Profile = Annotated[
    Literal[_SHIPPED] | None,  # type: ignore[valid-type]
    Described("Settings for a kind of machine; agentloop.toml and everything that is given here count more."),
]
Campaign = _like("campaign")
Model = _like("model")
Environment = _like("environment")
Iterations = _like("iterations")
Seed = _like("seed")
Tasks = _like("tasks")
Samples = _like("samples")
Rank = _like("rank", Literal[RANKS])
Quantization = _like("quantization")
LearningRate = _like("learning_rate")
Epochs = _like("epochs")
Overrides = Annotated[
    dict[str, Any] | None,
    WithJsonSchema(_form() | {"description": "Any other setting, by section, as in agentloop.toml."}),
]
"""Values are checked by `load`, which names what is wrong in one line."""


def load(profile: str | None, overrides: Mapping[str, Any] | None, **given: Any) -> Settings:
    """The settings that a flow's parameters say: `overrides`, and over them what has a name of its own (`NAMES`).

    Raises SettingError.
    """
    nested = dict(overrides or {})
    for name, value in given.items():
        if value is not None:
            *path, field = NAMES[name].split(".")
            place = nested
            for step in path:
                place[step] = place = dict(place.get(step) or {})
            place[field] = value
    return configuration.load(nested, profile=profile)
