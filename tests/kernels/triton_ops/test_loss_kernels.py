import pytest
import torch
from agentloop_kernels import adamw, loss
from judging import DEVICE, normal


@pytest.mark.parametrize(
    ("words", "softcap", "gradient"), [(64, None, True), (9000, None, True), (500, 3.0, True), (9000, 30.0, True),
                                       (500, 30.0, False), (500, None, False)],
)  # fmt: skip
def test_softcap_cross_entropy(agree, words, softcap, gradient):
    labels = torch.tensor([3, loss.IGNORED, words - 1, 0, 17])
    inputs = {"logits": 6 * normal(5, words), "labels": labels}

    def call(op, t, out):
        losses = op(
            t["logits"], t["labels"], softcap, losses=out(5, dtype=torch.float32, dense=True), gradient=gradient
        )
        return losses, t["logits"]

    agree(loss.triton_softcap_cross_entropy, loss.reference_softcap_cross_entropy, call, inputs)


def test_no_softcap_survives_large_logits(dtype):
    logits = torch.full((1, 100), -3e4, dtype=dtype, device=DEVICE)
    logits[0, 7] = 3e4
    labels = torch.tensor([7], device=DEVICE)
    assert loss.triton_softcap_cross_entropy(logits, labels, None).item() == 0.0
    assert (logits == 0).all()


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
