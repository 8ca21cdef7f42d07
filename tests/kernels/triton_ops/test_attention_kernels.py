from dataclasses import fields, replace

import pytest
import torch
from agentloop_kernels import attention, attention_triton
from judging import DEVICE, Poisoned, error, normal

SEGMENTS = (0, 20, 21, 52, 52, 60)
TOKENS = 64
SOME_ROWS = (0, 3, 19, 20, 25, 26, 27, 40, 51, 59, 63, 63)


def moved(plan: attention.AttentionPlan) -> attention.AttentionPlan:
    values = {f.name: getattr(plan, f.name) for f in fields(plan)}
    return replace(plan, **{name: v.to(DEVICE) for name, v in values.items() if isinstance(v, torch.Tensor)})


@pytest.mark.parametrize("rows", [None, SOME_ROWS], ids=["all_rows", "some_rows"])
@pytest.mark.parametrize(
    ("window", "softcap", "head_dim", "accumulate"),
    [(None, None, 32, False), (9, None, 32, True), (9, 2.0, 24, False)],
)
def test_attention(dtype, rows, window, softcap, head_dim, accumulate):
    heads, kv_heads, scale = 4, 2, 0.5
    query_rows = None if rows is None else torch.tensor(rows, dtype=torch.int32)
    plan = attention.plan_attention(torch.tensor(SEGMENTS), TOKENS, 32, window=window, query_rows=query_rows)
    queries = TOKENS if rows is None else len(rows)
    q, dout = normal(queries, heads, head_dim).to(dtype), normal(queries, heads, head_dim, seed=1).to(dtype)
    k, v = normal(TOKENS, kv_heads, head_dim, seed=2).to(dtype), normal(TOKENS, kv_heads, head_dim, seed=3).to(dtype)
    held = normal(2, TOKENS, kv_heads, head_dim, seed=4).float()
    options = {"scale": scale, "softcap": softcap}

    def reference(precision):
        x = [t.to(precision) for t in (q, k, v, dout)]
        out, lse = attention.reference_attention(*x[:3], plan, **options)
        grads = attention.reference_attention_backward(x[3], *x[:3], out, lse, plan, **options)
        if accumulate:
            grads = (grads[0], *(g.to(precision) + h.to(precision) for g, h in zip(grads[1:], held, strict=True)))
        return out, lse, *grads

    truth, eager = reference(torch.float64), reference(dtype)
    made = Poisoned(dtype)
    on_device = [t.to(DEVICE) for t in (q, k, v, dout)]
    out, lse = attention_triton.triton_attention(
        *on_device[:3], moved(plan), out=made(queries, heads, head_dim, dense=True), **options
    )
    if accumulate:
        dkey, dvalue = held.clone().to(DEVICE)
    else:
        dkey, dvalue = (made(TOKENS, kv_heads, head_dim, dense=True) for _ in range(2))
    grads = attention_triton.triton_attention_backward(
        on_device[3], *on_device[:3], out, lse, moved(plan), dquery=made(queries, heads, head_dim, dense=True),
        dkey=dkey, dvalue=dvalue, accumulate=accumulate, **options,
    )  # fmt: skip
    made.check()
    for name, mine, plain, exact in zip(
        ("out", "lse", "dq", "dk", "dv"), (out, lse, *grads), eager, truth, strict=True
    ):
        # Probabilities are rounded before the second product, as in every flash attention: one rounding more.
        limit = 2.5 * error(plain, exact) + (1e-6 if dtype == torch.float32 else 0.5 * torch.finfo(dtype).eps)
        assert error(mine, exact) <= limit, f"{name}: {error(mine, exact):.2e} > {limit:.2e}"


@pytest.mark.skipif(DEVICE != "cuda", reason="aten's FlashAttention has no CPU version")
@pytest.mark.parametrize("window", [None, 100])
@pytest.mark.parametrize("head_dim", [256, 64])
def test_flash_attention_and_own_kernels_agree(dtype, window, head_dim):
    if dtype == torch.float32:
        pytest.skip("FlashAttention takes 16-bit tensors")
    tokens, heads, kv_heads = 700, 8, 2
    plan = moved(attention.plan_attention(torch.tensor([0, 300, 301, 650]), tokens, 350, window=window))
    q, dout = (normal(tokens, heads, head_dim, seed=i).to(DEVICE, dtype) for i in range(2))
    k, v = (normal(tokens, kv_heads, head_dim, seed=2 + i).to(DEVICE, dtype) for i in range(2))
    options = {"scale": head_dim**-0.5, "softcap": None}
    deep = [t.double().cpu() for t in (q, k, v, dout)]
    host = attention.plan_attention(torch.tensor([0, 300, 301, 650]), tokens, 350, window=window)
    truth_out, truth_lse = attention.reference_attention(*deep[:3], host, **options)
    truth = attention.reference_attention_backward(deep[3], *deep[:3], truth_out, truth_lse, host, **options)
    flash_out, flash_lse = attention.flash_attention(q, k, v, plan, scale=options["scale"])
    flash = attention.flash_attention_backward(dout, q, k, v, flash_out, flash_lse, plan, scale=options["scale"])
    own_out, own_lse = attention_triton.triton_attention(q, k, v, plan, out=None, **options)
    own = attention_triton.triton_attention_backward(
        dout, q, k, v, own_out, own_lse, plan, dquery=None, dkey=None, dvalue=None, accumulate=False, **options
    )
    assert error(own_lse, truth_lse) < 1e-5 and error(flash_lse, truth_lse) < 1e-5
    for exact, theirs, mine in zip((truth_out, *truth), (flash_out, *flash), (own_out, *own), strict=True):
        assert error(mine, exact) <= 1.3 * error(theirs, exact) + 1e-6
