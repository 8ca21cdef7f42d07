"""The base's linears in NF4: quantised once, kept in the cache under the base's fingerprint, read from there afterwards.
A base that comes in bitsandbytes' NF4 is not quantised again.

Quantising again on another machine may differ in a last bit (the mean of the scales is rounded differently), so the
packed file is the model that an adapter was trained on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from agentloop.engine.io.checkpoint import Checkpoint
from agentloop.engine.numerics.modes import usual_modes
from agentloop.errors import ModelError, SettingError
from agentloop.files import atomic
from agentloop.model_directory.architecture import Architecture
from agentloop.reading import open_tensors
from agentloop_kernels.nf4 import BLOCK, Nf4, quantise

FORMAT = 1
"""Raise it when the file's layout changes."""
FIELDS = ("packed", "absmax8", "absmax_scale", "offset", "shape")


class PackedWeights:
    """The NF4 linears of one base, on `device`."""

    def __init__(self, linears: dict[str, Nf4]) -> None:
        self._linears = linears

    def __contains__(self, name: str) -> bool:
        return name in self._linears

    def __iter__(self) -> Iterator[str]:
        return iter(self._linears)

    def linear(self, name: str) -> Nf4:
        return self._linears[name]


@usual_modes()
def packed_weights(
    shape: Architecture,
    checkpoint: Checkpoint,
    fingerprint: str,
    cache: Path,
    device: torch.device,
    *,
    in_16bit: Collection[str] = (),
) -> PackedWeights:
    """Read the packed file from `cache`, or quantise the checkpoint on `device` and write it.

    The file holds every linear that can be packed; those named in `in_16bit` are not read. A checkpoint that is in 4 bit
    itself gives what it has. Raises DiskError, ModelError where the file in the cache is damaged, and SettingError where
    `in_16bit` names what the checkpoint has in 4 bit alone.
    """
    if checkpoint.packed:
        return _shipped(shape, checkpoint, device, in_16bit)
    path = cache / "nf4" / f"{fingerprint}-{FORMAT}.safetensors"
    if not path.is_file():
        _write(path, quantised(shape, checkpoint, device))
    linears = {}
    with open_tensors(path, ModelError, device=str(device)) as file:
        for name in sorted({key.rpartition(".")[0] for key in file.keys()}.difference(in_16bit)):
            linears[name] = Nf4.from_tensors({field: file.get_tensor(f"{name}.{field}") for field in FIELDS})
    return PackedWeights(linears)


def _shipped(
    shape: Architecture, checkpoint: Checkpoint, device: torch.device, in_16bit: Collection[str]
) -> PackedWeights:
    found = {name: weight for name in shape.linears if (weight := checkpoint.nf4(f"{name}.weight"))}
    if without := next((name for name in in_16bit if f"{checkpoint.prefix}{name}.weight" in checkpoint.packed), None):
        raise SettingError(f"in_16bit: {checkpoint.directory} holds {without} in 4 bit alone")
    return PackedWeights({name: weight.to(device) for name, weight in found.items()})


def quantised(shape: Architecture, checkpoint: Checkpoint, device: torch.device) -> dict[str, Nf4]:
    """Every layer linear whose width is a multiple of the NF4 block, packed on `device`."""
    linears = {}
    for name in shape.linears:
        weight = checkpoint.tensor(f"{name}.weight")
        if weight.shape[1] % BLOCK == 0:
            linears[name] = quantise(weight.to(device))
    return linears


def _write(path: Path, linears: dict[str, Nf4]) -> None:
    tensors: dict[str, Tensor] = {}
    for name, weight in linears.items():
        tensors |= {f"{name}.{field}": tensor.cpu() for field, tensor in weight.tensors().items()}
    with atomic(path) as temporary:
        save_file(tensors, temporary)
