"""A config.json gives the same sizes however complete it is, and a complete one is read without transformers."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from transformers import Gemma2Config, Gemma3nTextConfig, Gemma3TextConfig, GemmaConfig

from agentloop.errors import ModelError
from agentloop.model_directory import configuration
from agentloop.model_directory.architecture import Architecture
from agentloop.model_directory.configuration import read_architecture


def complete() -> dict[str, Any]:
    return Gemma3nTextConfig(num_hidden_layers=30).to_dict()


def before_transformers_5() -> dict[str, Any]:
    text = complete() | {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": None}
    del text["rope_parameters"]
    return text


def sparse() -> dict[str, Any]:
    return {"model_type": "gemma3n_text", "num_hidden_layers": 30, "intermediate_size": 16384}


def read(directory: Path, text: dict[str, Any]) -> Architecture:
    (directory / "config.json").write_text(json.dumps(text))
    return read_architecture(directory)


def test_every_form_gives_the_same_sizes(tmp_path):
    filled = Gemma3nTextConfig(num_hidden_layers=30)
    expected = asdict(read(tmp_path, complete()))
    assert expected["sparsity"] == tuple(filled.activation_sparsity_pattern)
    assert expected["rope_theta"] == {"sliding_attention": 1e4, "full_attention": 1e6}
    assert asdict(read(tmp_path, before_transformers_5())) == expected
    assert asdict(read(tmp_path, sparse())) == expected


# As the released files say it.
GEMMA_3_4B = {
    "model_type": "gemma3",
    "text_config": {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    },
}
GEMMA_2_2B = {
    "model_type": "gemma2",
    "attention_bias": False,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_attention_heads": 8,
    "num_hidden_layers": 26,
    "num_key_value_heads": 4,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "vocab_size": 256000,
}
GEMMA_2B = {
    "model_type": "gemma",
    "attention_bias": False,
    "head_dim": 256,
    "hidden_act": "gelu",
    "hidden_activation": None,
    "hidden_size": 2048,
    "intermediate_size": 16384,
    "num_attention_heads": 8,
    "num_hidden_layers": 18,
    "num_key_value_heads": 1,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "vocab_size": 256000,
}


def test_the_generations_before(tmp_path):
    third = read(tmp_path, GEMMA_3_4B)
    assert (third.heads, third.kv_heads, third.head_dim, third.vocab) == (8, 4, 256, 262_208)
    assert third.rope_factor == {"sliding_attention": 1.0, "full_attention": 8.0}
    assert third.rope_theta == {"sliding_attention": 1e4, "full_attention": 1e6}
    assert third.layer_types[4:7] == ("sliding_attention", "full_attention", "sliding_attention")
    assert (third.query_scale, third.attention_softcap, third.softcap) == (1 / 16, None, None)
    second = read(tmp_path, GEMMA_2_2B)
    assert second.layer_types[:3] == ("sliding_attention", "full_attention", "sliding_attention")
    assert (second.attention_softcap, second.softcap, second.window) == (50.0, 30.0, 4096)
    assert (second.norm_heads, second.norm_branches) == (False, True)
    first = read(tmp_path, GEMMA_2B)
    assert (set(first.layer_types), first.window, first.norm_branches) == ({"full_attention"}, None, False)
    assert (first.rope_theta, first.query_scale) == ({"full_attention": 1e4}, 1 / 16)


@pytest.mark.parametrize("config_class", [Gemma3TextConfig, Gemma2Config, GemmaConfig])
def test_a_complete_file_of_another_generation_is_read_without_transformers(tmp_path, monkeypatch, config_class):
    monkeypatch.setattr(configuration._Filled, "_config", property(lambda self: pytest.fail("it was asked")))
    assert read(tmp_path, config_class(num_hidden_layers=12).to_dict()).layers == 12


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        ({"model_type": "paligemma", "text_config": GEMMA_2B}, {}, "model_type 'paligemma' is not supported"),
        (GEMMA_2B, {"hidden_act": "silu"}, "hidden_act 'silu' is not supported"),
        (GEMMA_2_2B, {"use_bidirectional_attention": True}, "use_bidirectional_attention True is not supported"),
        (GEMMA_2_2B, {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar 0 is not a number above 0"),
        (GEMMA_2_2B, {"rope_parameters": 7}, "rope_parameters 7 is not an object"),
        (GEMMA_3_4B["text_config"], {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping 50.0 is not supported"),
        (
            GEMMA_3_4B["text_config"],
            {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
            "rope_parameters.full_attention.rope_type 'yarn' is not supported",
        ),
        (
            GEMMA_3_4B["text_config"],
            {"rope_scaling": {"rope_type": "linear", "factor": -1.0}},
            "factor -1.0 is not a number above 0",
        ),
    ],
)
def test_what_is_not_computed_is_refused_by_name(tmp_path, config, changes, message):
    with pytest.raises(ModelError, match=message):
        read(tmp_path, config | changes)


@pytest.mark.parametrize("form", [complete, before_transformers_5])
def test_a_complete_file_is_read_without_transformers(tmp_path, monkeypatch, form):
    monkeypatch.setattr(configuration._Filled, "_config", property(lambda self: pytest.fail("it was asked")))
    assert read(tmp_path, form()).layers == 30
