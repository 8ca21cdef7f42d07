"""A tiny random Gemma 1, 2 or 3: for tests of whatever loads, trains or serves one.

Queries scaled by something other than a power of two where the configuration leaves that open, which no rounding hides; in
Gemma 3 sliding and full attention with a RoPE each, of which the full one is scaled as in the real 4B and larger.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma3TextConfig, GemmaConfig

from agentloop.tiny.architecture import WORDS, save
from agentloop.tiny.tokenizer import build_tokenizer, special_ids

Generation = Literal[1, 2, 3]
_TYPES = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
_CONFIGS: dict[Generation, tuple[type, dict[str, Any]]] = {
    1: (GemmaConfig, {"architectures": ["GemmaForCausalLM"]}),
    2: (
        Gemma2Config,
        {
            "architectures": ["Gemma2ForCausalLM"],
            "layer_types": _TYPES,
            "sliding_window": 64,
            "query_pre_attn_scalar": 50,
            # So low that scores and logits of random weights feel them.
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
        },
    ),
    3: (
        Gemma3TextConfig,
        {
            "architectures": ["Gemma3ForCausalLM"],
            "layer_types": _TYPES,
            "sliding_window": 64,
            "query_pre_attn_scalar": 50,
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            },
        },
    ),
}


def random_gemma_checkpoint(directory: Path, generation: Generation = 3, *, seed: int = 0) -> None:
    """Write an untrained text-only checkpoint in fp32 in which every parameter matters; `seed` decides the weights."""
    tokenizer = build_tokenizer(WORDS)
    config_class, own = _CONFIGS[generation]
    config = config_class(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=4096,
        **special_ids(tokenizer),
        dtype="float32",
        **own,
    )
    model = AutoModelForCausalLM.from_config(config).to(torch.float32)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # A norm multiplies by its weight + 1: at zero, where transformers starts it, it might as well be left out.
            deviation = 0.3 if parameter.dim() == 1 else 1 / math.sqrt(parameter.shape[1])
            parameter.normal_(0, 0.06 if "embed_tokens" in name else deviation, generator=generator)
    model.tie_weights()
    save(model, tokenizer, directory)
