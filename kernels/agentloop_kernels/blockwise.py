"""Blockwise quantisation to the nearest of 256 fixed levels (8-Bit Optimizers, arXiv 2110.02861).

The levels have a dynamic exponent: for exponent i = 0..6 the midpoints of equal parts of [0.1, 1], times 10^(i - 6).
Signed there are 2^i parts with both signs, unsigned 2^(i + 1) parts; 0 and 1 complete the 256. As create_dynamic_map in
bitsandbytes' functional.py.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor


@cache
def dynamic_code(device: torch.device, signed: bool = True) -> Tensor:
    """The 256 levels in ascending order, fp32 on `device`."""
    values = [0.0, 1.0]
    for i in range(7):
        edges = torch.linspace(0.1, 1, 2 ** (i if signed else i + 1) + 1, dtype=torch.float32)
        means = (10.0 ** (i - 6)) * ((edges[:-1] + edges[1:]) / 2.0)
        values += means.tolist() + ((-means).tolist() if signed else [])
    return torch.tensor(sorted(values), dtype=torch.float32).to(device)


@cache
def dynamic_bounds(device: torch.device, signed: bool = True) -> Tensor:
    """The 255 midpoints between the levels."""
    return midpoints(dynamic_code(device, signed))


def midpoints(code: Tensor) -> Tensor:
    return (code[:-1] + code[1:]) / 2


def quantise_blocks(blocks: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
    """Nearest level of `code` (ascending) for each value over its row's largest magnitude -> (uint8, fp32 [rows])."""
    absmax = blocks.abs().amax(-1)
    scaled = (blocks * (1.0 / absmax.clamp_min(1e-38)).unsqueeze(-1)).clamp(-1, 1)
    return torch.bucketize(scaled, midpoints(code), out_int32=True).to(torch.uint8), absmax
