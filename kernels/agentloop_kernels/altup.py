"""AltUp: predict all streams from a router, compute on stream 0 only, correct the others by what it learned.

For a token with streams S_0..S_{n-1} (n = 4 in Gemma 3n; stream 0 is the active one) and decoder layer F:

    m  = tanh(R S_0 r(S_0))       c = W_p m          P_j = S_j + sum_i c[n j + i] S_i       x = RMS(P_0; w_in)
    al = norm.merge_attention     A = al + RMS(feedforward(al); w_ff)
    m' = tanh(R A r(A))           k = W_c m' + 1     C_j = P_j + k_j (A - P_0)              f = C_0 * scale
    o  = W_o (gelu(W_g f) * ple)  C_j += RMS(o; w_ple) for j >= 1                           next S = C

r(x) = (mean(x^2) + eps)^-1/2 and R [n, hidden] fp32 is `fold_router`: router weight times router norm weight over hidden.
`prediction` is W_p [n * n, n], `correction` is W_c [n, n]; both already clamped to altup_coef_clip (the model does it in
training; do it once at load). Frozen, so none of these gets a gradient. One kernel joins the end of a layer to the
start of the next: `advance_predict`; on the way back `predict_backward` with `projected` joins them likewise.

Source: Gemma3nTextAltUp and Gemma3nTextDecoderLayer in transformers' modeling_gemma3n.py; gradients derived by hand and
checked against autograd.
"""

from __future__ import annotations

import torch
from torch import Tensor

from agentloop_kernels.norm import normalise, normalise_backward
from agentloop_kernels.precision import store, wide


def fold_router(router: Tensor, router_norm: Tensor) -> Tensor:
    """R of the module's formula: modality_router.weight [n, hidden] * router_norm.weight [hidden] / hidden, in fp32."""
    return (wide(router) * wide(router_norm) / router.shape[-1]).contiguous()


def predict(
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
    """streams [n, tokens, hidden] -> (c fp32 [tokens, n * n], P_0 [tokens, hidden], x [tokens, hidden])."""
    return reference_predict(
        streams, router=router, prediction=prediction, input_norm=input_norm, eps=eps, coefs=coefs, active=active,
        normed=normed,
    )  # fmt: skip


def correct(
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
    """(al, down_proj's output, P_0), each [tokens, hidden] -> (A [tokens, hidden], k fp32 [tokens, n], f).

    `scale` [hidden] is correct_output_scale (ones where altup_correct_scale is off). `feedforward_eps` as
    `attention_eps` in norm.py. `activated` may be `merged` or `feedforward_out`.
    """
    return reference_correct(
        merged, feedforward_out, active, router=router, correction=correction, feedforward_norm=feedforward_norm,
        scale=scale, eps=eps, feedforward_eps=feedforward_eps, activated=activated, gains=gains, first=first,
    )  # fmt: skip


def advance(
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
    """The end of a layer: C from S, c, A, k and o (`projected`, [tokens, hidden]) -> [n, tokens, hidden].

    `out` may be `streams`.
    """
    return reference_advance(streams, coefs, activated, gains, projected, ple_norm=ple_norm, eps=eps, out=out)


def advance_predict(
    streams: Tensor,
    coefs: Tensor,
    activated: Tensor,
    gains: Tensor,
    projected: Tensor,
    *,
    ple_norm: Tensor,
    router: Tensor,
    prediction: Tensor,
    input_norm: Tensor,
    eps: float,
    streams_out: Tensor | None = None,
    coefs_out: Tensor | None = None,
    active_out: Tensor | None = None,
    normed_out: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`advance` with this layer's `ple_norm`, then `predict` with the next layer's weights, in one pass over the streams.

    Returns (C, next c, next P_0, next x). `streams_out` may be `streams`, `coefs_out` may be `coefs`.
    """
    return reference_advance_predict(
        streams, coefs, activated, gains, projected, ple_norm=ple_norm, router=router, prediction=prediction,
        input_norm=input_norm, eps=eps, streams_out=streams_out, coefs_out=coefs_out, active_out=active_out,
        normed_out=normed_out,
    )  # fmt: skip


def advance_backward(
    dstreams: Tensor, projected: Tensor, *, ple_norm: Tensor, eps: float, dprojected: Tensor | None = None
) -> Tensor:
    """do = RMS'(dC_1 + .. + dC_{n-1}; o) [tokens, hidden]: the part of `advance`'s gradient that the PLE branch needs.

    `dstreams` [n, tokens, hidden] stays as it is; `correct_backward` turns it into dP.
    """
    return reference_advance_backward(dstreams, projected, ple_norm=ple_norm, eps=eps, dprojected=dprojected)


def correct_backward(
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
    """Gradient of `correct` and of C_j = P_j + k_j (A - P_0) -> (dA, gradient of down_proj's output), [tokens, hidden].

    `dstreams` comes in as dC and is changed in place into dP: slot 0 becomes dC_0 + dfirst * scale - sum_j k_j dC_j, the
    others are their own gradient. dA is the gradient of `merged` past the feed-forward. `dactivated` may be `dfirst`.
    """
    return reference_correct_backward(
        dstreams, dfirst, feedforward_out, active, activated, gains, router=router, correction=correction,
        feedforward_norm=feedforward_norm, scale=scale, eps=eps, feedforward_eps=feedforward_eps,
        dactivated=dactivated, dfeedforward=dfeedforward,
    )  # fmt: skip


def predict_backward(
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
    projected: Tensor | None = None,
    ple_norm: Tensor | None = None,
    dprojected: Tensor | None = None,
) -> Tensor | None:
    """Gradient of `predict`, in place: `dstreams` [n, tokens, hidden] comes in as dP and goes out as dS.

    `dnormed` is the gradient of x by q, k, v and LAuReL; `dsum` the one by the residual sum, which belongs to x and to
    P_0 (see `norm.merge_attention_backward`; None where nothing came back, as for rows that only made keys).

        dx = dnormed + dsum;  dP_0 += dsum + RMS'(dx; P_0);  dc[n j + i] = <dP_j, S_i>
        dS_i = dP_i + sum_j c[n j + i] dP_j;  dS_0 += gradient through the router

    With `projected` (the layer before's o) and its `ple_norm` the result of `advance_backward` on dS is made in the
    same pass and returned; else None.
    """
    return reference_predict_backward(
        dstreams, streams, coefs, dnormed, dsum, router=router, prediction=prediction, input_norm=input_norm, eps=eps,
        projected=projected, ple_norm=ple_norm, dprojected=dprojected,
    )  # fmt: skip


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
    c = _advanced(streams, coefs, activated, gains, projected, ple_norm, eps)
    return store(c, out, streams.dtype)


def _advanced(
    streams: Tensor, coefs: Tensor, activated: Tensor, gains: Tensor, projected: Tensor, ple_norm: Tensor, eps: float
) -> Tensor:
    p = predicted(wide(streams), coefs)
    c = p + gains.to(p.dtype).T.unsqueeze(-1) * (wide(activated) - p[0])
    c[1:] += normalise(wide(projected), ple_norm, eps)
    return c


def reference_advance_predict(
    streams: Tensor,
    coefs: Tensor,
    activated: Tensor,
    gains: Tensor,
    projected: Tensor,
    *,
    ple_norm: Tensor,
    router: Tensor,
    prediction: Tensor,
    input_norm: Tensor,
    eps: float,
    streams_out: Tensor | None = None,
    coefs_out: Tensor | None = None,
    active_out: Tensor | None = None,
    normed_out: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    following = _advanced(streams, coefs, activated, gains, projected, ple_norm, eps)
    # The next layer starts from the rounded streams, as it does when it is recomputed from what was kept.
    following = store(following, streams_out, streams.dtype)
    return following, *reference_predict(
        following, router=router, prediction=prediction, input_norm=input_norm, eps=eps, coefs=coefs_out,
        active=active_out, normed=normed_out,
    )  # fmt: skip


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
    projected: Tensor | None = None,
    ple_norm: Tensor | None = None,
    dprojected: Tensor | None = None,
) -> Tensor | None:
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
    if projected is None:
        return None
    return reference_advance_backward(dstreams, projected, ple_norm=ple_norm, eps=eps, dprojected=dprojected)
