"""A model's architecture, read from its config.json.

Only what the engine computes exactly is accepted: every field that would change the arithmetic and is not implemented
raises ModelError by name, so that no variant is trained wrongly in silence.
"""

from __future__ import annotations

import importlib
import math
from functools import cached_property
from pathlib import Path
from typing import Any

from agentloop.errors import ModelError
from agentloop.model_directory import bitsandbytes
from agentloop.model_directory.architecture import FULL, SLIDING, Architecture
from agentloop.reading import read_object

MULTIMODAL = ("gemma3", "gemma3n")
"""Types of models whose language model stands under `text_config`."""


_MOST = 2**31 - 1
"""Of a size."""


def is_multimodal(directory: Path) -> bool:
    """Return True where the language model is only a part of what the directory holds."""
    return "text_config" in read_object(directory / "config.json", ModelError)


def has_tied_head(directory: Path) -> bool:
    """Return False where config.json says that the output head is not the embedding. Raises ModelError."""
    config = read_object(directory / "config.json", ModelError)
    text = config.get("text_config")
    inner = text.get("tie_word_embeddings") if isinstance(text, dict) else None
    return config.get("tie_word_embeddings", inner) is not False


def is_packed(directory: Path) -> bool:
    """Return True where the weights are bitsandbytes' four bits, which have no 16-bit original in the directory."""
    return read_object(directory / "config.json", ModelError).get("quantization_config") is not None


def read_architecture(directory: Path) -> Architecture:
    """Read `directory/config.json`, text-only or with the language model's part under `text_config`.

    Raises ModelError where the file is missing or broken, the model is no Gemma, or a setting is not supported.
    """
    path = directory / "config.json"
    config = read_object(path, ModelError)
    text = config.get("text_config", config)
    if not isinstance(text, dict):
        raise ModelError(f"{path}: text_config {text!r} is not an object")
    kind = text.get("model_type")
    # Others (PaliGemma) have a Gemma inside that does not attend causally.
    whole = config.get("model_type") if "text_config" in config else kind
    if (
        not isinstance(kind, str)
        or not isinstance(whole, str)
        or kind not in _FAMILIES
        or whole not in (*_FAMILIES, *MULTIMODAL)
    ):
        known = ", ".join(sorted((*_FAMILIES, *MULTIMODAL)))
        raise ModelError(f"{path}: model_type {whole!r:.60} is not supported ({known})")
    if config.get("quantization_config") is not None:
        bitsandbytes.check_config(path, config["quantization_config"])
    filled_class, read = _FAMILIES[kind]
    return read(filled_class(text, path))


def _gemma3n(filled: _Filled) -> Architecture:
    filled.require("hidden_activation", "gelu_pytorch_tanh")
    filled.require("altup_active_idx", 0)
    filled.require("altup_correct_scale", True)
    layers, shared = filled.whole("num_hidden_layers"), filled.whole("num_kv_shared_layers", 0)
    types = filled.layer_kinds()
    unshared = types[: max(layers - shared, 0)]
    if missing := set(types) - set(unshared):
        raise ModelError(f"{filled.path}: no unshared layer of type {sorted(missing)[0]} to share K/V with")
    clip = filled.altup_coef_clip
    sparsity = filled.layerwise("activation_sparsity_pattern", int | float)
    if wrong := [each for each in sparsity if not 0 <= each < 1]:
        raise ModelError(f"{filled.path}: activation_sparsity_pattern {wrong[0]!r} is not a number from 0 to below 1")
    return Architecture(
        family="gemma3n",
        **filled.sizes(),
        **filled.rope((SLIDING, FULL), "default"),
        intermediate=tuple(
            filled.size("intermediate_size", each) for each in filled.layerwise("intermediate_size", int)
        ),
        layer_types=types,
        window=filled.whole("sliding_window"),
        query_scale=1.0,
        attention_softcap=None,
        norm_heads=True,
        norm_values=True,
        norm_branches=True,
        softcap=filled.number("final_logit_softcapping"),
        ple_vocab=filled.whole("vocab_size_per_layer_input"),
        ple=filled.whole("hidden_size_per_layer_input"),
        streams=filled.whole("altup_num_inputs"),
        coef_clip=None if clip is None else filled.number("altup_coef_clip"),
        shared_layers=shared,
        laurel_rank=filled.whole("laurel_rank"),
        sparsity=tuple(map(float, sparsity)),
    )


def _gemma3(filled: _Filled) -> Architecture:
    filled.require("hidden_activation", "gelu_pytorch_tanh")
    filled.refuse("attn_logit_softcapping")
    return _one_stream(
        filled,
        **filled.rope((SLIDING, FULL), "default", "linear"),
        layer_types=filled.layer_kinds(),
        window=filled.whole("sliding_window"),
        query_scale=filled.number("query_pre_attn_scalar") ** -0.5,
        attention_softcap=None,
        norm_heads=True,
        norm_branches=True,
        softcap=filled.optional("final_logit_softcapping"),
    )


def _gemma2(filled: _Filled) -> Architecture:
    filled.require("hidden_activation", "gelu_pytorch_tanh")
    return _one_stream(
        filled,
        **filled.rope((SLIDING, FULL), "default"),
        layer_types=filled.layer_kinds(),
        window=filled.whole("sliding_window"),
        query_scale=filled.number("query_pre_attn_scalar") ** -0.5,
        attention_softcap=filled.optional("attn_logit_softcapping"),
        norm_heads=False,
        norm_branches=True,
        softcap=filled.optional("final_logit_softcapping"),
    )


def _gemma1(filled: _Filled) -> Architecture:
    if filled.hidden_act != "gelu":  # older files say so and mean its approximation (transformers' GemmaConfig)
        filled.require("hidden_act", "gelu_pytorch_tanh")
    return _one_stream(
        filled,
        **filled.rope((FULL,), "default"),
        layer_types=(FULL,) * filled.whole("num_hidden_layers"),
        window=None,
        query_scale=filled.whole("head_dim") ** -0.5,
        attention_softcap=None,
        norm_heads=False,
        norm_branches=False,
        softcap=None,
    )


def _one_stream(filled: _Filled, **others: Any) -> Architecture:
    """What Gemma 1, 2 and 3 have in common, with the rest."""
    filled.refuse("use_bidirectional_attention")
    layers = filled.whole("num_hidden_layers")
    return Architecture(
        family="gemma",
        **filled.sizes(),
        intermediate=(filled.whole("intermediate_size"),) * layers,
        norm_values=False,
        ple_vocab=0,
        ple=0,
        streams=1,
        coef_clip=None,
        shared_layers=0,
        laurel_rank=0,
        sparsity=(0.0,) * layers,
        **others,
    )


class _Filled:
    """The settings of a file. Those that it leaves out or gives in an older form are transformers' to fill in, whose
    configuration takes seconds to import: a complete file is read without it. Raises ModelError, naming the setting."""

    layerwise_names: tuple[str, ...]
    """Settings with one value for each layer."""
    config_class: str
    rope_bases = {FULL: "rope_theta", SLIDING: "rope_local_base_freq"}
    """Layer type -> where files from before transformers 5 have its base."""

    def __init__(self, text: dict[str, Any], path: Path) -> None:
        self._text, self.path = text, path

    def __getattr__(self, name: str) -> Any:
        value = self._text.get(name)
        complete = name not in self.layerwise_names or isinstance(value, list) and len(value) == self.num_hidden_layers
        return value if name in self._text and complete else getattr(self._config, name)

    def check(self, name: str, value: Any, supported: Any) -> None:
        if value != supported:
            raise ModelError(f"{self.path}: {name} {value!r} is not supported (only {supported!r})")

    def require(self, name: str, supported: Any) -> None:
        """None counts as False."""
        value = getattr(self, name)
        self.check(name, bool(value) if isinstance(supported, bool) else value, supported)

    def refuse(self, name: str) -> None:
        """What is off where a file does not mention it."""
        if self._text.get(name):
            self.check(name, self._text[name], None)

    def whole(self, name: str, least: int = 1) -> int:
        return self.size(name, getattr(self, name), least)

    def size(self, name: str, value: Any, least: int = 1) -> int:
        if type(value) is not int or not least <= value <= _MOST:
            raise ModelError(f"{self.path}: {name} {value!r:.40} is not a whole number from {least} to {_MOST}")
        return value

    def number(self, name: str) -> float:
        return self.positive(name, getattr(self, name))

    def positive(self, name: str, value: Any) -> float:
        if type(value) not in (int, float) or not 0 < value < math.inf:
            raise ModelError(f"{self.path}: {name} {value!r} is not a number above 0")
        return float(value)

    def layerwise(self, name: str, kind: Any) -> tuple[Any, ...]:
        values = getattr(self, name)
        if len(values) != self.num_hidden_layers or not all(isinstance(value, kind) for value in values):
            raise ModelError(f"{self.path}: {name} is not one value for each of {self.num_hidden_layers} layers")
        return tuple(values)

    def layer_kinds(self) -> tuple[str, ...]:
        types = self.layerwise("layer_types", str)
        if unknown := set(types) - {SLIDING, FULL}:
            raise ModelError(
                f"{self.path}: layer_types {sorted(unknown)[0]!r} is not supported (only {SLIDING!r}, {FULL!r})"
            )
        return types

    def optional(self, name: str) -> float | None:
        return None if getattr(self, name) is None else self.number(name)

    def rope(self, kinds: tuple[str, ...], *supported: str) -> dict[str, dict[str, float]]:
        """Of these layer types, as Architecture calls it. What scales only full attention scales linearly."""
        parameters = {kind: self.rope_parameters[kind] for kind in kinds}
        for kind, given in parameters.items():
            if given["rope_type"] not in (supported if kind == FULL else supported[:1]):
                self.check(f"rope_parameters.{kind}.rope_type", given["rope_type"], supported[0])
        factors = {k: given.get("factor") if given["rope_type"] == "linear" else 1 for k, given in parameters.items()}
        return {
            "rope_theta": {
                kind: self.positive("rope_theta", given["rope_theta"]) for kind, given in parameters.items()
            },
            "rope_factor": {kind: self.positive("factor", factor) for kind, factor in factors.items()},
        }

    def sizes(self) -> dict[str, Any]:
        """What all generations have, as Architecture calls it."""
        self.require("attention_bias", False)
        if dropout := self._text.get("attention_dropout"):  # off where a file does not mention it
            self.check("attention_dropout", dropout, 0.0)
        return {
            "vocab": self.whole("vocab_size"),
            "hidden": self.whole("hidden_size"),
            "layers": self.whole("num_hidden_layers"),
            "heads": self.whole("num_attention_heads"),
            "kv_heads": self.whole("num_key_value_heads"),
            "head_dim": self.whole("head_dim"),
            "eps": self.number("rms_norm_eps"),
        }

    @property
    def rope_parameters(self) -> dict[str, dict[str, Any]]:
        """Layer type -> its parameters."""
        bases = {kind: self._text.get(name) for kind, name in self.rope_bases.items()}
        parameters = self._text.get("rope_parameters")
        if (
            parameters is None and self._text.get("rope_scaling") is None and all(bases.values())
        ):  # before transformers 5
            return {kind: {"rope_type": "default", "rope_theta": base} for kind, base in bases.items()}
        if parameters is not None and not isinstance(parameters, dict):
            raise ModelError(f"{self.path}: rope_parameters {parameters!r} is not an object")
        found = self._by_kind(parameters or {})
        given = [found.get(kind) for kind in bases]
        complete = all(isinstance(each, dict) and {"rope_type", "rope_theta"} <= each.keys() for each in given)
        return found if complete else self._by_kind(self._config.rope_parameters)

    def _by_kind(self, parameters: dict[str, Any]) -> dict[str, Any]:
        return parameters

    @cached_property
    def _config(self) -> Any:
        module, name = self.config_class.rsplit(".", 1)
        try:
            return getattr(importlib.import_module(module), name)(**self._text)
        except Exception as error:  # whatever its checks raise
            raise ModelError(f"{self.path}: {' '.join(str(error).split())}") from error


class _FilledGemma3n(_Filled):
    layerwise_names = ("intermediate_size", "layer_types", "activation_sparsity_pattern")
    config_class = "transformers.models.gemma3n.configuration_gemma3n.Gemma3nTextConfig"


class _FilledGemma3(_Filled):
    layerwise_names = ("layer_types",)
    config_class = "transformers.models.gemma3.configuration_gemma3.Gemma3TextConfig"


class _FilledGemma2(_Filled):
    layerwise_names = ("layer_types",)
    config_class = "transformers.models.gemma2.configuration_gemma2.Gemma2Config"
    rope_bases = {FULL: "rope_theta", SLIDING: "rope_theta"}

    def _by_kind(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """The same for every layer."""
        return dict.fromkeys(self.rope_bases, parameters)


class _FilledGemma1(_FilledGemma2):
    layerwise_names = ()
    config_class = "transformers.models.gemma.configuration_gemma.GemmaConfig"


_FAMILIES = {
    "gemma3n_text": (_FilledGemma3n, _gemma3n),
    "gemma3_text": (_FilledGemma3, _gemma3),
    "gemma2": (_FilledGemma2, _gemma2),
    "gemma": (_FilledGemma1, _gemma1),
}
