"""What a step of generation computes with kernels of its own: attention over a cache, and products with packed weights."""

import pytest
import torch
from judging import DEVICE, Poisoned, error, normal

from agentloop_kernels import decode_attention, nf4, nf4_matmul


def limit(plain: torch.Tensor, exact: torch.Tensor, dtype: torch.dtype) -> float:
    return 2.5 * error(plain, exact) + (1e-6 if dtype == torch.float32 else 0.5 * torch.finfo(dtype).eps)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "slots", "softcap"),
    [(4, 2, 32, 70, None), (4, 1, 24, 600, 2.0), (2, 2, 16, 9, None)],
)
def test_attention_over_a_cache(dtype, heads, kv_heads, head_dim, slots, softcap):
    last = torch.tensor([slots - 1, 0, 6], dtype=torch.int32)
    options = {"scale": 0.5, "softcap": softcap}
    query = normal(3, heads, head_dim).to(dtype)
    key, value = (normal(3, kv_heads, slots, head_dim, seed=seed).to(dtype) for seed in (1, 2))
    seen = torch.arange(slots) <= last[:, None]

    def reference(precision: torch.dtype) -> torch.Tensor:
        parts = (x.to(precision) for x in (query, key, value))
        return decode_attention.reference_decode_attention(*parts, **options, seen=seen)

    unseen = ~seen[:, None, :, None]
    key, value = (x.masked_fill(unseen, float("nan")) for x in (key, value))  # the kernel does not even read them
    room = Poisoned(dtype)
    out = room(3, heads * head_dim)
    on_device = [x.to(DEVICE) for x in (query, key, value, last)]
    decode_attention.triton_decode_attention(*on_device, **options, out=out.unflatten(1, (heads, head_dim)))
    room.check()
    key, value = (x.masked_fill(unseen, 0.0) for x in (key, value))
    exact = reference(torch.float64).flatten(1)
    assert error(out, exact) <= limit(reference(dtype).flatten(1), exact, dtype)


@pytest.mark.parametrize("rows", [1, 5, 19])
@pytest.mark.parametrize(("outputs", "columns"), [(6, 64), (33, 448), (40, 1024)])
def test_product_with_packed_weights(dtype, rows, outputs, columns):
    weight = nf4.quantise(normal(outputs, columns).float())
    x = normal(rows, columns + 8, seed=1).to(dtype)
    # The very weights that the other products take, so only the sums may differ.
    exact = x[:, :columns].double() @ nf4.reference_dequantise(weight, dtype=dtype).double().t()
    plain = nf4_matmul.reference_nf4_matmul(x[:, :columns], weight)
    room = Poisoned(dtype)
    ours = nf4_matmul.triton_nf4_matmul(x.to(DEVICE)[:, :columns], weight.to(DEVICE), out=room(rows, outputs))
    room.check()
    assert error(ours, exact) <= limit(plain, exact, dtype)
