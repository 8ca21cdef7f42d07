import pytest
import torch
from judging import DEVICE, normal

from agentloop_kernels import adamw, adamw_8bit


@pytest.mark.parametrize("numel", [1024, 2500])
@pytest.mark.parametrize("copy", [False, True])
def test_adamw_equals_torch(dtype, numel, copy):
    start, grads = normal(numel).float(), normal(3, numel, seed=1).float()
    theirs = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.AdamW([theirs], lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    params, moment, variance = (t.to(DEVICE) for t in (start.clone(), torch.zeros(numel), torch.zeros(numel)))
    compute_copy = torch.full((numel,), float("nan"), dtype=dtype, device=DEVICE) if copy else None
    for step, grad in enumerate(grads, start=1):
        theirs.grad = 0.5 * grad
        optimizer.step()
        scalars = {"lr": 1e-2, "step": step, "clip": 0.5}
        adamw.triton_adamw(
            params, grad.to(DEVICE), moment, variance, beta1=0.9, beta2=0.95, weight_decay=0.1,
            compute_copy=compute_copy,
            **{name: torch.tensor(float(x), device=DEVICE) for name, x in scalars.items()},
        )  # fmt: skip
    torch.testing.assert_close(params.cpu(), theirs.detach(), rtol=1e-5, atol=1e-6)
    if copy:
        assert torch.equal(compute_copy, params.to(dtype))


@pytest.mark.parametrize("numel", [256, 2500])
def test_adamw_8bit_equals_its_reference(numel):
    """Levels may differ by one where a value lies on a midpoint but for its last bit."""
    start, grads = normal(numel).float(), normal(3, numel, seed=1).float() * 10 ** normal(numel, seed=2).float()
    ours, theirs = start.clone().to(DEVICE), start.clone()
    state, reference = adamw_8bit.new_state(numel, DEVICE), adamw_8bit.new_state(numel, "cpu")
    for step, grad in enumerate(grads, start=1):
        scalars = {"lr": 1e-2, "step": step, "clip": 0.5}
        for op, weights, held, device in (
            (adamw_8bit.triton_adamw_8bit, ours, state, DEVICE),
            (adamw_8bit.reference_adamw_8bit, theirs, reference, "cpu"),
        ):
            tensors = {name: torch.tensor(float(x), device=device) for name, x in scalars.items()}
            op(weights, grad.to(device), *held, **tensors, beta1=0.9, beta2=0.95, weight_decay=0.1)
    torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(state[1].cpu(), reference[1], rtol=1e-3, atol=0)
    off = (state[0].cpu().int() - reference[0].int()).abs()
    assert off.max() <= 1 and (off > 0).float().mean() < 0.01
