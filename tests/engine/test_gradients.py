"""Loss and every LoRA gradient against transformers and autograd, in fp64 on the same dequantised weights."""

from __future__ import annotations

import pytest
import torch

from agentloop.engine.batch import join, split
from agentloop.engine.batch.shapes import exact, rounded
from agentloop.engine.memory.plans import Keep, StepPlan
from agentloop.engine.step.context import step_inputs

pytestmark = pytest.mark.parametrize("checkpoint", ["gemma3n", "gemma3", "gemma2", "gemma1"], indirect=True)


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("packed", [True, False])
def test_equal_to_autograd(trainable, oracle, sequences, packed, skip):
    expected, gradients = oracle.loss_and_gradients(sequences)
    batches = [join(sequences)] if packed else [join([row]) for row in sequences]
    supervised = sum(batch.supervised for batch in batches)
    total = sum(
        float(trainable.loss_and_gradients(batch, weight=1 / supervised, skip=skip).loss_sum) for batch in batches
    )
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
    trainable.plan = StepPlan((keep,) * trainable.shape.layers, chunk=chunk, head_rows=32)
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


@pytest.mark.parametrize("skip", [True, False])
def test_padding_is_exact(trainable, sequences, skip):
    """What CUDA graphs need: fixed sizes, filled up with tokens and rows that count for nothing."""
    batch = join(sequences)
    expected = trainable.loss_and_gradients(batch, skip=skip).loss_sum
    gradients = trainable.lora.gradients.clone()
    trainable.lora.gradients.zero_()
    inputs = step_inputs(batch, shape=rounded(exact(batch, skip)))
    assert inputs.token_ids.numel() % 256 == 0 and inputs.labels.numel() % 256 == 0
    scale = torch.full((1, 1), 1 / batch.supervised, dtype=torch.float64)
    loss = trainable._step(inputs, scale, trainable.step_plan(batch))
    assert float(loss.losses.sum()) == pytest.approx(float(expected), rel=1e-12)
    assert relative(trainable.lora.gradients, gradients) < 1e-12


@pytest.mark.parametrize("parts", [2, 4, 7])
def test_dealt_out_batches_add_up(trainable, sequences, parts):
    """What several devices compute; with seven, two have nothing."""
    batch = join(sequences)
    expected = float(trainable.loss_and_gradients(batch).loss_sum)
    gradients = trainable.lora.gradients.clone()
    trainable.lora.gradients.zero_()
    shares = split(batch, parts)
    assert sum(share.tokens for share in shares) == batch.tokens
    total = sum(float(trainable.loss_and_gradients(share, weight=1 / batch.supervised).loss_sum) for share in shares)
    assert total == pytest.approx(expected, rel=1e-12)
    assert relative(trainable.lora.gradients, gradients) < 1e-12
