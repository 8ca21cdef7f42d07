"""Per-layer embeddings: the gate that mixes them in, and the sum that makes them before the first layer.

    inputs = (RMS(projection * scale; w) + table_scale * row of the PLE table) / sqrt(2)     once, all layers
    h      = gelu(gate) * inputs of this layer                                               in every layer

The table and the projection are frozen, so `inputs` needs no gradient: only `gate` has one. Source:
Gemma3nTextModel.project_per_layer_inputs and Gemma3nTextDecoderLayer in transformers' modeling_gemma3n.py.
"""

from __future__ import annotations

import math

from torch import Tensor

from agentloop_kernels.activation import reference_gelu, reference_gelu_slope
from agentloop_kernels.norm import normalise
from agentloop_kernels.precision import store, wide


def ple_gate(gate: Tensor, inputs: Tensor, *, out: Tensor | None = None) -> Tensor:
    """gelu(gate) * inputs, both [tokens, width]; `inputs` may be a slice of [tokens, layers, width]."""
    return reference_ple_gate(gate, inputs, out=out)


def ple_gate_backward(dhidden: Tensor, gate: Tensor, inputs: Tensor, *, out: Tensor | None = None) -> Tensor:
    """dgate = dh * inputs * gelu'(gate); `out` may be `dhidden` or `gate`."""
    return reference_ple_gate_backward(dhidden, gate, inputs, out=out)


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
    return reference_ple_inputs(
        projection, table_rows, weight, scale=scale, table_scale=table_scale, eps=eps, out=out
    )  # fmt: skip


def reference_ple_gate(gate: Tensor, inputs: Tensor, *, out: Tensor | None = None) -> Tensor:
    return store(reference_gelu(wide(gate)) * wide(inputs), out, gate.dtype)


def reference_ple_gate_backward(
    dhidden: Tensor, gate: Tensor, inputs: Tensor, *, out: Tensor | None = None
) -> Tensor:
    return store(wide(dhidden) * wide(inputs) * reference_gelu_slope(wide(gate)), out, gate.dtype)


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
