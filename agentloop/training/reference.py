"""What the trainer's own forward says of a few prompts, with and without the adapter: the canary's yardstick.

Written beside the adapter's weights when it is saved, so that whoever serves the adapter, wherever, can check that what is
served is what was trained.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agentloop.errors import AdapterError

FILE = "reference.json"
PROMPTS = 8
MAX_TOKENS = 256


@dataclass(frozen=True)
class Reference:
    token_ids: tuple[int, ...]
    base: tuple[float, ...]
    """Log probability of each token given its prefix, without the adapter. [tokens - 1]"""
    adapted: tuple[float, ...]
    """The same with the adapter."""


def write(directory: Path, model: Any, sequences: Sequence[tuple[Sequence[int], Sequence[bool]]]) -> None:
    """Compute and store the logprobs of the first sequences with the trained model (engine.Gemma3n)."""
    prompts = [tuple(ids[:MAX_TOKENS]) for ids, _ in sequences[:PROMPTS]]
    references = [
        Reference(ids, *(tuple(model.logprobs(ids, adapter=on).tolist()) for on in (False, True))) for ids in prompts
    ]
    (directory / FILE).write_text(json.dumps([asdict(reference) for reference in references]))


def read(directory: Path) -> list[Reference]:
    """Raises AdapterError where the adapter has none."""
    file = directory / FILE
    if not file.is_file():
        raise AdapterError(f"{directory}: no {FILE}; the trainer writes it when it saves an adapter")
    return [
        Reference(tuple(row["token_ids"]), tuple(row["base"]), tuple(row["adapted"]))
        for row in json.loads(file.read_text())
    ]
