"""Frozen linear layers that read the same input, with their LoRA, as one extended matrix.

For W [N, K] and LoRA of total rank R the matrix is

    [ W    B ]   W the rows of all projections, B block-diagonal [N, R], A scaled by s [R, K]
    [ s A  0 ]

so that with X' = [X | X (sA)'] the output X W' + s X A' B' is one product with the upper rows, and with dY' = [dY | dY B]
the input's gradient dY W + s dY B A is one product with the left columns: no second pass over either result, and one
rounding instead of two. R is padded with zeros to keep the rows aligned.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from agentloop.engine.lora.buffer import LoraBuffer, LoraSlot
from agentloop_kernels.extension import write_lora
from agentloop_kernels.nf4 import Nf4, dequantise

ALIGNMENT = {"cuda": 64, "meta": 64, "cpu": 8}
"""R is a multiple of this. On CUDA rows then start at multiples of 128 bytes, which the tensor cores' loads want."""


@dataclass(frozen=True)
class Branch:
    """The LoRA of one projection inside its group."""

    rows: slice
    tail: slice
    slot: LoraSlot


class ProjectionGroup:
    """`parts`: (name, weight) in row order; a weight is NF4 or a plain [rows, inputs] tensor."""

    def __init__(self, kind: str, parts: Sequence[tuple[str, Nf4 | Tensor]]) -> None:
        self.kind = kind
        self.parts = list(parts)
        self.inputs: int = parts[0][1].shape[1]
        self.rows: dict[str, slice] = {}
        end = 0
        for name, weight in parts:
            self.rows[name] = slice(end, end + weight.shape[0])
            end += weight.shape[0]
        self.outputs = end
        self.branches: list[Branch] = []
        self.rank = 0
        """Columns of the tail, padding included."""
        self.lora: LoraBuffer | None = None

    def attach(self, lora: LoraBuffer, device: torch.device) -> None:
        """Give the group the slots of `lora` that carry its projections' names."""
        slots = [lora.slots[name] for name, _ in self.parts if name in lora.slots]
        rank = sum(slot.rank for slot in slots)
        self.branches, start = [], 0
        for slot in slots:
            self.branches.append(Branch(self.rows[slot.name], slice(start, start + slot.rank), slot))
            start += slot.rank
        multiple = ALIGNMENT[device.type]
        self.rank = -(-rank // multiple) * multiple
        self.lora = lora if slots else None

    def detach(self) -> None:
        """Take the adapter off."""
        self.branches, self.rank, self.lora = [], 0, None

    @property
    def used_rank(self) -> int:
        """Columns of the tail without the padding."""
        return self.branches[-1].tail.stop if self.branches else 0

    def flat_a(self, flat: Tensor) -> Tensor:
        """The group's A, one below the other, in a flat LoRA buffer: [used_rank, inputs]."""
        return flat[self.branches[0].slot.a.start : self.branches[-1].slot.a.stop].view(self.used_rank, self.inputs)

    def new_input(self, tokens: int, like: Tensor | Workspace) -> Tensor:
        """Room for [X | X (sA)']: [tokens, inputs + rank]."""
        return self._room(tokens, self.inputs, like)

    def new_output(self, tokens: int, like: Tensor) -> Tensor:
        """Room for [dY | dY B]: [tokens, outputs + rank]."""
        return self._room(tokens, self.outputs, like)

    def _room(self, tokens: int, columns: int, like: Tensor | Workspace) -> Tensor:
        room = like.new_empty(tokens, columns + self.rank)
        if room.device.type == "cpu" and room.dtype.itemsize == 2:
            # oneDNN's kernels for AMX read beyond the last of K columns and multiply what is there by zero: it must be finite
            room[:, columns:] = 0
        return room

    def fill_tail(self, matrix: Tensor, x: Tensor) -> None:
        """X (sA)' into the last columns of x [tokens, inputs + rank]."""
        if self.rank:
            torch.mm(x[:, : self.inputs], matrix[self.outputs :, : self.inputs].t(), out=x[:, self.inputs :])

    def multiply(self, matrix: Tensor, x: Tensor, out: Tensor | None = None) -> Tensor:
        """x [tokens, inputs + rank] -> Y [tokens, outputs]."""
        return product(x, matrix[: self.outputs].t(), out=out)

    def fill_output_tail(self, matrix: Tensor, dy: Tensor) -> None:
        """dY B into the last columns of dy [tokens, outputs + rank]."""
        if self.rank:
            torch.mm(dy[:, : self.outputs], matrix[: self.outputs, self.inputs :], out=dy[:, self.outputs :])

    def multiply_left(self, matrix: Tensor, dy: Tensor, out: Tensor | None = None) -> Tensor:
        """dy [tokens, outputs + rank] -> dX [tokens, inputs]."""
        return product(dy, matrix[:, : self.inputs], out=out)

    def accumulate(self, dy: Tensor, x: Tensor, tail: Tensor) -> None:
        """Add the LoRA gradients: dy [tokens, outputs + rank] and `tail` [tokens, rank] filled, x [tokens, >= inputs]."""
        if not self.branches:
            return
        gradients, unscale = self.lora.gradients, self.lora.unscale
        p = dy[:, self.outputs : self.outputs + self.used_rank]
        add_product(self.flat_a(gradients), p.t(), x[:, : self.inputs], self.lora.settings.scale, unscale)
        for branch in self.branches:
            add_product(branch.slot.view_b(gradients), dy[:, branch.rows].t(), tail[:, branch.tail], 1.0, unscale)

    def backward(
        self, matrix: Tensor, dy: Tensor, x: Tensor, *, input_gradient: bool = True, out: Tensor | None = None
    ) -> Tensor | None:
        """dy [tokens, outputs + rank], tail still to be filled; x with its tail. Adds LoRA's gradients, returns dX."""
        self.fill_output_tail(matrix, dy)
        self.accumulate(dy, x, x[:, self.inputs :])
        return self.multiply_left(matrix, dy, out=out) if input_gradient else None


def product(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """a b in their dtype, summed in fp32 as matrix units do it.

    A processor that has none for 16 bit takes four times as long over such matrices as over fp32 ones.
    """
    if a.device.type == "cpu" and a.dtype.itemsize == 2 and not _cpu_multiplies(a.dtype):
        wide = a.float() @ b.float()
        return wide.to(a.dtype) if out is None else out.copy_(wide)
    return torch.mm(a, b, out=out)


@cache
def _cpu_multiplies(dtype: torch.dtype) -> bool:
    """Return True where this machine's processor has instructions for products of the 16-bit dtype."""
    units = ("avx512_bf16", "amx_bf16") if dtype == torch.bfloat16 else ("avx512_fp16", "amx_fp16")
    known = getattr(torch.cpu, "get_capabilities", dict)()  # newer than the oldest torch that is supported
    return known.get("architecture") != "x86_64" or any(known.get(unit) for unit in units)


def add_product(total: Tensor, a: Tensor, b: Tensor, scale: float, factor: Tensor | None = None) -> None:
    """total += scale * factor * a b, summed in total's dtype (fp32) also where a and b are 16 bit. `factor` []."""
    if factor is not None:
        product = torch.mm(a, b, out_dtype=total.dtype) if total.is_cuda else a.to(total.dtype) @ b.to(total.dtype)
        total.addcmul_(product, factor, value=scale)
    elif total.dtype == a.dtype:
        total.addmm_(a, b, alpha=scale)
    elif total.is_cuda:
        torch.addmm(total, a, b, alpha=scale, out_dtype=total.dtype, out=total)
    else:
        total.addmm_(a.to(total.dtype), b.to(total.dtype), alpha=scale)


class Workspace:
    """Extended matrices, dequantised when asked for and kept while nobody else needs the room.

    `resident`: every group keeps its own matrix (fast, and all there is to it on small models). Otherwise groups of one
    kind share one: the recomputation of a layer leaves its matrices there for the backward that follows.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype, *, resident: bool) -> None:
        self.device, self.dtype, self.resident = device, dtype, resident
        self.adapter_enabled = True
        self._matrices: dict[tuple, Tensor] = {}
        self._state: dict[tuple, tuple[int, int, bool]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """For a copy, which fills matrices of its own: those here are known by the identity of their groups."""
        return self.__dict__ | {"_matrices": {}, "_state": {}}

    @contextmanager
    def without_adapter(self) -> Iterator[None]:
        """The base alone, until the block ends in whatever way."""
        self.adapter_enabled = False
        try:
            yield
        finally:
            self.adapter_enabled = True

    def new_empty(self, *shape: int) -> Tensor:
        """A tensor for what GEMMs read or write."""
        return torch.empty(shape, device=self.device, dtype=self.dtype)

    def matrix(self, group: ProjectionGroup) -> Tensor:
        """[outputs + rank, inputs + rank] of `group`, valid until another group of its kind is asked for."""
        key = self._key(group)
        if key not in self._matrices:
            self._matrices[key] = torch.zeros(_shape(group), device=self.device, dtype=self.dtype)
        matrix = self._matrices[key]
        version = group.lora.version if group.lora else 0
        owner, held, enabled = self._state.get(key, (0, -1, True))
        if owner != id(group):
            for name, weight in group.parts:
                write_weight(weight, matrix[group.rows[name], : group.inputs])
        if group.branches and (owner, held, enabled) != (id(group), version, self.adapter_enabled):
            self._write_lora(group, matrix)
        self._state[key] = (id(group), version, self.adapter_enabled)
        return matrix

    def _write_lora(self, group: ProjectionGroup, matrix: Tensor) -> None:
        flat = group.lora.compute[group.branches[0].slot.a.start : group.branches[-1].slot.b.stop]
        settings = group.lora.settings
        write_lora(
            flat,
            matrix,
            [branch.rows for branch in group.branches],
            rank=settings.width,
            inputs=group.inputs,
            outputs=group.outputs,
            scale=settings.scale,
        )
        if not self.adapter_enabled:
            matrix[: group.outputs, group.inputs :].zero_()

    def bytes_for(self, layers: Sequence[Any]) -> int:
        """Return the bytes that the matrices of all `layers` (their weights) take once they are in use."""
        shapes = {self._key(group): _shape(group) for layer in layers for group in layer.groups}
        return sum(rows * columns for rows, columns in shapes.values()) * self.dtype.itemsize

    def _key(self, group: ProjectionGroup) -> tuple:
        return (id(group),) if self.resident else (group.kind, _shape(group))

    def begin_step(self) -> None:
        """Forget what the matrices hold, apart from resident weights: the next step fills them anew."""
        self._state = {key: (owner, -1, True) for key, (owner, _, _) in self._state.items()} if self.resident else {}

    def forget(self, group: ProjectionGroup) -> None:
        """After a weight of `group` was exchanged: its matrix is filled anew."""
        self._state.pop(self._key(group), None)

    def release(self) -> None:
        """Give the memory back; matrices are made again when asked for."""
        self._matrices.clear()
        self._state.clear()


def _shape(group: ProjectionGroup) -> tuple[int, int]:
    return group.outputs + group.rank, group.inputs + group.rank


def write_weight(weight: Nf4 | Tensor, out: Tensor) -> None:
    """Write a frozen weight into `out` [rows, inputs], rows of any stride."""
    if isinstance(weight, Tensor):
        out.copy_(weight)
    else:
        dequantise(weight, out=out)
