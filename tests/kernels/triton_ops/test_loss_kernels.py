import pytest
import torch
from judging import DEVICE, normal

from agentloop_kernels import loss


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


@pytest.mark.parametrize("op", [loss.triton_softcap_cross_entropy, loss.reference_softcap_cross_entropy])
@pytest.mark.parametrize(("words", "softcap"), [(64, None), (9000, 30.0)])
def test_a_label_that_is_no_word_trains_nothing_in_silence(op, words, softcap):
    """Its loss and its gradient are NaN, those of its neighbours as without it."""
    labels = torch.tensor([3, -1, 5, words, loss.IGNORED, -101, words + 10**6, words - 1], device=DEVICE)
    right = torch.where((labels >= 0) & (labels < words), labels, loss.IGNORED)
    logits, expected = 6 * normal(8, words), 6 * normal(8, words)
    expected.copy_(logits)
    losses, fine = op(logits, labels, softcap), op(expected, right, softcap)
    wrong = right != labels
    assert losses[wrong].isnan().all() and logits[wrong].isnan().all()
    assert torch.equal(losses[~wrong], fine[~wrong]) and torch.equal(logits[~wrong], expected[~wrong])


@pytest.mark.parametrize(
    ("words", "softcap", "gradient"), [(64, None, True), (9000, None, False), (500, 3.0, False), (9000, 30.0, True)]
)
@pytest.mark.parametrize("peak", [6.0, 300.0])
def test_what_else_is_observed(agree, words, softcap, gradient, peak):
    """With a large `peak` nearly all probability is on a few words."""
    logits = peak * normal(6, words)
    logits[3, 20:40] = logits[3].max()  # several as probable as the label
    best = logits.argmax(-1)
    labels = torch.tensor([int(best[0]), loss.IGNORED, words - 1, int(best[3]), int(best[4]), int(best[3]) + 1])

    def call(op, t, out):
        entropy = out(6, dtype=torch.float32, dense=True)
        if entropy is None:
            entropy = torch.empty(6, dtype=torch.float64)
        seen = loss.Observed(entropy, torch.zeros(6, dtype=torch.bool, device=entropy.device))
        op(t["logits"], t["labels"], softcap, gradient=gradient, observed=seen)
        assert seen.top.tolist() == [True, False, False, True, True, False]
        return (seen.entropy,)

    agree(
        loss.triton_softcap_cross_entropy, loss.reference_softcap_cross_entropy, call,
        {"logits": logits, "labels": labels},
    )  # fmt: skip


def test_no_softcap_survives_large_logits(dtype):
    logits = torch.full((1, 100), -3e4, dtype=dtype, device=DEVICE)
    logits[0, 7] = 3e4
    labels = torch.tensor([7], device=DEVICE)
    assert loss.triton_softcap_cross_entropy(logits, labels, None).item() == 0.0
    assert (logits == 0).all()
