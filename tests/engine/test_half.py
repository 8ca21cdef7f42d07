"""fp16: as exact as its eleven bits allow, also where activations would leave its range."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from agentloop.engine import FastLanguageModel
from agentloop.engine.batch import join
from agentloop.engine.memory.plans import Keep, StepPlan
from agentloop.engine.models import feedforward, gemma, gemma3n, self_attention
from agentloop.engine.numerics.precision import Precision
from agentloop.engine.step import network

pytestmark = pytest.mark.parametrize("checkpoint", ["gemma3n", "gemma3", "gemma2", "gemma1"], indirect=True)


@pytest.fixture(scope="session")
def planted(checkpoint, tmp_path_factory):
    """Gate and up whose product, v and o whose product, and residual streams that are beyond fp16's range. Norms behind
    them hide that, where there are any."""
    directory = tmp_path_factory.mktemp("planted") / "tiny"
    shutil.copytree(checkpoint, directory)
    tensors = load_file(directory / "model.safetensors")
    for name in tensors:
        if name.endswith(("mlp.gate_proj.weight", "mlp.up_proj.weight")):
            tensors[name] *= 300
        elif name.endswith(("self_attn.v_proj.weight", "self_attn.o_proj.weight")):
            tensors[name] *= 200
        elif name.endswith("post_feedforward_layernorm.weight"):
            tensors[name] *= 3e4
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def step(directory, cache, dtype, fill_adapter, sequences, **options):
    """(mean loss, LoRA gradients in fp64) of one step with a random adapter."""
    model, _ = FastLanguageModel.from_pretrained(directory, dtype=dtype, cache_directory=cache)
    model = FastLanguageModel.get_peft_model(model, r=8, lora_alpha=16)
    fill_adapter(model)
    loss = model.loss_and_gradients(join(sequences), **options).mean
    return loss, model.lora.gradients.double()


def error(ours: torch.Tensor, exact: torch.Tensor) -> float:
    return float((ours - exact).norm() / exact.norm())


@pytest.mark.parametrize("where", ["checkpoint", "planted"])
def test_closer_to_exact_than_bf16(checkpoint, planted, where, cache, fill_adapter, sequences):
    directory = planted if where == "planted" else checkpoint
    exact_loss, exact = step(directory, cache, torch.float64, fill_adapter, sequences)
    errors = {}
    for dtype in (torch.float16, torch.bfloat16):
        loss, gradients = step(directory, cache, dtype, fill_adapter, sequences)
        errors[dtype] = abs(loss / exact_loss - 1), error(gradients, exact)
    assert errors[torch.float16][0] < 1e-4
    assert errors[torch.float16][1] < 0.5 * errors[torch.bfloat16][1]


def test_planted_values_leave_the_range(planted, cache, fill_adapter, sequences, monkeypatch):
    """Without what precision.py does for fp16, the same step is not finite."""
    for module in (
        gemma3n.layer,
        gemma3n.embedding,
        gemma.layer,
        gemma.embedding,
        feedforward,
        network,
        self_attention,
    ):
        monkeypatch.setattr(module, "Precision", Plain)
    loss, gradients = step(planted, cache, torch.float16, fill_adapter, sequences)
    assert not (torch.isfinite(gradients).all() and torch.isfinite(torch.tensor(loss)))


class Plain:
    @staticmethod
    def of(dtype: torch.dtype) -> Precision:
        return Precision(dtype, dtype)


@pytest.mark.parametrize("supervised, weight", [(1, 1.0), (64, 2.0**-16)])
@pytest.mark.parametrize("where", ["checkpoint", "planted"])
def test_gradients_neither_vanish_nor_overflow(checkpoint, planted, where, cache, fill_adapter, supervised, weight):
    """A mean over one token, and one over 65,536 of which this batch has 64."""
    directory = planted if where == "planted" else checkpoint
    ids = [(7 * i) % 400 for i in range(90)]
    rows = [(ids, [False] * (90 - supervised) + [True] * supervised)]
    _, exact = step(directory, cache, torch.float64, fill_adapter, rows, weight=weight)
    _, ours = step(directory, cache, torch.float16, fill_adapter, rows, weight=weight)
    assert error(ours, exact) < 0.1


def test_levels_and_weights_of_tokens_agree(checkpoint, cache, fill_adapter, sequences):
    """However much is kept, and whether the weight is one for all or each token's own."""
    model, _ = FastLanguageModel.from_pretrained(checkpoint, dtype=torch.float16, cache_directory=cache)
    model = FastLanguageModel.get_peft_model(model, r=8, lora_alpha=16)
    fill_adapter(model)
    batch, layers = join(sequences), model.shape.layers
    model.results_and_gradients(batch, 0.01)
    expected = model.lora.gradients.clone()
    for plan in (StepPlan((Keep.STREAMS,) * layers, chunk=64), StepPlan((Keep.ATTENTION,) * layers, head_rows=32)):
        model.plan = plan  # what is computed again is scaled again
        model.lora.gradients.zero_()
        model.results_and_gradients(batch, 0.01)
        assert error(model.lora.gradients, expected) < 2e-3
    model.lora.gradients.zero_()
    model.results_and_gradients(batch, torch.full((batch.supervised,), 0.01))
    assert error(model.lora.gradients, expected) < 1e-3
