"""Tensors of a checkpoint directory, by their name inside the language model.

Names are looked up in the safetensors files themselves; the prefix (`model.`, `model.language_model.`, …) is found from the
one tensor that language models have and towers have not. These are never read.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from agentloop.errors import ModelError
from agentloop.model_directory.files import tensor_files, weight_files
from agentloop.model_directory.tensors import language_prefix
from agentloop.reading import open_tensors


class Checkpoint:
    """Read access to the language model's weights in `directory`. Raises ModelError where a file is broken."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._files = {path: open_tensors(path, ModelError) for path in weight_files(directory)}
        self._where = tensor_files(directory, {path: file.keys() for path, file in self._files.items()})
        self.prefix = language_prefix(directory, self._where)

    def tensor(self, name: str) -> Tensor:
        """The tensor `name` of the language model, on the CPU in its stored dtype. Raises ModelError where it is absent."""
        full = self.prefix + name
        if full not in self._where:
            raise ModelError(f"{self.directory}: the weights lack {full}")
        return self._files[self._where[full]].get_tensor(full)

    def head(self) -> Tensor | None:
        """A language-model head of its own, or None where it is tied to the embeddings."""
        name = next((name for name in self._where if name.endswith("lm_head.weight")), None)
        return None if name is None else self._files[self._where[name]].get_tensor(name)

    @property
    def dtype(self) -> torch.dtype:
        return self.tensor("norm.weight").dtype
