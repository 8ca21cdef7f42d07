import pytest
import torch
from agentloop_kernels import loss
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
