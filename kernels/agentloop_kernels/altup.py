"""AltUp: predict all streams from a router, compute on stream 0 only, correct the others by what it learned.

For a token with streams S_0..S_{n-1} (n = 4 in Gemma 3n; stream 0 is the active one) and decoder layer F:

    m  = tanh(R S_0 r(S_0))       c = W_p m          P_j = S_j + sum_i c[n j + i] S_i       x = RMS(P_0; w_in)
    al = norm.merge_attention     A = al + RMS(feedforward(al); w_ff)
    m' = tanh(R A r(A))           k = W_c m' + 1     C_j = P_j + k_j (A - P_0)              f = C_0 * scale
    o  = W_o (gelu(W_g f) * ple)  C_j += RMS(o; w_ple) for j >= 1                           next S = C

r(x) = (mean(x^2) + eps)^-1/2 and R [n, hidden] fp32 is `fold_router`: router weight times router norm weight over
hidden. `prediction` is W_p [n * n, n], `correction` is W_c [n, n]; both already clamped to altup_coef_clip (the model
does it in training; do it once at load). Frozen, so none of these gets a gradient.

Source: Gemma3nTextAltUp and Gemma3nTextDecoderLayer in transformers' modeling_gemma3n.py; gradients derived by hand and
checked against autograd.
"""

from __future__ import annotations

from torch import Tensor

from agentloop_kernels.altup_reference import (
    reference_advance,
    reference_advance_backward,
    reference_correct,
    reference_correct_backward,
    reference_predict,
    reference_predict_backward,
)
from agentloop_kernels.altup_triton import triton_advance, triton_correct, triton_predict
from agentloop_kernels.altup_triton_backward import (
    triton_advance_backward,
    triton_correct_backward,
    triton_predict_backward,
)
from agentloop_kernels.launching import takes_kernels
from agentloop_kernels.precision import wide


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
    op = triton_predict if takes_kernels(streams) else reference_predict
    return op(
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
    op = triton_correct if takes_kernels(merged) else reference_correct
    return op(
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
    op = triton_advance if takes_kernels(streams) else reference_advance
    return op(streams, coefs, activated, gains, projected, ple_norm=ple_norm, eps=eps, out=out)


def advance_backward(
    dstreams: Tensor, projected: Tensor, *, ple_norm: Tensor, eps: float, dprojected: Tensor | None = None
) -> Tensor:
    """do = RMS'(dC_1 + .. + dC_{n-1}; o) [tokens, hidden]: the part of `advance`'s gradient that the PLE branch needs.

    `dstreams` [n, tokens, hidden] stays as it is; `correct_backward` turns it into dP.
    """
    op = triton_advance_backward if takes_kernels(dstreams) else reference_advance_backward
    return op(dstreams, projected, ple_norm=ple_norm, eps=eps, dprojected=dprojected)


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

    `dstreams` comes in as dC and is changed in place into dP: slot 0 becomes dC_0 + dfirst * scale - sum_j k_j dC_j,
    the others are their own gradient. dA is the gradient of `merged` past the feed-forward. `dactivated` may be
    `dfirst`.
    """
    op = triton_correct_backward if takes_kernels(dstreams) else reference_correct_backward
    return op(
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
) -> None:
    """Gradient of `predict`, in place: `dstreams` [n, tokens, hidden] comes in as dP and goes out as dS.

    `dnormed` is the gradient of x by q, k, v and LAuReL; `dsum` the one by the residual sum, which belongs to x and to
    P_0 (see `norm.merge_attention_backward`; None where nothing came back, as for rows that only made keys).

        dx = dnormed + dsum;  dP_0 += dsum + RMS'(dx; P_0);  dc[n j + i] = <dP_j, S_i>
        dS_i = dP_i + sum_j c[n j + i] dP_j;  dS_0 += gradient through the router
    """
    op = triton_predict_backward if takes_kernels(dstreams) else reference_predict_backward
    op(dstreams, streams, coefs, dnormed, dsum, router=router, prediction=prediction, input_norm=input_norm, eps=eps)
