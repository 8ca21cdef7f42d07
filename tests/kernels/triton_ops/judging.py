"""How a kernel is judged: by its error against fp64, relative to the reference's own error in the same dtype.

Both get the same rounded inputs. Every output buffer is poisoned with NaN and wider than the result: what a kernel
leaves out, or writes outside, shows.
"""

from collections.abc import Callable
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from agentloop_kernels.attention import AttentionPlan

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# The interpreter is silently wrong in bf16: it multiplies bit patterns.
DTYPES = [torch.float32, torch.float16] + ([torch.bfloat16] if DEVICE == "cuda" else [])
MARGIN = 9


@pytest.fixture(params=DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
def dtype(request) -> torch.dtype:
    return request.param


class Poisoned:
    """Makes output buffers and knows afterwards whether exactly they were written."""

    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype
        self.made: list[tuple[Tensor, Tensor]] = []

    def __call__(self, *shape: int, dtype: torch.dtype | None = None, dense: bool = False) -> Tensor:
        wide = (*shape[:-1], shape[-1] + (0 if dense else MARGIN))
        whole = torch.full(wide, float("nan"), dtype=dtype or self.dtype, device=DEVICE)
        inner = whole[..., : shape[-1]]
        self.made.append((whole, inner))
        return inner

    def check(self) -> None:
        for whole, inner in self.made:
            assert not inner.isnan().any(), "an element was not written"
            assert whole[..., inner.shape[-1] :].isnan().all(), "something was written outside the buffer"


def nothing(*shape: int, dtype: torch.dtype | None = None, dense: bool = False) -> None:
    """The reference makes its own outputs."""


def moved(plan: AttentionPlan) -> AttentionPlan:
    """On the device under test."""
    values = {f.name: getattr(plan, f.name) for f in fields(plan)}
    return replace(plan, **{name: v.to(DEVICE) for name, v in values.items() if isinstance(v, torch.Tensor)})


def error(ours: Tensor, truth: Tensor) -> float:
    """Relative to the root mean square of the truth."""
    truth = truth.double().cpu()
    difference = (ours.double().cpu() - truth).square().mean().sqrt()
    return (difference / truth.square().mean().sqrt().clamp_min(1e-30)).item()


@pytest.fixture
def agree(dtype) -> Callable:
    """agree(triton_op, reference_op, call, inputs, wide=()): `call(op, inputs, out)` -> tensors.

    Inputs are fp64; those named in `wide` stay fp32, the others are rounded to the dtype under test. Integers stay.
    """

    def convert(inputs: dict[str, Tensor], wide: tuple[str, ...], to: torch.dtype, device: str) -> dict[str, Tensor]:
        return {
            name: (x.to(torch.float32 if name in wide else to) if x.is_floating_point() else x).to(device)
            for name, x in inputs.items()
        }

    def run(triton_op, reference_op, call, inputs: dict[str, Tensor], wide: tuple[str, ...] = ()) -> None:
        rounded = convert(inputs, wide, dtype, "cpu")
        deep = {name: x.double() if x.is_floating_point() else x.clone() for name, x in rounded.items()}
        truth = call(reference_op, deep, nothing)
        eager = call(reference_op, {name: x.clone() for name, x in rounded.items()}, nothing)
        out = Poisoned(dtype)
        ours = call(triton_op, {name: x.clone().to(DEVICE) for name, x in rounded.items()}, out)
        out.check()
        for i, (mine, plain, exact) in enumerate(zip(ours, eager, truth, strict=True)):
            limit = 1.5 * error(plain, exact) + 1e-6
            assert error(mine, exact) <= limit, f"output {i}: {error(mine, exact):.2e} > {limit:.2e}"

    return run


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(hash((seed, *shape)) % 2**31)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)
