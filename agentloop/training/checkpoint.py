"""Checkpoints: one safetensors file that holds all a run needs to continue exactly."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from agentloop.files import atomic


def write(path: Path, tensors: dict[str, torch.Tensor], *, step: int) -> None:
    """Raises DiskError, naming the file, where it cannot be written."""
    with atomic(path) as temporary:
        save_file(
            {name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, metadata={"step": str(step)}
        )


def read(path: Path) -> tuple[int, dict[str, torch.Tensor]] | None:
    """(optimizer steps done, tensors), or None where there is no checkpoint, or a broken one: the run starts again."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            return int(file.metadata()["step"]), {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, TypeError, KeyError, ValueError) as fault:  # TypeError: no metadata
        print(f"{path}: not to be read ({fault}); training starts again", file=sys.stderr)
        return None
