"""Loss and every LoRA gradient against transformers and autograd, in fp64 on the same dequantised weights."""

from __future__ import annotations

import pytest
import torch

from agentloop.engine.batch import join
from agentloop.engine.memory import Keep


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("packed", [True, False])
def test_equal_to_autograd(trainable, oracle, sequences, packed, skip):
    expected, gradients = oracle.loss_and_gradients(sequences)
    batches = [join(sequences)] if packed else [join([row]) for row in sequences]
    supervised = sum(batch.supervised for batch in batches)
    total = sum(float(trainable.loss_and_gradients(batch, weight=1 / supervised, skip=skip).loss_sum) for batch in batches)
    assert total == pytest.approx(expected, rel=1e-7)  # transformers keeps its embedding scale in fp32
    ours = trainable.lora.named_gradients()
    assert ours.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert relative(ours[name], gradient) < 1e-5, name


@pytest.mark.parametrize("chunk", [64, 4096])
@pytest.mark.parametrize("keep", list(Keep))
def test_levels_are_exact(trainable, sequences, keep, chunk):
    batch = join(sequences)
    trainable.loss_and_gradients(batch)
    expected = trainable.lora.gradients.clone()
    trainable.lora.gradients.zero_()
    trainable.keep = (keep,) * trainable.shape.layers
    for layer in trainable.layers:
        layer.feedforward.chunk = chunk
    trainable.loss_and_gradients(batch)
    assert relative(trainable.lora.gradients, expected) < 1e-12


def test_gradients_add_up(trainable, sequences):
    batch = join(sequences)
    trainable.loss_and_gradients(batch, weight=1.0)
    once = trainable.lora.gradients.clone()
    trainable.loss_and_gradients(batch, weight=0.5)
    assert relative(trainable.lora.gradients, 1.5 * once) < 1e-12


def test_nothing_supervised(trainable):
    loss = trainable.loss_and_gradients(join([([5, 6, 7], [False] * 3)]))
    assert (float(loss.loss_sum), loss.supervised) == (0.0, 0)
    assert not trainable.lora.gradients.any()
