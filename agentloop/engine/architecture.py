"""The shape of a Gemma 3n language model, read from config.json.

Only what the engine computes exactly is accepted: every field that would change the arithmetic and is not implemented
raises ModelError by name, so that no variant is trained wrongly in silence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from agentloop.errors import ModelError
from agentloop.reading import read_object

SLIDING, FULL = "sliding_attention", "full_attention"
LAYERWISE = ("intermediate_size", "layer_types", "activation_sparsity_pattern")
"""One value for each layer."""


@dataclass(frozen=True, eq=False)
class Architecture:
    """Sizes of a Gemma 3n decoder (transformers' `Gemma3nTextConfig`, with per-layer lists as tuples)."""

    vocab: int
    hidden: int
    intermediate: tuple[int, ...]
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    eps: float
    window: int
    layer_types: tuple[str, ...]
    rope_theta: dict[str, float]
    softcap: float
    ple_vocab: int
    """Rows of the per-layer embedding table; ids beyond it use row 0, as transformers' multimodal model does."""
    ple: int
    """Width of one layer's per-layer input."""
    streams: int
    """AltUp inputs."""
    coef_clip: float | None
    shared_layers: int
    """Last layers, which have no k/v projections and read the K/V of the last unshared layer of their type."""
    laurel_rank: int
    sparsity: tuple[float, ...]

    @property
    def first_shared(self) -> int:
        """First layer that reads another layer's K/V; equals `layers` where none does."""
        return self.layers - self.shared_layers

    @property
    def boundary(self) -> int:
        """The last layer with K/V of its own. After its K/V only supervised tokens matter (ENGINE: exact skipping)."""
        return self.first_shared - 1

    def kv_source(self, layer: int) -> int:
        """The layer whose K/V `layer` attends to."""
        if layer < self.first_shared:
            return layer
        return max(i for i in range(self.first_shared) if self.layer_types[i] == self.layer_types[layer])


def is_multimodal(directory: Path) -> bool:
    """Whether the language model is a part of what the directory holds."""
    return "text_config" in read_object(directory / "config.json", ModelError)


def read_architecture(directory: Path) -> Architecture:
    """Read `directory/config.json`, text-only or with the language model's part under `text_config`.

    Raises ModelError where the file is missing or broken, the model is no Gemma 3n, or a setting is not supported.
    """
    path = directory / "config.json"
    config = read_object(path, ModelError)
    text = config.get("text_config", config)
    if not isinstance(text, dict):
        raise ModelError(f"{path}: text_config {text!r} is not an object")
    if text.get("model_type") != "gemma3n_text":
        raise ModelError(f"{path}: model_type {text.get('model_type')!r} is not supported (gemma3n, gemma3n_text)")
    filled = _Filled(text, path)
    rope = filled.rope_parameters
    wanted = {
        "hidden_activation": (filled.hidden_activation, "gelu_pytorch_tanh"),
        "attention_bias": (bool(filled.attention_bias), False),
        "altup_active_idx": (filled.altup_active_idx, 0),
        "altup_correct_scale": (bool(filled.altup_correct_scale), True),
        "rope_parameters.sliding_attention.rope_type": (rope[SLIDING]["rope_type"], "default"),
        "rope_parameters.full_attention.rope_type": (rope[FULL]["rope_type"], "default"),
        "quantization_config": (config.get("quantization_config"), None),
    }
    for name, (value, supported) in wanted.items():
        if value != supported:
            raise ModelError(f"{path}: {name} {value!r} is not supported (only {supported!r})")
    layers, shared = filled.whole("num_hidden_layers"), filled.whole("num_kv_shared_layers", 0)
    types = filled.layerwise("layer_types", str)
    if unknown := set(types) - {SLIDING, FULL}:
        raise ModelError(f"{path}: layer_types {sorted(unknown)[0]!r} is not supported (only {SLIDING!r}, {FULL!r})")
    unshared = types[: max(layers - shared, 0)]
    if missing := set(types) - set(unshared):
        raise ModelError(f"{path}: no unshared layer of type {sorted(missing)[0]} to share K/V with")
    clip = filled.altup_coef_clip
    return Architecture(
        vocab=filled.whole("vocab_size"),
        hidden=filled.whole("hidden_size"),
        intermediate=filled.layerwise("intermediate_size", int),
        layers=layers,
        heads=filled.whole("num_attention_heads"),
        kv_heads=filled.whole("num_key_value_heads"),
        head_dim=filled.whole("head_dim"),
        eps=filled.number("rms_norm_eps"),
        window=filled.whole("sliding_window"),
        layer_types=types,
        rope_theta={kind: filled.positive("rope_theta", rope[kind]["rope_theta"]) for kind in (SLIDING, FULL)},
        softcap=filled.number("final_logit_softcapping"),
        ple_vocab=filled.whole("vocab_size_per_layer_input"),
        ple=filled.whole("hidden_size_per_layer_input"),
        streams=filled.whole("altup_num_inputs"),
        coef_clip=None if clip is None else filled.number("altup_coef_clip"),
        shared_layers=shared,
        laurel_rank=filled.whole("laurel_rank"),
        sparsity=tuple(map(float, filled.layerwise("activation_sparsity_pattern", int | float))),
    )


class _Filled:
    """The settings of a file. Those that it leaves out or gives in an older form are transformers' to fill in, whose
    configuration takes seconds to import: a complete file is read without it. Raises ModelError, naming the setting."""

    def __init__(self, text: dict[str, Any], path: Path) -> None:
        self._text, self._path = text, path

    def __getattr__(self, name: str) -> Any:
        value = self._text.get(name)
        layerwise = name not in LAYERWISE or isinstance(value, list) and len(value) == self.num_hidden_layers
        return value if value is not None and layerwise else getattr(self._config, name)

    def whole(self, name: str, least: int = 1) -> int:
        value = getattr(self, name)
        if type(value) is not int or value < least:
            raise ModelError(f"{self._path}: {name} {value!r} is not a whole number of at least {least}")
        return value

    def number(self, name: str) -> float:
        return self.positive(name, getattr(self, name))

    def positive(self, name: str, value: Any) -> float:
        if type(value) not in (int, float) or not 0 < value < math.inf:
            raise ModelError(f"{self._path}: {name} {value!r} is not a number above 0")
        return float(value)

    def layerwise(self, name: str, kind: Any) -> tuple[Any, ...]:
        values = getattr(self, name)
        if len(values) != self.num_hidden_layers or not all(isinstance(value, kind) for value in values):
            raise ModelError(f"{self._path}: {name} is not one value for each of {self.num_hidden_layers} layers")
        return tuple(values)

    @property
    def rope_parameters(self) -> dict[str, dict[str, Any]]:
        bases = {FULL: self._text.get("rope_theta"), SLIDING: self._text.get("rope_local_base_freq")}
        parameters = self._text.get("rope_parameters")
        if (
            parameters is None and self._text.get("rope_scaling") is None and all(bases.values())
        ):  # before transformers 5
            return {kind: {"rope_type": "default", "rope_theta": base} for kind, base in bases.items()}
        if parameters is not None and not isinstance(parameters, dict):
            raise ModelError(f"{self._path}: rope_parameters {parameters!r} is not an object")
        given = [(parameters or {}).get(kind) for kind in bases]
        complete = all(isinstance(each, dict) and {"rope_type", "rope_theta"} <= each.keys() for each in given)
        return parameters if complete else self._config.rope_parameters

    @cached_property
    def _config(self) -> Any:
        from transformers.models.gemma3n.configuration_gemma3n import Gemma3nTextConfig

        try:
            return Gemma3nTextConfig(**self._text)
        except Exception as error:  # whatever its checks raise
            raise ModelError(f"{self._path}: {' '.join(str(error).split())}") from error
