"""A proof on disk: one JSON file for each part as it is measured, then all of them in one file.

A part that is there is not measured again, so the same command continues after an interrupt. What the figures depend on
(machine, software, model, settings) is written first; parts of anything else are not mixed with it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agentloop.errors import SettingError
from agentloop.files import atomic
from agentloop.proof.sizes import Sizes
from agentloop.reading import read_object

FORMAT = 1
"""Of proof.json; raise it when a figure changes its meaning."""
PARTS = ("training", "serving", "restart", "sleep", "campaign")
"""Measured in this order; `sleep` on a card alone."""
_SUBJECT = ("machine", "software", "model", "settings")


class Proof:
    """The files of one proof, in a directory of its own."""

    def __init__(self, directory: Path, subject: Mapping[str, Any], sizes: Sizes) -> None:
        """`subject`: what machine.describe gives. Raises SettingError where the directory holds a proof of another one."""
        self.directory = directory
        self._begun = json.loads(json.dumps({**subject, "sizes": asdict(sizes)}))
        file = self._part("subject")
        if not file.exists():
            _write(file, self._begun)
            return
        found = read_object(file, SettingError)
        if names := differing(found, self._begun):
            raise SettingError(
                f"--output: {directory} holds a proof that differs in {names[0]} ({_shown(at(found, names[0]))} there, "
                f"{_shown(at(self._begun, names[0]))} now); name another directory, or remove that one"
            )

    @property
    def data(self) -> Path:
        """The data root of everything that is run for the proof."""
        return self.directory / "data"

    def part(self, name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return what was measured, or measure it now."""
        file = self._part(name)
        if file.exists():
            return read_object(file, SettingError)
        measured = measure()
        _write(file, measured)
        return measured

    def has(self, name: str) -> bool:
        return self._part(name).exists()

    def write(self) -> dict[str, Any]:
        """Put the parts that there are into proof.json, and return that. The date is that of the first writing."""
        file = proof_file(self.directory)
        made = read_object(file, SettingError)["made"] if file.exists() else f"{datetime.now(UTC):%Y-%m-%d}"
        parts = {name: read_object(self._part(name), SettingError) if self.has(name) else None for name in PARTS}
        whole = {"format": FORMAT, "made": made, **self._begun, **parts}
        _write(file, whole)
        return whole

    def _part(self, name: str) -> Path:
        return self.directory / "parts" / f"{name}.json"


def proof_file(directory: Path) -> Path:
    return directory / "proof.json"


def read(file: Path) -> dict[str, Any]:
    """A proof that was written here or elsewhere. Raises SettingError, naming the file, where it is none."""
    found = read_object(file, SettingError)
    if found.get("format") != FORMAT:
        raise SettingError(f"{file}: not a proof of format {FORMAT}, as this version writes it")
    lacking = [name for name in ("made", *_SUBJECT, "sizes", *PARTS) if name not in found]
    if lacking:
        raise SettingError(f"{file}: a proof without {lacking[0]}")
    return found


def at(proof: Mapping[str, Any], place: str) -> Any:
    """The value at a dotted place; None where nothing was measured."""
    found: Any = proof
    for part in place.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def differing(one: Any, other: Any, name: str = "") -> list[str]:
    """Dotted names of the values in which two JSON values differ."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return [
            place
            for key in dict.fromkeys((*one, *other))
            for place in differing(one.get(key), other.get(key), f"{name}.{key}" if name else key)
        ]
    return [] if one == other else [name]


def _write(file: Path, value: Mapping[str, Any]) -> None:
    with atomic(file) as temporary:
        temporary.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _shown(value: Any, most: int = 80) -> str:
    text = json.dumps(value)
    return text if len(text) <= most else f"{text[:most]}…"
