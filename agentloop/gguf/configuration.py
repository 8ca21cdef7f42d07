"""A model's config.json and generation_config.json, from what a GGUF says of it; and what they say, for a GGUF."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agentloop.errors import ModelError
from agentloop.gguf.hyperparameters import Hyperparameters
from agentloop.model_directory.architecture import FULL, SLIDING
from agentloop.model_directory.configuration import read_architecture

END_OF_TURN = "<end_of_turn>"


def write_configuration(directory: Path, sizes: Hyperparameters, tokenizer: Any) -> None:
    """Write both files. What a tokenizer calls its special tokens decides their ids in them."""
    from transformers import GenerationConfig  # takes seconds

    ids = special_ids(tokenizer)
    _config_of(sizes)(**_FIELDS[sizes.family](sizes), **_common(sizes), **ids).save_pretrained(directory)
    GenerationConfig(**ids).save_pretrained(directory)


def special_ids(tokenizer: Any) -> dict[str, Any]:
    """The ids as configurations call them. Generation ends with <eos> and where a turn ends."""
    ends = {tokenizer.eos_token_id, tokenizer.get_vocab().get(END_OF_TURN)} - {None}
    return {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": sorted(ends) if len(ends) > 1 else tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _config_of(sizes: Hyperparameters) -> type:
    from transformers import Gemma2Config, Gemma3nTextConfig, Gemma3TextConfig, GemmaConfig

    return {"gemma": GemmaConfig, "gemma2": Gemma2Config, "gemma3": Gemma3TextConfig, "gemma3n": Gemma3nTextConfig}[
        sizes.family
    ]


def _common(s: Hyperparameters) -> dict[str, Any]:
    name = {"gemma": "Gemma", "gemma2": "Gemma2", "gemma3": "Gemma3", "gemma3n": "Gemma3n"}[s.family]
    return {
        "architectures": [f"{name}ForCausalLM"],
        "dtype": "bfloat16",
        "vocab_size": s.vocab,
        "hidden_size": s.hidden,
        "num_hidden_layers": s.layers,
        "num_attention_heads": s.heads,
        "num_key_value_heads": s.kv_heads,
        "head_dim": s.head_dim,
        "max_position_embeddings": s.context,
        "rms_norm_eps": s.eps,
        "tie_word_embeddings": s.tied,
    }


def _gemma(s: Hyperparameters) -> dict[str, Any]:
    return {"intermediate_size": s.intermediate[0], "rope_parameters": _one_rope(s)}


def _gemma2(s: Hyperparameters) -> dict[str, Any]:
    return {
        "intermediate_size": s.intermediate[0],
        "rope_parameters": _one_rope(s),
        "layer_types": _layer_types(s),
        "sliding_window": s.window,
        "query_pre_attn_scalar": s.query_scalar,
        "attn_logit_softcapping": s.attention_softcap,
        "final_logit_softcapping": s.final_softcap,
    }


def _gemma3(s: Hyperparameters) -> dict[str, Any]:
    return {
        "intermediate_size": s.intermediate[0],
        "rope_parameters": _two_ropes(s),
        "layer_types": _layer_types(s),
        # where no layer has a window it is never looked at, but has to be a number
        "sliding_window": s.window or s.context,
        "query_pre_attn_scalar": s.query_scalar,
        "final_logit_softcapping": s.final_softcap,
    }


def _gemma3n(s: Hyperparameters) -> dict[str, Any]:
    return {
        "intermediate_size": list(s.intermediate),
        "rope_parameters": _two_ropes(s),
        "layer_types": _layer_types(s),
        "sliding_window": s.window,
        "final_logit_softcapping": s.final_softcap,
        "vocab_size_per_layer_input": s.vocab,
        "hidden_size_per_layer_input": s.per_layer,
        "altup_num_inputs": s.streams,
        "altup_active_idx": s.active_stream,
        "num_kv_shared_layers": s.shared_layers,
        "laurel_rank": s.laurel_rank,
        "activation_sparsity_pattern": list(s.sparsity),
    }


_FIELDS = {"gemma": _gemma, "gemma2": _gemma2, "gemma3": _gemma3, "gemma3n": _gemma3n}


def _layer_types(s: Hyperparameters) -> list[str]:
    return [SLIDING if sliding else FULL for sliding in s.sliding]


def _one_rope(s: Hyperparameters) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": s.rope_base}


def _two_ropes(s: Hyperparameters) -> dict[str, Any]:
    scaling = {"rope_type": "default"} if s.rope_factor == 1 else {"rope_type": "linear", "factor": s.rope_factor}
    return {
        FULL: scaling | {"rope_theta": s.rope_base},
        SLIDING: {"rope_type": "default", "rope_theta": s.rope_base_sliding},
    }


_KINDS = {"gemma": "gemma", "gemma2": "gemma2", "gemma3_text": "gemma3", "gemma3n_text": "gemma3n"}
"""transformers' name of a family -> GGUF's."""


def read_configuration(directory: Path) -> Hyperparameters:
    """Return the numbers that the model's config.json states. Raises ModelError, naming the file and the setting."""
    shape = read_architecture(directory)
    from transformers import AutoConfig  # fills in what a file leaves out

    text = AutoConfig.from_pretrained(directory).get_text_config()
    scalar = round(shape.query_scale**-2)
    if abs(scalar**-0.5 / shape.query_scale - 1) > 1e-6:
        raise ModelError(f"{directory}/config.json: query_pre_attn_scalar {shape.query_scale**-2!r} is no whole number")
    return Hyperparameters(
        family=_KINDS[text.model_type],
        vocab=shape.vocab,
        hidden=shape.hidden,
        layers=shape.layers,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        intermediate=shape.intermediate,
        context=text.max_position_embeddings,
        eps=shape.eps,
        tied=bool(text.tie_word_embeddings),
        rope_base=shape.rope_theta[FULL],
        rope_base_sliding=shape.rope_theta.get(SLIDING, shape.rope_theta[FULL]),
        rope_factor=shape.rope_factor[FULL],
        window=shape.window if SLIDING in shape.layer_types else None,
        sliding=tuple(kind == SLIDING for kind in shape.layer_types),
        query_scalar=scalar,
        attention_softcap=shape.attention_softcap,
        final_softcap=shape.softcap,
        streams=shape.streams,
        per_layer=shape.ple,
        laurel_rank=shape.laurel_rank,
        shared_layers=shape.shared_layers,
        sparsity=shape.sparsity,
    )
