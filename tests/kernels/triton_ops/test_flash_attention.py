"""torch's FlashAttention, which takes 16-bit CUDA tensors only, beside the own kernels."""

import pytest
import torch
from judging import DEVICE, error, moved, normal

from agentloop_kernels import attention, attention_triton


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("window", [None, 100])
@pytest.mark.parametrize("head_dim", [256, 64])
def test_flash_attention_and_own_kernels_agree(dtype, window, head_dim):
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
