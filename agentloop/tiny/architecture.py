"""The tiny model's shape and first weights: every part of Gemma 3n, at about 1.2 million parameters.

AltUp streams, LAuReL, per-layer embeddings, layers that share keys and values, sliding and full attention, and activation
sparsity in the first layer are all there, so that what runs it runs the real models.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from transformers import (
    Gemma3nForCausalLM,
    Gemma3nTextConfig,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.gemma3n.modeling_gemma3n import Gemma3nRMSNorm

from agentloop.tiny.tokenizer import build_tokenizer, special_ids


def tiny_config(tokenizer: PreTrainedTokenizerFast) -> Gemma3nTextConfig:
    """Five layers, the last two of which share the keys and values of the two before them.

    vLLM takes the layer just before the first shared one for the full attention's keys and values and the one before
    that for the sliding ones, whatever `layer_types` says: the pattern must end its own part with sliding, full.
    """
    return Gemma3nTextConfig(
        vocab_size=len(tokenizer),
        vocab_size_per_layer_input=len(tokenizer),
        hidden_size=128,
        hidden_size_per_layer_input=32,
        intermediate_size=384,
        num_hidden_layers=5,
        num_kv_shared_layers=2,
        layer_types=["sliding_attention", "sliding_attention", "full_attention", "sliding_attention", "full_attention"],
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        sliding_window=64,
        max_position_embeddings=4096,
        altup_num_inputs=2,
        laurel_rank=16,
        activation_sparsity_pattern=[0.95, 0.0, 0.0, 0.0, 0.0],
        **special_ids(tokenizer),
        architectures=["Gemma3nForCausalLM"],
        dtype="float32",
    )


def initialise(config: Gemma3nTextConfig, seed: int) -> Gemma3nForCausalLM:
    """An untrained model in fp32 whose weights depend on `config` and `seed` alone."""
    model = Gemma3nForCausalLM(config).to(torch.float32)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Linear) and name != "lm_head":
                coefficients = name.endswith(("prediction_coefs", "correction_coefs"))
                deviation = 0.02 if coefficients else 1 / math.sqrt(module.in_features)
                module.weight.normal_(0, deviation, generator=generator)
            elif isinstance(module, torch.nn.Embedding):
                module.weight.normal_(0, 0.06, generator=generator)
            elif isinstance(module, Gemma3nRMSNorm) and module.with_scale:
                # Attention scores are not scaled by 1/sqrt(head_dim) in Gemma 3n: smaller queries and keys instead.
                module.weight.fill_(0.6 if name.endswith(("q_norm", "k_norm")) else 1.0)
        for layer in model.model.layers:
            # transformers starts it at zero, which switches the per-layer embeddings off.
            layer.altup.correct_output_scale.fill_(1.0)
    model.tie_weights()
    return model


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, directory: Path) -> None:
    """Write a checkpoint directory as transformers and vLLM read it."""
    model.generation_config = GenerationConfig(
        bos_token_id=model.config.bos_token_id,
        eos_token_id=model.config.eos_token_id,
        pad_token_id=model.config.pad_token_id,
        do_sample=True,
        temperature=1.0,
    )
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def random_checkpoint(directory: Path, *, seed: int = 0) -> None:
    """Write an untrained checkpoint in which every parameter matters: for tests of whatever loads or serves one."""
    tokenizer = build_tokenizer(WORDS)
    model = initialise(tiny_config(tokenizer), seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            # A scale of exactly one would hide that somebody leaves it out; zero weights would hide a whole branch.
            if parameter.dim() == 1:
                parameter.mul_(1 + 0.2 * torch.randn(parameter.shape, generator=generator))
    save(model, tokenizer, directory)


WORDS = (
    'user\nmodel\nAnswer: calculate("1 + 2") query("SELECT count(*) FROM orders WHERE item = \'tea\'")',
    "How many apples are left? Compute the sum of the numbers. error: there is no tool named",
)
"""Texts for the tokenizer of a random checkpoint."""
