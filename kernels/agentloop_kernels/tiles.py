"""Block sizes and warps for each kernel and each architecture, instead of autotuning at run time.

Pure functions of widths and compute capability: nothing is timed, so a cold start compiles each kernel once, and two
runs on one machine compute the same sums in the same order.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
import triton

PRECISE = {"enable_fp_fusion": True}
"""Given to every launch but one: Triton 3.6 to 3.9 fuse multiply and add by default, 3.10 will not."""
BIT_EXACT = {"enable_fp_fusion": False}
"""For NF4: bitsandbytes rounds the product and the sum apart."""


def next_power_of_2(n: int) -> int:
    return 1 << (n - 1).bit_length()


def row_warps(width: int, rows: int = 1) -> int:
    """Warps of a program that holds `rows` rows of `width` elements in registers.

    8 elements a thread make one 16-byte access of 16-bit data, and 256 threads hold four streams of 2,048 in 32 fp32
    registers each: 80 to 130 in all and no spill on sm_80 to sm_90 (tests/kernels/test_compiled.py). Of Gemma 3's widths up
    to 5,376 they hold one row: at most 127, on sm_75 too.
    """
    if width * rows <= 1024:
        return 1 if width <= 256 else 4
    return 4 if width * rows <= 2048 else 8


def elementwise_block(width: int) -> int:
    """Elements of a program that only maps: at most 2,048, two 16-byte accesses for each thread of 4 warps."""
    return min(2048, next_power_of_2(width))


@dataclass(frozen=True)
class AttentionTile:
    queries: int
    keys: int
    warps: int
    stages: int
    chunk: int | None = None
    """Columns of a head that the backward kernels multiply at once for their scores; None: all."""


# head_dim 256, 16-bit inputs; shared memory from compiling for each target (tests/kernels/test_compiled.py).
# The limits: sm_86 and sm_89 99 KB, sm_80 163 KB, sm_90 227 KB. One stage in the forward spills kilobytes.
_ATTENTION = {
    (8, 6): {
        "forward": AttentionTile(64, 32, 8, 2),
        "dquery": AttentionTile(64, 32, 8, 1),
        "dkey_dvalue": AttentionTile(32, 32, 8, 1),
    },
    (8, 0): {
        "forward": AttentionTile(64, 64, 8, 2),
        "dquery": AttentionTile(64, 64, 8, 2),
        "dkey_dvalue": AttentionTile(64, 32, 8, 1),
    },
    (9, 0): {
        "forward": AttentionTile(128, 64, 8, 2),
        "dquery": AttentionTile(128, 32, 8, 2),
        "dkey_dvalue": AttentionTile(64, 32, 8, 2),
    },
}
_SMALL = AttentionTile(16, 16, 8, 1)
"""For what is not 16 bit wide, or has larger heads."""
_CHUNKED = AttentionTile(16, 16, 8, 1, chunk=32)
"""For sm_75, and for the interpreter.

Triton multiplies on sm_75 without tensor cores: a thread then holds whole rows of both factors, 256 columns of a head in a
product of scores. The backward kernels then spilled 224 to 2,056 bytes a thread. By 32 columns they spill none and take 16 KB
of shared memory, of 64; by 64 or 128, in wider tiles, or with 4 or 16 warps, dk and dv spill (tests/kernels/test_compiled.py).
"""


def attention_tile(kernel: str, capability: tuple[int, int] | None, head_dim: int, itemsize: int) -> AttentionTile:
    """Tile of `kernel` in {"forward", "dquery", "dkey_dvalue"}; capability None is the interpreter."""
    if capability is None or capability < (8, 0):
        return _CHUNKED
    if head_dim > 256 or itemsize > 2:
        return _SMALL
    known = capability if capability in _ATTENTION else (9, 0) if capability[0] in (9, 10) else (8, 6)
    return _ATTENTION[known][kernel]


def capability(device: torch.device) -> tuple[int, int] | None:
    """(major, minor) of a CUDA device, or of the card that meta tensors are planned for; None for the CPU."""
    if device.type == "meta":
        return divmod(triton.runtime.driver.active.get_current_target().arch, 10)
    return _capability(device) if device.type == "cuda" else None


_capability = cache(torch.cuda.get_device_capability)
