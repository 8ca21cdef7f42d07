"""Tiny random Gemmas that llama.cpp computes: with SentencePiece's tokenizer and, where its code has numbers, those numbers.

Damped, as a random Gemma 3n of 35 layers is otherwise chaotic: its logits then say nothing about who computes it how well.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from gguf_exporter import Exporter, vocabulary
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3nTextConfig,
    Gemma3TextConfig,
    GemmaConfig,
)

from agentloop.gguf import llama_library
from agentloop.gguf.file import open_gguf
from agentloop.gguf.tokenizer import read_tokenizer
from agentloop.tiny.architecture import initialise, save
from agentloop.tiny.gemma import random_gemma_checkpoint

LLAMA = pytest.mark.skipif(llama_library.missing() is not None, reason=str(llama_library.missing()))
VOCABULARY = 448
FAMILIES = ("gemma1", "gemma2", "gemma3", "gemma3n")
_ONE_STREAM = {
    "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 4096,
}  # fmt: skip
_TYPES = ["sliding_attention", "full_attention"] * 2
_LAYERS_3N, _SHARED_3N = 25, 5
"""20 have keys and values of their own, as llama.cpp has it."""


def tokenizer(folder: Path):
    """Gemma's tokenizer with a small vocabulary, by the way that GGUF files come in."""
    source = folder / "source"
    random_gemma_checkpoint(source, 3)
    file = Exporter(source, vocabulary=vocabulary(VOCABULARY)).write(folder / "vocabulary.gguf")
    return read_tokenizer(open_gguf(file))


def _config(family: str, ids: dict):
    common = {"vocab_size": VOCABULARY, "dtype": "float32", **ids}
    if family == "gemma3n":
        # as the published ones, which have rows for more than text, and no per-layer embeddings of these
        common["vocab_size"] += 8
        return Gemma3nTextConfig(
            hidden_size=64, num_hidden_layers=_LAYERS_3N, num_kv_shared_layers=_SHARED_3N, intermediate_size=512,
            layer_types=(["sliding_attention"] * 4 + ["full_attention"]) * 5, num_attention_heads=2,
            num_key_value_heads=1, head_dim=32, sliding_window=64, vocab_size_per_layer_input=VOCABULARY,
            activation_sparsity_pattern=[0.95] * 10 + [0.0] * (_LAYERS_3N - 10), max_position_embeddings=4096,
            architectures=["Gemma3nForCausalLM"], **common,
        )  # fmt: skip
    if family == "gemma1":
        return GemmaConfig(architectures=["GemmaForCausalLM"], **_ONE_STREAM, **common)
    if family == "gemma2":
        return Gemma2Config(
            architectures=["Gemma2ForCausalLM"], layer_types=_TYPES, sliding_window=64, query_pre_attn_scalar=64,
            attn_logit_softcapping=2.0, final_logit_softcapping=3.0, **_ONE_STREAM, **common,
        )  # fmt: skip
    return Gemma3TextConfig(
        architectures=["Gemma3ForCausalLM"], layer_types=_TYPES, sliding_window=64, query_pre_attn_scalar=64,
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        }, **_ONE_STREAM, **common,
    )  # fmt: skip


def computable_checkpoint(directory: Path, family: str, *, seed: int = 0) -> Path:
    """Write a random model of the family to `directory`."""
    words = tokenizer(directory.parent)
    ends = [words.eos_token_id, words.convert_tokens_to_ids("<end_of_turn>")]
    ids = {"bos_token_id": words.bos_token_id, "eos_token_id": ends, "pad_token_id": words.pad_token_id}
    config = _config(family, ids)
    generator = torch.Generator().manual_seed(seed)
    if family == "gemma3n":
        model = initialise(config, seed)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.dim() == 1:
                    damping = 0.3 if "post_" in name else 1.0
                    parameter.mul_(damping * (1 + 0.2 * torch.randn(parameter.shape, generator=generator)))
    else:
        model = AutoModelForCausalLM.from_config(config).to(torch.float32)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                deviation = 0.3 if parameter.dim() == 1 else parameter.shape[1] ** -0.5
                parameter.normal_(0, 0.06 if "embed_tokens" in name else deviation, generator=generator)
        model.tie_weights()
    save(model, words, directory)
    return directory
