"""Measure what quantisation does to a base, in a child process: the memory it takes of a card really returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentloop import job
from agentloop.settings import Settings

NEW_TOKENS = 32
"""That the base says after each prompt, at most."""


@dataclass(frozen=True)
class Material:
    """Token rows that a base is measured on."""

    prompts: Sequence[Sequence[int]]
    """Token ids of opening prompts, which the base in 16 bit continues."""
    sequences: Sequence[tuple[Sequence[int], Sequence[bool]]] = ()
    """Stored trajectories, (token_ids, mask)."""
    stop: Sequence[int] = ()
    """Token ids that end a turn."""


def measure(
    settings: Settings,
    model: Path,
    material: Material,
    *,
    in_16bit: Sequence[str] | None = None,
    tolerance: float | None = None,
    most_bytes: int | None = None,
    total_bytes: int | None = None,
) -> dict[str, Any]:
    """`{"none", "nf4"}`, and "dynamic" with `in_16bit` or with a plan within `tolerance` (measuring_worker.py).

    `most_bytes`: what the plan may take beyond NF4; `total_bytes`: what the language model's weights may take in all.

    Raises ModelError with the process's own line, RoomError where it ran out of memory, TrainerError where it died.
    """
    request = {
        "model": str(model),
        "cache": str(settings.paths.cache),
        "prompts": [list(map(int, ids)) for ids in material.prompts],
        "sequences": [[list(map(int, ids)), list(map(bool, mask))] for ids, mask in material.sequences],
        "stop": list(map(int, material.stop)),
        "new_tokens": NEW_TOKENS,
        "in_16bit": None if in_16bit is None else list(in_16bit),
        "tolerance": tolerance,
        "most_bytes": most_bytes,
        "total_bytes": total_bytes,
    }
    return job.run(
        "agentloop.quantization.measuring_worker", request, settings, name="quantization", what="measuring the base"
    )
