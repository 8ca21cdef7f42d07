"""tanh and the tanh form of GELU, by the logistic function alone.

tanh(x) = 2 sigmoid(2x) - 1 and gelu_tanh(x) = x sigmoid(2c(x + 0.044715 x^3)) with c = sqrt(2/pi) are identities, so
no device library is needed: the same source runs in Triton's interpreter and compiles on every Triton from 3.6 to 3.9.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


# The kernels hold the constants as literals: in the interpreter a global tl.constexpr times a tensor stays a constexpr.
@triton.jit
def tanh(x):
    return 2.0 * tl.sigmoid(2.0 * x) - 1.0


@triton.jit
def gelu(x):
    return x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))


@triton.jit
def gelu_and_slope(x):
    """(gelu(x), d gelu(x) / dx)."""
    s = tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
    return x * s, s + x * s * (1.0 - s) * 1.5957691216057308 * (1.0 + 0.134145 * x * x)


def reference_gelu(x: Tensor) -> Tensor:
    return torch.nn.functional.gelu(x, approximate="tanh")


def reference_gelu_backward(dy: Tensor, x: Tensor) -> Tensor:
    """dy * d gelu(x) / dx."""
    return torch.ops.aten.gelu_backward(dy, x, approximate="tanh")
