"""The keys of a GGUF that say what its model computes, written as llama.cpp reads them.

llama.cpp has much of a Gemma in its code and not in the file. A model that differs there would be computed wrongly and in
silence, so `check` refuses it.
"""

from __future__ import annotations

from pathlib import Path
from statistics import NormalDist
from typing import Any

from agentloop.errors import ModelError
from agentloop.gguf.hyperparameters import KV_LAYERS, LAYERS_OF_27B, Hyperparameters

STREAMS, PER_LAYER, LAUREL_RANK, SPARSE_LAYERS, SHARE = 4, 256, 64, 10, 0.95
"""Numbers of a Gemma 3n in llama.cpp's code."""


def check(s: Hyperparameters, path: Path) -> None:
    """Raise ModelError, beginning with `path`, for a setting that llama.cpp would not compute with."""

    def require(name: str, value: Any, needed: Any) -> None:
        if value != needed:
            raise ModelError(f"{path}: {name} {value!r:.60}: llama.cpp computes {s.family} with {needed!r:.60} alone")

    if s.family in ("gemma", "gemma2"):
        require("tie_word_embeddings", s.tied, True)
        require("rope_theta", (s.rope_base, s.rope_base_sliding), (s.rope_base, s.rope_base))
    if s.family == "gemma2":
        require("layer_types", s.sliding, _period(s.layers, 2))
        if not s.attention_softcap or not s.final_softcap:
            raise ModelError(
                f"{path}: attn_logit_softcapping, final_logit_softcapping: llama.cpp always caps {s.family}"
            )
    if s.family == "gemma3n":
        _check_3n(s, require)
    else:
        per_head = s.hidden // s.heads if s.layers == LAYERS_OF_27B.get(s.family) else s.head_dim
        require("query_pre_attn_scalar", s.query_scalar, per_head)


def _check_3n(s: Hyperparameters, require: Any) -> None:
    require("altup_num_inputs", s.streams, STREAMS)
    require("hidden_size_per_layer_input", s.per_layer, PER_LAYER)
    require("laurel_rank", s.laurel_rank, LAUREL_RANK)
    require("layers with keys and values of their own", s.layers - s.shared_layers, KV_LAYERS)
    sparse = (SHARE,) * SPARSE_LAYERS + (0.0,) * (s.layers - SPARSE_LAYERS)
    require("activation_sparsity_pattern", s.sparsity, sparse)
    require("intermediate_size", set(s.intermediate), {s.intermediate[0]})


def _period(layers: int, period: int) -> tuple[bool, ...]:
    return tuple(index % period < period - 1 for index in range(layers))


def write(writer: Any, s: Hyperparameters) -> None:
    """Add the architecture's keys to `writer`, a gguf.GGUFWriter."""
    import gguf

    writer.add_context_length(s.context)
    writer.add_embedding_length(s.hidden)
    writer.add_block_count(s.layers)
    writer.add_feed_forward_length(list(s.intermediate) if s.family == "gemma3n" else s.intermediate[0])
    writer.add_head_count(s.heads)
    writer.add_head_count_kv(s.kv_heads)
    writer.add_key_length(s.head_dim)
    writer.add_value_length(s.head_dim)
    writer.add_layer_norm_rms_eps(s.eps)
    writer.add_rope_freq_base(s.rope_base)
    if s.final_softcap:
        writer.add_final_logit_softcapping(s.final_softcap)
    if s.attention_softcap:
        writer.add_attn_logit_softcapping(s.attention_softcap)
    if s.family == "gemma":
        return
    if s.window:
        writer.add_sliding_window(s.window)
    if s.family == "gemma2":
        return
    writer.add_rope_freq_base_swa(s.rope_base_sliding)
    if s.rope_factor != 1:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(s.rope_factor)
    writer.add_sliding_window_pattern(_pattern(s))
    if s.family == "gemma3n":
        _write_3n(writer, s)


def _pattern(s: Hyperparameters) -> Any:
    """As a period, which llama.cpp reads everywhere, where there is one."""
    regular = (each for each in range(1, s.layers + 1) if s.sliding == _period(s.layers, each))
    return next(regular, list(s.sliding))


def _write_3n(writer: Any, s: Hyperparameters) -> None:
    writer.add_altup_active_idx(s.active_stream)
    writer.add_altup_num_inputs(s.streams)
    writer.add_embedding_length_per_layer_input(s.per_layer)
    writer.add_shared_kv_layers(s.shared_layers)
    thresholds = [NormalDist().inv_cdf(share) if share else float("-inf") for share in s.sparsity]
    writer.add_activation_sparsity_scale(thresholds)
