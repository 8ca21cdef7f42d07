"""FlatAdamW against torch's AdamW, and continuing a run bit for bit."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from agentloop.engine import FastLanguageModel
from agentloop.engine.batch import join
from agentloop.engine.optimizer import FlatAdamW
from agentloop.errors import SettingError


@pytest.fixture
def model(checkpoint, cache):
    loaded, _ = FastLanguageModel.from_pretrained(checkpoint, cache_directory=cache)
    return FastLanguageModel.get_peft_model(loaded, r=8)


def test_equal_to_torch(model):
    generator = torch.Generator().manual_seed(0)
    ours = FlatAdamW(model.lora, weight_decay=0.1)
    parameter = torch.nn.Parameter(model.lora.parameters.clone())
    theirs = torch.optim.AdamW([parameter], lr=1e-3, weight_decay=0.1)
    for _ in range(5):
        gradient = torch.randn(parameter.shape, generator=generator)
        parameter.grad = gradient.clone()
        expected = torch.nn.utils.clip_grad_norm_([parameter], 1.0)
        theirs.step()
        model.lora.gradients.copy_(gradient)
        norm = ours.step(learning_rate=1e-3, max_grad_norm=1.0)
        assert float(norm) == pytest.approx(float(expected), rel=1e-5)
        assert not model.lora.gradients.any()
    torch.testing.assert_close(model.lora.parameters, parameter.data, rtol=1e-5, atol=1e-7)


def test_other_bits(model):
    with pytest.raises(SettingError, match="bits: 4"):
        FlatAdamW(model.lora, bits=4)


@pytest.mark.parametrize("bits", [32, 8])
def test_continues_exactly(model, bits, tmp_path):
    rows = [([5, 9, 17, 4, 30, 8, 7], [False, True, True, False, True, True, True])] * 3

    def train(optimizer: FlatAdamW, steps: int) -> None:
        for _ in range(steps):
            model.loss_and_gradients(join(rows))
            optimizer.step(learning_rate=1e-2, max_grad_norm=1.0)

    optimizer = FlatAdamW(model.lora, bits=bits)
    train(optimizer, 2)
    save_file(optimizer.state(), tmp_path / "checkpoint.safetensors")
    train(optimizer, 3)
    undisturbed = model.lora.parameters.clone()

    resumed = FlatAdamW(model.lora, bits=bits)
    resumed.load_state(load_file(tmp_path / "checkpoint.safetensors"))
    train(resumed, 3)
    assert torch.equal(model.lora.parameters, undisturbed)
