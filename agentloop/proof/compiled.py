"""What was compiled and quantised before: cleared, so that a figure holds what somebody pays who begins."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from agentloop.settings import Settings

TRAINERS = ("TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")
VLLMS = ("VLLM_CACHE_ROOT", "TORCHINDUCTOR_CACHE_DIR")
"""Variables that name the caches. Triton's holds the trainer's kernels, and whoever swaps an adapter has them already."""


def clear(settings: Settings, variables: tuple[str, ...]) -> bool:
    """Empty these caches. Return False where one of them is the user's own, and is left as it is."""
    folders = [Path(os.environ[name]) for name in variables if name in os.environ]
    ours = [folder for folder in folders if folder.is_relative_to(settings.compiled)]
    for folder in ours:
        shutil.rmtree(folder, ignore_errors=True)
    return len(ours) == len(variables)


def clear_packed(settings: Settings) -> None:
    """Forget quantised weights; digests of files stay."""
    for folder in settings.paths.cache.glob("*"):
        if folder.is_dir() and not folder.is_symlink():
            shutil.rmtree(folder, ignore_errors=True)
