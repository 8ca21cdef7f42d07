"""Products of 16-bit matrices on the CPU: one rounding of an fp32 sum, whatever instructions the processor has."""

import pytest
import torch

from agentloop.engine.lora import projection
from agentloop.engine.lora.projection import product


@pytest.mark.parametrize("units", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_one_rounding(dtype: torch.dtype, units: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projection, "_cpu_multiplies", lambda _: units)
    torch.manual_seed(0)
    a, b = torch.randn(33, 640).to(dtype), torch.randn(640, 50).to(dtype)
    exact = a.double() @ b.double()
    # half a unit in the last place of the largest binade, and what is lost when 640 numbers are summed in fp32
    bound = exact.abs().max() * (torch.finfo(dtype).eps / 2) + 1e-4
    out = torch.empty(33, 50, dtype=dtype)
    for result in (product(a, b), product(a, b, out=out)):
        assert result.dtype == dtype
        assert (result.double() - exact).abs().max() <= bound
    assert torch.equal(product(a, b), out)


def test_fp32_is_left_alone() -> None:
    a, b = torch.randn(5, 7), torch.randn(7, 3)
    assert torch.equal(product(a, b), a @ b)
