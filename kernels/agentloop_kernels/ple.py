"""Per-layer embeddings: the gate that mixes them in, and the sum that makes them before the first layer.

    inputs = (RMS(projection * scale; w) + table_scale * row of the PLE table) / sqrt(2)     once, all layers
    h      = gelu(gate) * inputs of this layer                                               in every layer

The table and the projection are frozen, so `inputs` needs no gradient: only `gate` has one. Source:
Gemma3nTextModel.project_per_layer_inputs and Gemma3nTextDecoderLayer in transformers' modeling_gemma3n.py.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl
from torch import Tensor

from agentloop_kernels.activation import gelu, gelu_and_slope, reference_gelu, reference_gelu_backward
from agentloop_kernels.launching import takes_kernels
from agentloop_kernels.norm import normalise
from agentloop_kernels.precision import buffer, store, wide
from agentloop_kernels.tiles import PRECISE, next_power_of_2


def ple_gate(gate: Tensor, inputs: Tensor, *, out: Tensor | None = None) -> Tensor:
    """gelu(gate) * inputs, both [tokens, width]; `inputs` may be a slice of [tokens, layers, width]."""
    return (triton_ple_gate if takes_kernels(gate) else reference_ple_gate)(gate, inputs, out=out)


def ple_gate_backward(dhidden: Tensor, gate: Tensor, inputs: Tensor, *, out: Tensor | None = None) -> Tensor:
    """dgate = dh * inputs * gelu'(gate); `out` may be `dhidden` or `gate`."""
    op = triton_ple_gate_backward if takes_kernels(gate) else reference_ple_gate_backward
    return op(dhidden, gate, inputs, out=out)


def ple_inputs(
    projection: Tensor,
    table_rows: Tensor,
    weight: Tensor,
    *,
    scale: float,
    table_scale: float,
    eps: float,
    out: Tensor | None = None,
) -> Tensor:
    """The module's first formula. projection, table_rows [tokens, layers * width], weight [width].

    `scale` is hidden^-1/2, `table_scale` is width^1/2 (the scaled embedding). `out` may be either input.
    """
    op = triton_ple_inputs if takes_kernels(projection) else reference_ple_inputs
    return op(projection, table_rows, weight, scale=scale, table_scale=table_scale, eps=eps, out=out)


def reference_ple_gate(gate: Tensor, inputs: Tensor, *, out: Tensor | None = None) -> Tensor:
    return store(reference_gelu(wide(gate)) * wide(inputs), out, gate.dtype)


def reference_ple_gate_backward(dhidden: Tensor, gate: Tensor, inputs: Tensor, *, out: Tensor | None = None) -> Tensor:
    return store(reference_gelu_backward(wide(dhidden) * wide(inputs), wide(gate)), out, gate.dtype)


def reference_ple_inputs(
    projection: Tensor,
    table_rows: Tensor,
    weight: Tensor,
    *,
    scale: float,
    table_scale: float,
    eps: float,
    out: Tensor | None = None,
) -> Tensor:
    width = weight.shape[0]
    projected = (wide(projection) * scale).view(projection.shape[0], -1, width)
    rows = wide(table_rows).view(projected.shape) * table_scale
    total = (normalise(projected, weight, eps) + rows) / math.sqrt(2)
    return store(total.view(projection.shape), out, projection.dtype)


@triton.jit(do_not_specialize=["rows"])
def _ple_gate_kernel(
    gate, inputs, dhidden, out, rows, stride_gate, stride_inputs, stride_dhidden, stride_out,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, BACKWARD: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    columns = tl.arange(0, BLOCK)[None, :]
    inside = (row < rows) & (columns < WIDTH)
    g = tl.load(gate + row * stride_gate + columns, inside, 0.0).to(tl.float32)
    y = tl.load(inputs + row * stride_inputs + columns, inside, 0.0).to(tl.float32)
    if BACKWARD:
        activated, slope = gelu_and_slope(g)
        y *= slope * tl.load(dhidden + row * stride_dhidden + columns, inside, 0.0).to(tl.float32)
    else:
        y *= gelu(g)
    tl.store(out + row * stride_out + columns, y.to(out.dtype.element_ty), inside)


@triton.jit(do_not_specialize=["layers"])
def _ple_inputs_kernel(
    projection, table_rows, weight, out, layers, stride_projection, stride_table, stride_out, scale, table_scale, eps,
    WIDTH: tl.constexpr, LAYERS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    layer = tl.program_id(1) * LAYERS + tl.arange(0, LAYERS)[:, None]
    columns = tl.arange(0, BLOCK)[None, :]
    inside = (layer < layers) & (columns < WIDTH)
    at = layer * WIDTH + columns
    x = tl.load(projection + row * stride_projection + at, inside, 0.0).to(tl.float32) * scale
    y = tl.load(table_rows + row * stride_table + at, inside, 0.0).to(tl.float32) * table_scale
    w = tl.load(weight + columns, columns < WIDTH, 0.0).to(tl.float32)
    y += x * tl.rsqrt(tl.sum(x * x, 1) / WIDTH + eps)[:, None] * w
    tl.store(out + row * stride_out + at, (y * 0.7071067811865476).to(out.dtype.element_ty), inside)


def _launch_gate(dhidden: Tensor | None, gate: Tensor, inputs: Tensor, out: Tensor | None) -> Tensor:
    rows, width = gate.shape
    out = buffer(out, gate.shape, gate)
    upstream = gate if dhidden is None else dhidden
    block = next_power_of_2(width)
    height = max(1, 1024 // block)
    _ple_gate_kernel[(triton.cdiv(rows, height),)](
        gate, inputs, upstream, out, rows, gate.stride(0), inputs.stride(0), upstream.stride(0), out.stride(0),
        WIDTH=width, ROWS=height, BLOCK=block, BACKWARD=dhidden is not None, num_warps=4, **PRECISE,
    )  # fmt: skip
    return out


def triton_ple_gate(gate: Tensor, inputs: Tensor, *, out: Tensor | None = None) -> Tensor:
    return _launch_gate(None, gate, inputs, out)


def triton_ple_gate_backward(dhidden: Tensor, gate: Tensor, inputs: Tensor, *, out: Tensor | None = None) -> Tensor:
    return _launch_gate(dhidden, gate, inputs, out)


def triton_ple_inputs(
    projection: Tensor,
    table_rows: Tensor,
    weight: Tensor,
    *,
    scale: float,
    table_scale: float,
    eps: float,
    out: Tensor | None = None,
) -> Tensor:
    rows, width = projection.shape[0], weight.shape[0]
    layers = projection.shape[1] // width
    out = buffer(out, projection.shape, projection)
    block = next_power_of_2(width)
    height = max(1, 1024 // block)
    _ple_inputs_kernel[(rows, triton.cdiv(layers, height))](
        projection, table_rows, weight, out, layers, projection.stride(0), table_rows.stride(0), out.stride(0), scale,
        table_scale, eps, WIDTH=width, LAYERS=height, BLOCK=block, num_warps=4, **PRECISE,
    )  # fmt: skip
    return out
