import pytest
import torch
from judging import DEVICE, MARGIN, Poisoned, normal

from agentloop_kernels import nf4


@pytest.mark.parametrize(("rows", "columns"), [(6, 64), (33, 192), (40, 640)])
def test_dequantise_is_bit_exact(dtype, rows, columns):
    weight = nf4.quantise(normal(rows, columns).float())
    out = Poisoned(dtype)
    ours = nf4.triton_dequantise(weight.to(DEVICE), out=out(rows, columns))
    out.check()
    assert ours.stride(0) == columns + MARGIN
    assert torch.equal(ours.cpu(), nf4.reference_dequantise(weight, dtype=dtype))
