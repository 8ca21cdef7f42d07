"""Overrides as words of the command line: `training.rank=32`."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from agentloop.errors import SettingError
from agentloop.settings.settings import Settings
from agentloop.settings.wording import one_line, shown


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """Return `["training.rank=32"]` as `{"training": {"rank": 32}}`. Raises SettingError where a word has no `=`."""
    pairs = []
    for text in overrides:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise SettingError(f"{one_line(text)}: an override is written name=value, for example training.rank=32")
        if not all(name.strip().split(".")):
            raise SettingError(f"{one_line(name)}: unknown setting")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise SettingError(f"{name.strip()}: {shown(value)} is not valid UTF-8") from None
        pairs.append((name.strip(), value.strip()))
    return _nested(pairs)


def _nested(pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, text in pairs:
        *sections, leaf = name.split(".")
        inner = values
        for section in sections:
            inner = inner.setdefault(section, {})
            if not isinstance(inner, dict):
                raise SettingError(f"{one_line(name)}: {section} is a single setting, not a section")
        if isinstance(inner.get(leaf), dict):
            raise SettingError(f"{name}: given as a whole, and {name}.{next(iter(inner[leaf]), '')} by itself")
        inner[leaf] = text if _takes_text(name) else _value(text)
    return values


def _takes_text(name: str) -> bool:
    """True for a setting that is a text, whatever it looks like: a campaign may be named 2026."""
    section: type[BaseModel] = Settings
    *sections, leaf = name.split(".")
    for part in sections:
        field = section.model_fields.get(part)
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return False
        section = field.annotation
    field = section.model_fields.get(leaf)
    return field is not None and field.annotation in (str, Path, Path | None)


def _value(text: str) -> Any:
    """A number, a boolean, a list or a table where the text is one in TOML, else the text itself."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    # a text of several lines may be a whole file, and what looks like a date is text
    return (
        parsed["value"] if len(parsed) == 1 and isinstance(parsed["value"], int | float | list | dict | str) else text
    )
