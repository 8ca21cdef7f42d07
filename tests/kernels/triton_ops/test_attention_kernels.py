import pytest
import torch
from judging import DEVICE, Poisoned, error, moved, normal

from agentloop_kernels import attention, attention_triton

SEGMENTS = (0, 18, 19, 37, 37, 44)
TOKENS = 48
SOME_ROWS = (0, 3, 17, 18, 22, 23, 24, 33, 36, 43, 47, 47)


@pytest.mark.parametrize("rows", [None, SOME_ROWS], ids=["all_rows", "some_rows"])
@pytest.mark.parametrize(
    ("window", "softcap", "head_dim", "accumulate"),
    # Without tensor cores, and in the interpreter, the scores of the last two are added up 32 columns at a time.
    [
        (None, None, 32, False),
        (9, None, 32, True),
        (9, 2.0, 24, False),
        (9, None, 72, False),
        (None, 2.0, 256, True),
    ],
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
