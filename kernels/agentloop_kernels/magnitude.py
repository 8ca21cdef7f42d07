"""From one embedding to n AltUp streams and back: projections rescaled to the magnitude of stream 0.

With rms(x) = mean(x^2)^1/2 and floor(x) = max(mean(x^2), 1e-5)^1/2:

    embed     S_j = h_j rms(S_0) / floor(h_j)                                h_j = W_j S_0,  j >= 1
    unembed   H = (C_0 + sum_j h_j rms(C_0) / floor(h_j)) / n                h_j = W_j C_j;  y = RMS(H; w)

Embeddings are frozen, so only `unembed` has a gradient. Source: Gemma3nTextModel.forward in modeling_gemma3n.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from agentloop_kernels.norm import normalise, normalise_backward
from agentloop_kernels.precision import store, wide

MAGNITUDE_FLOOR = 1e-5


def embed_streams(first: Tensor, projected: Tensor, *, out: Tensor | None = None) -> Tensor:
    """first [tokens, hidden] and projected [n - 1, tokens, hidden] -> streams [n, tokens, hidden].

    `out[0]` may be `first` and `out[1:]` may be `projected`.
    """
    return reference_embed_streams(first, projected, out=out)


def unembed_streams(
    first: Tensor, projected: Tensor, weight: Tensor, eps: float, *, out: Tensor | None = None
) -> Tensor:
    """C_0 [tokens, hidden], projected [n - 1, tokens, hidden], final norm's weight -> y [tokens, hidden]."""
    return reference_unembed_streams(first, projected, weight, eps, out=out)


def unembed_streams_backward(
    dy: Tensor,
    first: Tensor,
    projected: Tensor,
    weight: Tensor,
    eps: float,
    *,
    dfirst: Tensor | None = None,
    dprojected: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Gradient of `unembed_streams` -> (dC_0 without the projections' share, dprojected [n - 1, tokens, hidden]).

    `dprojected` may be `projected`.
    """
    return reference_unembed_streams_backward(
        dy, first, projected, weight, eps, dfirst=dfirst, dprojected=dprojected
    )  # fmt: skip


def _scales(first: Tensor, projected: Tensor) -> tuple[Tensor, Tensor]:
    """rms(first) [tokens, 1] and mean(projected^2) [n - 1, tokens, 1]."""
    return first.square().mean(-1, keepdim=True).sqrt(), projected.square().mean(-1, keepdim=True)


def _unembedded(first: Tensor, projected: Tensor) -> Tensor:
    target, power = _scales(first, projected)
    rescaled = projected * target / power.clamp_min(MAGNITUDE_FLOOR).sqrt()
    return (first + rescaled.sum(0)) / (1 + projected.shape[0])


def reference_embed_streams(first: Tensor, projected: Tensor, *, out: Tensor | None = None) -> Tensor:
    x, h = wide(first), wide(projected)
    target, power = _scales(x, h)
    rescaled = h * target / power.clamp_min(MAGNITUDE_FLOOR).sqrt()
    return store(torch.cat([x.unsqueeze(0), rescaled]), out, first.dtype)


def reference_unembed_streams(
    first: Tensor, projected: Tensor, weight: Tensor, eps: float, *, out: Tensor | None = None
) -> Tensor:
    return store(normalise(_unembedded(wide(first), wide(projected)), weight, eps), out, first.dtype)


def reference_unembed_streams_backward(
    dy: Tensor,
    first: Tensor,
    projected: Tensor,
    weight: Tensor,
    eps: float,
    *,
    dfirst: Tensor | None = None,
    dprojected: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    x, h = wide(first), wide(projected)
    width, n = x.shape[-1], 1 + h.shape[0]
    g = normalise_backward(wide(dy), _unembedded(x, h), weight, eps) / n
    target, power = _scales(x, h)
    inverse = power.clamp_min(MAGNITUDE_FLOOR).rsqrt()
    along = (g * h).sum(-1, keepdim=True) * inverse
    # Below the floor the divisor is constant and the direction term vanishes.
    direction = torch.where(power > MAGNITUDE_FLOOR, along * inverse * inverse / width, 0.0)
    dh = target * (inverse * g - h * direction)
    dx = g + x * along.sum(0) / (width * target)
    return store(dx, dfirst, dy.dtype), store(dh, dprojected, dy.dtype)
