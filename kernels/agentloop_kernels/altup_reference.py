"""AltUp in plain torch: see altup.py for the formulas and the meaning of every argument."""

from __future__ import annotations

import torch
from torch import Tensor

from agentloop_kernels.norm import normalise, normalise_backward
from agentloop_kernels.precision import store, wide


def route(x: Tensor, router: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(m = tanh(R x r(x)) [tokens, n], r [tokens, 1]); x already wide."""
    r = torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    return torch.tanh((x @ router.to(x.dtype).T) * r), r


def route_backward(dm: Tensor, m: Tensor, r: Tensor, x: Tensor, router: Tensor) -> Tensor:
    """Gradient of `route` into x. With z = r R x: dx = r R'dz - x r^2 <dz, z> / hidden."""
    dz = dm * (1.0 - m * m)
    z = (x @ router.to(x.dtype).T) * r
    return r * (dz @ router.to(x.dtype)) - x * r * r * (dz * z).sum(-1, keepdim=True) / x.shape[-1]


def predicted(streams: Tensor, coefs: Tensor) -> Tensor:
    """P [n, tokens, hidden], streams already wide."""
    n = streams.shape[0]
    return streams + torch.einsum("tji,itd->jtd", coefs.to(streams.dtype).view(-1, n, n), streams)


def reference_predict(
    streams: Tensor,
    *,
    router: Tensor,
    prediction: Tensor,
    input_norm: Tensor,
    eps: float,
    coefs: Tensor | None = None,
    active: Tensor | None = None,
    normed: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    s, dtype = wide(streams), streams.dtype
    n = s.shape[0]
    c = route(s[0], router, eps)[0] @ prediction.to(s.dtype).T
    p = s[0] + torch.einsum("ti,itd->td", c[:, :n], s)
    x = normalise(p, input_norm, eps)
    return store(c, coefs, s.dtype), store(p, active, dtype), store(x, normed, dtype)


def reference_correct(
    merged: Tensor,
    feedforward_out: Tensor,
    active: Tensor,
    *,
    router: Tensor,
    correction: Tensor,
    feedforward_norm: Tensor,
    scale: Tensor,
    eps: float,
    feedforward_eps: float | None = None,
    activated: Tensor | None = None,
    gains: Tensor | None = None,
    first: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    p, dtype = wide(active), merged.dtype
    a = wide(merged) + normalise(
        wide(feedforward_out), feedforward_norm, eps if feedforward_eps is None else feedforward_eps
    )
    k = route(a, router, eps)[0] @ correction.to(p.dtype).T + 1.0
    f = (p + k[:, :1] * (a - p)) * scale.to(p.dtype)
    return store(a, activated, dtype), store(k, gains, p.dtype), store(f, first, dtype)


def reference_advance(
    streams: Tensor,
    coefs: Tensor,
    activated: Tensor,
    gains: Tensor,
    projected: Tensor,
    *,
    ple_norm: Tensor,
    eps: float,
    out: Tensor | None = None,
) -> Tensor:
    p = predicted(wide(streams), coefs)
    c = p + gains.to(p.dtype).T.unsqueeze(-1) * (wide(activated) - p[0])
    c[1:] += normalise(wide(projected), ple_norm, eps)
    return store(c, out, streams.dtype)


def reference_advance_backward(
    dstreams: Tensor, projected: Tensor, *, ple_norm: Tensor, eps: float, dprojected: Tensor | None = None
) -> Tensor:
    do = normalise_backward(wide(dstreams[1:]).sum(0), wide(projected), ple_norm, eps)
    return store(do, dprojected, dstreams.dtype)


def reference_correct_backward(
    dstreams: Tensor,
    dfirst: Tensor,
    feedforward_out: Tensor,
    active: Tensor,
    activated: Tensor,
    gains: Tensor,
    *,
    router: Tensor,
    correction: Tensor,
    feedforward_norm: Tensor,
    scale: Tensor,
    eps: float,
    feedforward_eps: float | None = None,
    dactivated: Tensor | None = None,
    dfeedforward: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    dc, a = wide(dstreams).clone(), wide(activated)
    dc[0] += wide(dfirst) * scale.to(a.dtype)
    innovation = a - wide(active)
    dk = (dc * innovation).sum(-1).T
    dinnovation = (gains.to(a.dtype).T.unsqueeze(-1) * dc).sum(0)
    m, r = route(a, router, eps)
    da = dinnovation + route_backward(dk @ correction.to(a.dtype), m, r, a, router)
    dff = normalise_backward(
        da, wide(feedforward_out), feedforward_norm, eps if feedforward_eps is None else feedforward_eps
    )
    dstreams[0].copy_(dc[0] - dinnovation)
    dtype = dstreams.dtype
    return store(da, dactivated, dtype), store(dff, dfeedforward, dtype)


def reference_predict_backward(
    dstreams: Tensor,
    streams: Tensor,
    coefs: Tensor,
    dnormed: Tensor,
    dsum: Tensor | None,
    *,
    router: Tensor,
    prediction: Tensor,
    input_norm: Tensor,
    eps: float,
) -> None:
    dp, s = wide(dstreams).clone(), wide(streams)
    n = s.shape[0]
    c = coefs.to(s.dtype)
    p = s[0] + torch.einsum("ti,itd->td", c[:, :n], s)
    residual = torch.zeros_like(p) if dsum is None else wide(dsum)
    dp[0] += residual + normalise_backward(wide(dnormed) + residual, p, input_norm, eps)
    dc = torch.einsum("jtd,itd->tji", dp, s).reshape(-1, n * n)
    ds = dp + torch.einsum("tji,jtd->itd", c.view(-1, n, n), dp)
    m, r = route(s[0], router, eps)
    ds[0] += route_backward(dc @ prediction.to(s.dtype), m, r, s[0], router)
    dstreams.copy_(ds)
