"""GEGLU over the grouped projection: h = gelu(gate) * up, with `gate_up` = [gate | up] of shape [tokens, 2 * inter].

Source: Gemma3nTextMLP in transformers' modeling_gemma3n.py, without activation sparsity (see sparse_geglu.py).
"""

from __future__ import annotations

from torch import Tensor

from agentloop_kernels.activation import reference_gelu, reference_gelu_slope
from agentloop_kernels.precision import store, wide


def geglu(gate_up: Tensor, *, out: Tensor | None = None) -> Tensor:
    """gelu_tanh(gate) * up. gate_up [tokens, 2 * inter] -> [tokens, inter]."""
    return reference_geglu(gate_up, out=out)


def geglu_backward(
    dhidden: Tensor, gate_up: Tensor, *, dgate_up: Tensor | None = None, hidden: Tensor | None = None
) -> Tensor:
    """Gradient of `geglu`: dgate = dh * up * gelu'(gate), dup = dh * gelu(gate). Returns dgate_up [tokens, 2 * inter].

    `dgate_up` may be `gate_up` itself. `hidden`, if given, receives the forward's output [tokens, inter] as well (the
    gradient of down_proj's A needs it) and may be `dhidden` itself: everything then happens in place.
    """
    return reference_geglu_backward(dhidden, gate_up, dgate_up=dgate_up, hidden=hidden)


def reference_geglu(gate_up: Tensor, *, out: Tensor | None = None) -> Tensor:
    gate, up = wide(gate_up).chunk(2, dim=-1)
    return store(reference_gelu(gate) * up, out, gate_up.dtype)


def reference_geglu_backward(
    dhidden: Tensor, gate_up: Tensor, *, dgate_up: Tensor | None = None, hidden: Tensor | None = None
) -> Tensor:
    gate, up = wide(gate_up).chunk(2, dim=-1)
    dh, activated = wide(dhidden), reference_gelu(gate)
    gradient = (dh * up * reference_gelu_slope(gate), dh * activated)
    value = activated * up
    inter = gate.shape[-1]
    dgate_up = gate_up.new_empty(gate_up.shape) if dgate_up is None else dgate_up
    dgate_up[:, :inter].copy_(gradient[0])
    dgate_up[:, inter:].copy_(gradient[1])
    if hidden is not None:
        hidden.copy_(value)
    return dgate_up
