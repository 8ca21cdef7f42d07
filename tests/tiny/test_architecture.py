"""The tiny model has every part of Gemma 3n, in the order that vLLM requires, and each part counts; so does Gemma 3's."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from agentloop.tiny.architecture import initialise, random_checkpoint, tiny_config
from agentloop.tiny.gemma import random_gemma_checkpoint
from agentloop.tiny.tokenizer import build_tokenizer


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    directory = tmp_path_factory.mktemp("random")
    random_checkpoint(directory, seed=3)
    return directory


def test_shape():
    config = tiny_config(build_tokenizer([]))
    own = config.layer_types[: config.num_hidden_layers - config.num_kv_shared_layers]
    assert own[-2:] == ["sliding_attention", "full_attention"]
    assert config.num_kv_shared_layers > 0 and config.altup_num_inputs > 1 and config.activation_sparsity_pattern[0] > 0
    assert config.num_key_value_heads < config.num_attention_heads
    assert set(config.layer_types[len(own) :]) == {"sliding_attention", "full_attention"}
    assert 1_000_000 < sum(parameter.numel() for parameter in initialise(config, 0).parameters()) < 3_000_000


def test_seed_decides_the_weights():
    config = tiny_config(build_tokenizer([]))
    first, second, other = (initialise(config, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_checkpoint_loads_and_fits(checkpoint):
    assert sum(path.stat().st_size for path in checkpoint.iterdir()) <= 8 * 2**20
    model, tokenizer = AutoModelForCausalLM.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
    assert type(model).__name__ == "Gemma3nForCausalLM" and model.dtype == torch.float32
    assert model.config.vocab_size == model.config.vocab_size_per_layer_input == len(tokenizer)


@pytest.mark.parametrize(("write", "scale"), [(random_checkpoint, 1.0), (random_gemma_checkpoint, 0.0)])
@torch.no_grad()
def test_every_parameter_counts(tmp_path, write, scale):
    """Nothing that serves this checkpoint can leave a parameter out without changing the logits; `scale` leaves a norm's out."""
    write(tmp_path, seed=3)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.arange(300, 380)[None]
    reference = model(ids).logits
    for name, parameter in model.named_parameters():
        kept = parameter.clone()
        parameter.fill_(scale if parameter.dim() == 1 else 0.0)
        assert (model(ids).logits - reference).abs().max() > 1e-4, f"{name} has no effect"
        parameter.copy_(kept)
    assert torch.equal(model(ids).logits, reference)
