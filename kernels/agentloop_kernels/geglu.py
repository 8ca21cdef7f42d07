"""GEGLU over the grouped projection: h = gelu(gate) * up, with `gate_up` = [gate | up] of shape [tokens, 2 * inter].

Source: Gemma3nTextMLP in transformers' modeling_gemma3n.py, without activation sparsity (see sparse_geglu.py).
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from agentloop_kernels.activation import gelu, gelu_and_slope, reference_gelu, reference_gelu_backward
from agentloop_kernels.launching import takes_kernels
from agentloop_kernels.precision import buffer, store, wide
from agentloop_kernels.tiles import PRECISE, elementwise_block


def geglu(gate_up: Tensor, *, out: Tensor | None = None) -> Tensor:
    """gelu_tanh(gate) * up. gate_up [tokens, 2 * inter] -> [tokens, inter]."""
    return (triton_geglu if takes_kernels(gate_up) else reference_geglu)(gate_up, out=out)


def geglu_backward(
    dhidden: Tensor, gate_up: Tensor, *, dgate_up: Tensor | None = None, hidden: Tensor | None = None
) -> Tensor:
    """Gradient of `geglu`: dgate = dh * up * gelu'(gate), dup = dh * gelu(gate). Returns dgate_up [tokens, 2 * inter].

    `dgate_up` may be `gate_up` itself. `hidden`, if given, receives the forward's output [tokens, inter] as well (the
    gradient of down_proj's A needs it) and may be `dhidden` itself: everything then happens in place.
    """
    op = triton_geglu_backward if takes_kernels(gate_up) else reference_geglu_backward
    return op(dhidden, gate_up, dgate_up=dgate_up, hidden=hidden)


def reference_geglu(gate_up: Tensor, *, out: Tensor | None = None) -> Tensor:
    gate, up = wide(gate_up).chunk(2, dim=-1)
    return store(reference_gelu(gate) * up, out, gate_up.dtype)


def reference_geglu_backward(
    dhidden: Tensor, gate_up: Tensor, *, dgate_up: Tensor | None = None, hidden: Tensor | None = None
) -> Tensor:
    gate, up = wide(gate_up).chunk(2, dim=-1)
    dh, activated = wide(dhidden), reference_gelu(gate)
    dgate, dup, value = reference_gelu_backward(dh * up, gate), dh * activated, activated * up
    inter = gate.shape[-1]
    dgate_up = gate_up.new_empty(gate_up.shape) if dgate_up is None else dgate_up
    dgate_up[:, :inter].copy_(dgate)
    dgate_up[:, inter:].copy_(dup)
    if hidden is not None:
        hidden.copy_(value)
    return dgate_up


@triton.jit
def _geglu_kernel(gate_up, out, stride_gate_up, stride_out, INTER: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < INTER
    at = gate_up + row * stride_gate_up + columns
    g = tl.load(at, inside, 0.0).to(tl.float32)
    u = tl.load(at + INTER, inside, 0.0).to(tl.float32)
    tl.store(out + row * stride_out + columns, (gelu(g) * u).to(out.dtype.element_ty), inside)


@triton.jit
def _geglu_backward_kernel(
    dhidden, gate_up, dgate_up, hidden, stride_dhidden, stride_gate_up, stride_dgate_up, stride_hidden,
    INTER: tl.constexpr, BLOCK: tl.constexpr, WITH_HIDDEN: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < INTER
    at = gate_up + row * stride_gate_up + columns
    g = tl.load(at, inside, 0.0).to(tl.float32)
    u = tl.load(at + INTER, inside, 0.0).to(tl.float32)
    dh = tl.load(dhidden + row * stride_dhidden + columns, inside, 0.0).to(tl.float32)
    activated, slope = gelu_and_slope(g)
    to = dgate_up + row * stride_dgate_up + columns
    tl.store(to, (dh * u * slope).to(dgate_up.dtype.element_ty), inside)
    tl.store(to + INTER, (dh * activated).to(dgate_up.dtype.element_ty), inside)
    if WITH_HIDDEN:
        tl.store(hidden + row * stride_hidden + columns, (activated * u).to(hidden.dtype.element_ty), inside)


def triton_geglu(gate_up: Tensor, *, out: Tensor | None = None) -> Tensor:
    rows, inter = gate_up.shape[0], gate_up.shape[1] // 2
    out = buffer(out, (rows, inter), gate_up)
    block = elementwise_block(inter)
    _geglu_kernel[(rows, triton.cdiv(inter, block))](
        gate_up, out, gate_up.stride(0), out.stride(0), INTER=inter, BLOCK=block, num_warps=4, **PRECISE
    )
    return out


def triton_geglu_backward(
    dhidden: Tensor, gate_up: Tensor, *, dgate_up: Tensor | None = None, hidden: Tensor | None = None
) -> Tensor:
    rows, inter = gate_up.shape[0], gate_up.shape[1] // 2
    dgate_up = buffer(dgate_up, gate_up.shape, gate_up)
    with_hidden = hidden is not None
    hidden = hidden if with_hidden else dhidden
    block = elementwise_block(inter)
    _geglu_backward_kernel[(rows, triton.cdiv(inter, block))](
        dhidden, gate_up, dgate_up, hidden, dhidden.stride(0), gate_up.stride(0), dgate_up.stride(0), hidden.stride(0),
        INTER=inter, BLOCK=block, WITH_HIDDEN=with_hidden, num_warps=4, **PRECISE,
    )  # fmt: skip
    return dgate_up
