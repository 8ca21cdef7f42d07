"""Options in an environment's name, which follow after commas: `reasoning-gym:chain_sum,min_terms=3`."""

from __future__ import annotations

from typing import Any

from agentloop.errors import SettingError
from agentloop.text import one_line_of


def option(name: str, word: str, example: str, *, dots: bool = False) -> tuple[str, Any]:
    """Return an option's name and its value: a number, true, false, or a text.

    `name`: the environment's, and `example` an option as it is written, for the message. `dots`: the option's name may be
    several, joined by dots. Raises SettingError for what is no option.
    """
    known, equals, text = word.partition("=")
    if not equals or not all(part.isidentifier() for part in (known.split(".") if dots else [known])):
        raise SettingError(f"environment: {name}: {one_line_of(word, most=60)!r} is no option; write it as {example}")
    for kind in (int, float):
        try:
            return known, kind(text)
        except ValueError:
            continue
    return known, {"true": True, "false": False}.get(text, text)
