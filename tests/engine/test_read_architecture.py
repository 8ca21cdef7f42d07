"""A config.json gives the same sizes however complete it is, and a complete one is read without transformers."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from transformers import Gemma3nTextConfig

from agentloop.engine import configuration
from agentloop.engine.architecture import Architecture
from agentloop.engine.configuration import read_architecture


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


@pytest.mark.parametrize("form", [complete, before_transformers_5])
def test_a_complete_file_is_read_without_transformers(tmp_path, monkeypatch, form):
    monkeypatch.setattr(configuration._Filled, "_config", property(lambda self: pytest.fail("it was asked")))
    assert read(tmp_path, form()).layers == 30
