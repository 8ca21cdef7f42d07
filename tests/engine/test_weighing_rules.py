"""Labels weighed by a rule: gradients against transformers and autograd in fp64, and against the engine without a rule."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from agentloop.engine.batch import join, split
from agentloop.engine.batch.shapes import exact, rounded
from agentloop.engine.memory.plans import Keep, StepPlan
from agentloop.engine.step.context import step_inputs
from agentloop.engine.step.network import Network


@dataclass(frozen=True)
class Static:
    """The first column."""

    def __call__(self, losses, columns):
        return columns[:, 0]


@dataclass(frozen=True)
class Ratio:
    """d/dlogp of -weight exp(logp - stored) where that is at most `most`, else nothing."""

    most: float

    def __call__(self, losses, columns):
        ratio = (-losses - columns[:, 1]).exp()
        return torch.where(ratio <= self.most, columns[:, 0] * ratio, 0.0)


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


@pytest.fixture
def columns(trainable, sequences):
    """For each token a weight of either sign, and a log probability near the model's own."""
    draw = np.random.default_rng(0)
    found = []
    for ids, _ in sequences:
        own = trainable.logprobs(ids).numpy() if len(ids) > 1 else np.zeros(0)
        near = np.concatenate([[0.0], own]) + draw.normal(0, 0.3, len(ids))
        found.append(np.stack([draw.normal(0, 1, len(ids)), near], axis=1).astype(np.float32))
    return found


@pytest.fixture
def expected(oracle, sequences, columns):
    """Gradients by autograd of the loss that `Ratio(1.1)` is the derivative of."""
    total = torch.zeros((), dtype=torch.float64)
    for (ids, mask), values in zip(sequences, columns, strict=True):
        if len(ids) == 1:
            continue
        weight, stored = torch.from_numpy(values[1:]).double().unbind(1)
        ratio = (oracle.logprobs(ids) - stored).exp()
        kept = torch.tensor(mask[1:]) & (ratio.detach() <= 1.1)
        total = total - (weight * ratio)[kept].sum()
    return oracle.gradients(total)


@pytest.mark.parametrize("checkpoint", ["gemma3n", "gemma3", "gemma2", "gemma1"], indirect=True)
@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("packed", [True, False])
def test_equal_to_autograd(trainable, sequences, columns, expected, packed, skip):
    each = [([row], [values]) for row, values in zip(sequences, columns, strict=True)]
    for rows, values in [(sequences, columns)] if packed else each:
        trainable.results_and_gradients(join(rows, values), 1.0, rule=Ratio(1.1), skip=skip)
    ours = trainable.lora.named_gradients()
    assert ours.keys() == expected.keys()
    for name, gradient in expected.items():
        assert relative(ours[name], gradient) < 1e-5, name


@pytest.mark.parametrize("chunk", [64, 4096])
@pytest.mark.parametrize("keep", list(Keep))
def test_levels_are_exact(trainable, sequences, columns, expected, keep, chunk):
    trainable.plan = StepPlan((keep,) * trainable.shape.layers, chunk=chunk, head_rows=32)
    trainable.results_and_gradients(join(sequences, columns), 1.0, rule=Ratio(1.1))
    for name, gradient in expected.items():
        assert relative(trainable.lora.named_gradients()[name], gradient) < 1e-5, name


def test_static_weights_are_those_of_a_tensor(trainable, sequences, columns):
    batch = join(sequences, columns)
    weights = step_inputs(batch).columns[:, 0]
    trainable.results_and_gradients(batch, 0.5 * weights.double())
    by_tensor = trainable.lora.gradients.clone()
    trainable.lora.gradients.zero_()
    trainable.results_and_gradients(batch, 0.5, rule=Static())
    assert relative(trainable.lora.gradients, by_tensor) < 1e-12


def test_without_a_rule_columns_change_no_bit(trainable, sequences, columns):
    losses = trainable.results_and_gradients(join(sequences), 0.1).losses
    gradients = trainable.lora.gradients.clone()
    trainable.lora.gradients.zero_()
    assert torch.equal(trainable.results_and_gradients(join(sequences, columns), 0.1).losses, losses)
    assert torch.equal(trainable.lora.gradients, gradients)


@pytest.mark.parametrize("skip", [True, False])
def test_padding_is_exact(trainable, sequences, columns, skip):
    batch, rule = join(sequences, columns), Ratio(1.1)
    trainable.results_and_gradients(batch, 0.5, rule=rule, skip=skip)
    gradients = trainable.lora.gradients.clone()
    trainable.lora.gradients.zero_()
    inputs = step_inputs(batch, shape=rounded(exact(batch, skip)))
    assert len(inputs.columns) == len(inputs.labels) > batch.supervised
    scale = torch.full((1, 1), 0.5, dtype=torch.float64)
    trainable._step(inputs, scale, trainable.step_plan(batch), rule=rule)
    assert relative(trainable.lora.gradients, gradients) < 1e-12


def test_dealt_out_batches_add_up(trainable, sequences, columns):
    batch = join(sequences, columns)
    trainable.results_and_gradients(batch, 0.5, rule=Ratio(1.1))
    gradients = trainable.lora.gradients.clone()
    trainable.lora.gradients.zero_()
    for share in split(batch, 3):
        trainable.results_and_gradients(share, 0.5, rule=Ratio(1.1))
    assert relative(trainable.lora.gradients, gradients) < 1e-12


def test_a_token_that_is_not_supervised_needs_nothing_above_the_boundary(trainable, sequences, columns, monkeypatch):
    """A weight of zero and a mask of False give the same gradient, and the mask carries fewer rows."""
    keep = [np.arange(len(ids)) % 3 == 0 for ids, _ in sequences]
    zeroed = [values * np.stack([kept, np.ones_like(kept)], 1) for values, kept in zip(columns, keep, strict=True)]
    masked = [(ids, [m and k for m, k in zip(mask, kept)]) for (ids, mask), kept in zip(sequences, keep, strict=True)]
    rows, given = [], Network._given

    def noting(network, index, ple, context):
        rows.append(None if context.rows is None else len(context.rows))
        return given(network, index, ple, context)

    monkeypatch.setattr(Network, "_given", noting)
    found = []
    for sequences_, values in ((sequences, zeroed), (masked, columns)):
        rows.clear()
        trainable.results_and_gradients(join(sequences_, values), 1.0, rule=Ratio(1.1), skip=True)
        found.append((trainable.lora.gradients.clone(), rows[-1]))
        trainable.lora.gradients.zero_()
    (all_rows, carried), (fewer_rows, fewer) = found
    assert relative(fewer_rows, all_rows) < 1e-12 and fewer < carried


def test_a_rule_needs_columns(trainable, sequences):
    with pytest.raises(ValueError, match="rule: the batch has no columns"):
        trainable.results_and_gradients(join(sequences), 1.0, rule=Static())
    with pytest.raises(ValueError, match="rows of columns"):
        join([([1, 2], [True, True])], [np.zeros((3, 1))])


def test_the_base_of_a_packed_batch(trainable, sequences):
    batch = join(sequences)
    base = trainable.token_results(batch, adapter=False).losses
    adapted = trainable.token_results(batch).losses
    singly = torch.cat(
        [trainable.logprobs(ids, adapter=False)[torch.tensor(mask[1:], dtype=bool)] for ids, mask in sequences]
    )
    assert torch.allclose(base, -singly, atol=1e-9) and not torch.allclose(base, adapted, atol=1e-3)


@pytest.mark.parametrize("loss_scale", [1.0, 2.0**14])
def test_fp16s_scale_is_found_behind_the_rule(trainable, sequences, columns, loss_scale, monkeypatch):
    """In fp16 the largest weight is made a constant; a rule's weights are known only between forward and backward."""
    batch = join(sequences, columns)
    trainable.results_and_gradients(batch, 1e-3, rule=Ratio(1.1))
    gradients = trainable.lora.gradients.clone()
    trainable.lora.gradients.zero_()
    monkeypatch.setattr(trainable.lora, "unscale", torch.ones((), dtype=torch.float64))
    monkeypatch.setattr(trainable.lora, "_loss_scale", loss_scale)
    trainable.results_and_gradients(batch, 1e-3, rule=Ratio(1.1))
    assert relative(trainable.lora.gradients, gradients) < 1e-12


def test_a_recorded_steps_inputs_take_over_another_batchs_columns(sequences, columns):
    recorded = step_inputs(join(sequences, columns))
    given = step_inputs(join(sequences, [2 * values for values in columns]))
    assert not torch.equal(recorded.columns, given.columns)
    recorded.copy_(given)
    assert torch.equal(recorded.columns, given.columns)
    assert step_inputs(join(sequences)).columns is None
