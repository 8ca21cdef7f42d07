"""A tiny random Gemma 3: for tests of whatever loads, trains or serves one.

Sliding and full attention, each with its RoPE, of which the full one is scaled as in the real 4B and larger, and queries
scaled by something other than a power of two, which no rounding hides.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, PreTrainedTokenizerFast

from agentloop.tiny.architecture import WORDS, save
from agentloop.tiny.tokenizer import BOS, END_OF_TURN, EOS, PAD, build_tokenizer


def random_gemma3_checkpoint(directory: Path, *, seed: int = 0) -> None:
    """Write an untrained text-only checkpoint in fp32 in which every parameter matters; `seed` decides the weights."""
    tokenizer = build_tokenizer(WORDS)
    model = Gemma3ForCausalLM(_config(tokenizer)).to(torch.float32)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # A norm multiplies by its weight + 1: at zero, where transformers starts it, it might as well be left out.
            deviation = 0.3 if parameter.dim() == 1 else 1 / math.sqrt(parameter.shape[1])
            parameter.normal_(0, 0.06 if "embed_tokens" in name else deviation, generator=generator)
    model.tie_weights()
    save(model, tokenizer, directory)


def _config(tokenizer: PreTrainedTokenizerFast) -> Gemma3TextConfig:
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in (PAD, EOS, BOS, END_OF_TURN)}
    return Gemma3TextConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        layer_types=["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        query_pre_attn_scalar=50,
        sliding_window=64,
        max_position_embeddings=4096,
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        },
        pad_token_id=ids[PAD],
        bos_token_id=ids[BOS],
        eos_token_id=[ids[EOS], ids[END_OF_TURN]],
        architectures=["Gemma3ForCausalLM"],
        dtype="float32",
    )
