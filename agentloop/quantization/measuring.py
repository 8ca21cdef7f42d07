"""Measure what quantisation does to a base, in a child process: the memory it takes of a card really returns."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentloop import child_log
from agentloop.child import ChildProcess
from agentloop.errors import ModelError, RoomError, TrainerError
from agentloop.files import atomic
from agentloop.naming import content_id
from agentloop.settings import Settings

NO_ROOM = "no room: "
"""What the process's last line begins with where it ran out of memory."""
NEW_TOKENS = 32
"""That the base says after each prompt, at most."""


@dataclass(frozen=True)
class Material:
    """What a base is measured on."""

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
    """`{"none", "nf4"}`, and "dynamic" with `in_16bit` or with a plan within `tolerance` (worker.py).

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
    name = content_id("quantization", request)
    file, log = settings.paths.checkpoints / f"{name}.json", settings.paths.logs / f"{name}.log"
    with atomic(file) as temporary:
        temporary.write_text(json.dumps(request), encoding="utf-8")
    command = [sys.executable, "-m", "agentloop.quantization.worker", str(file)]
    with ChildProcess(command, environment=settings.trainer_environment(), log=log, read_stdout=True) as child:
        output = child.stdout.read()
        code = child.wait(settings.training.stall_seconds)
    file.unlink(missing_ok=True)
    if code == 0:
        return json.loads(output)
    if line := child.told(NO_ROOM):
        raise RoomError(f"{line} (log: {log})")
    if line := child.told("error: "):
        raise ModelError(f"{line} (log: {log})")
    raise TrainerError(f"measuring the base {child_log.failure(code, child.said())} (log: {log})")
