"""Tensors of a checkpoint directory, by their name inside the language model.

Names are looked up in the safetensors files themselves; the prefix (`model.`, `model.language_model.`, …) is found from the
one tensor that language models have and towers have not. These are never read.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from agentloop.engine.io.unpacking import as_nf4, unpacked
from agentloop.errors import ModelError
from agentloop.model_directory import bitsandbytes
from agentloop.model_directory.files import tensor_files, weight_files
from agentloop.model_directory.tensors import language_prefix
from agentloop.reading import open_tensors
from agentloop_kernels.nf4 import Nf4


class Checkpoint:
    """Read access to the language model's weights in `directory`. Raises ModelError where a file is broken."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._files = {path: open_tensors(path, ModelError) for path in weight_files(directory)}
        self._where = tensor_files(directory, {path: file.keys() for path, file in self._files.items()})
        self.prefix = language_prefix(directory, self._where)
        self.packed = {
            weight: bitsandbytes.read_state(bytes(self._stored(state).tolist()), weight, directory)
            for weight, state in bitsandbytes.states(self._where).items()
        }
        """Whole name of each weight that is stored in bitsandbytes' four bits -> how."""

    def tensor(self, name: str) -> Tensor:
        """The tensor `name` of the language model, on the CPU in its stored dtype. Raises ModelError where it is absent.

        What is stored in bitsandbytes' four bits comes unpacked, in the dtype that they were packed from.
        """
        return self.whole(self.prefix + name)

    def whole(self, full: str, *, exact: bool = False) -> Tensor:
        """The tensor as `tensor` gives it, by the name that it has in the file; with `exact`, what is unpacked is in fp32."""
        state = self.packed.get(full)
        return self._stored(full) if state is None else unpacked(self._parts(full), state, exact=exact)

    def nf4(self, name: str) -> Nf4 | None:
        """The weight `name` as it is packed; None where it is not stored as double-quantised NF4 in blocks of 64."""
        full = self.prefix + name
        state = self.packed.get(full)
        return None if state is None else as_nf4(self._parts(full), state)

    def beside(self, full: str) -> list[str]:
        """Names in the files of what belongs to the packed weight `full`."""
        return bitsandbytes.parts(full, self._where)

    def _parts(self, full: str) -> dict[str, Tensor]:
        return {name.rpartition(".")[2]: self._stored(name) for name in (full, *self.beside(full))}

    def _stored(self, full: str) -> Tensor:
        if full not in self._where:
            raise ModelError(f"{self.directory}: the weights lack {full}")
        return self._files[self._where[full]].get_tensor(full)

    def head(self) -> Tensor | None:
        """A language-model head of its own, or None where it is tied to the embeddings."""
        name = next((name for name in self._where if name.endswith("lm_head.weight")), None)
        return None if name is None else self.whole(name)

    @property
    def dtype(self) -> torch.dtype:
        return self.tensor("norm.weight").dtype
