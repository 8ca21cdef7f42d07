"""A base that NF4 breaks: the same function as the tiny model's, with outliers in every block of some matrices."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from agentloop.project import CHECKOUT

TINY = CHECKOUT / "models" / "tiny"
OUTLIER = 256.0
"""A power of two: dividing by it and multiplying with it rounds nothing."""


def with_outliers(directory: Path, source: Path = TINY) -> Path:
    """In each block of 64 one column of down_proj is multiplied, and that row of up_proj divided: what they compute together
    stays, but NF4 has no levels left for the block's other weights."""
    shutil.copytree(source, directory)
    tensors = load_file(directory / "model.safetensors")
    for name in [name for name in tensors if name.endswith("mlp.down_proj.weight")]:
        up = name.replace("down_proj", "up_proj")
        tensors[name][:, ::64] *= OUTLIER
        tensors[up][::64] /= OUTLIER
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


@pytest.fixture(scope="session")
def broken(tmp_path_factory) -> Path:
    return with_outliers(tmp_path_factory.mktemp("broken") / "base")
