"""Checkpoints: one safetensors file that holds all a run needs to continue exactly.

Written to a temporary name, fsynced and renamed, so that a reader finds the old one or the new one, never a part.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from agentloop.errors import DiskError


def write(path: Path, tensors: dict[str, torch.Tensor], *, step: int) -> None:
    """Raises DiskError, naming the file, where it cannot be written."""
    temporary = path.with_suffix(".tmp")
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, metadata={"step": str(step)})
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise DiskError(f"{path}: {error}") from error


def read(path: Path) -> tuple[int, dict[str, torch.Tensor]] | None:
    """(optimizer steps done, tensors), or None where there is no checkpoint."""
    if not path.exists():
        return None
    with safe_open(path, framework="pt") as file:
        return int(file.metadata()["step"]), {name: file.get_tensor(name) for name in file.keys()}
