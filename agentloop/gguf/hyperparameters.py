"""A Gemma's sizes and constants, out of a GGUF's keys.

Each generation is read as llama.cpp reads it, its defaults for absent keys included. A key of the architecture that is set
and is not known here would change what is computed: it is refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from agentloop.errors import ModelError
from agentloop.gguf.file import GgufFile

_MOST = 2**31 - 1
LAYERS_OF_27B = {"gemma2": 46, "gemma3": 62}
"""These alone scale queries by hidden size and heads; no key says so, llama.cpp too knows them by their layers."""
KV_LAYERS = 20
"""Layers of Gemma 3n that have keys and values of their own, where no key says it."""
_SILENT = frozenset({"vocab_size", "rope.scaling.original_context_length", "rope.scaling.finetuned"})
"""Keys that change nothing which is not read from elsewhere."""


@dataclass(frozen=True)
class Hyperparameters:
    """The numbers that a Gemma's configuration and the shapes of its tensors follow from."""

    family: str
    """gemma, gemma2, gemma3 or gemma3n."""
    vocab: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: tuple[int, ...]
    """Size of each layer's feed-forward."""
    context: int
    eps: float
    tied: bool
    """True where the head is the embedding."""
    rope_base: float
    rope_base_sliding: float
    rope_factor: float
    """Number that positions are divided by, in full attention alone."""
    window: int | None
    sliding: tuple[bool, ...]
    """True for each layer that attends within the window only."""
    query_scalar: int
    """Number whose power of -1/2 queries are multiplied by."""
    attention_softcap: float | None
    final_softcap: float | None
    streams: int = 1
    """Number of AltUp's streams."""
    active_stream: int = 0
    per_layer: int = 0
    """Size of each layer's input of Gemma 3n."""
    laurel_rank: int = 0
    shared_layers: int = 0
    """Number of layers at the end that use the keys and values of layers before them."""
    sparsity: tuple[float, ...] = ()
    """Share of each layer's feed-forward activations that is zero."""


def read_hyperparameters(file: GgufFile) -> Hyperparameters:
    """Read the sizes of the model in `file`. Raises ModelError, naming the file and the key or tensor at fault."""
    kind = file.single("general.type", str, "model")
    family = file.single("general.architecture", str)
    if kind != "model":
        raise ModelError(f"{file.path}: key general.type: {kind!r:.60} is no language model")
    if family not in _FAMILIES:
        raise ModelError(
            f"{file.path}: key general.architecture: {family!r:.60} is not supported ({', '.join(_FAMILIES)})"
        )
    keys = _Keys(file, family)
    read = _FAMILIES[family](keys)
    keys.refuse_unread()
    return read


def _gemma(keys: _Keys) -> Hyperparameters:
    base = keys.number("rope.freq_base", 10_000.0)
    return Hyperparameters(
        **_common(keys),
        tied=True,
        rope_base=base,
        rope_base_sliding=base,
        rope_factor=1.0,
        window=None,
        sliding=(False,) * keys.layers(),
        query_scalar=_query_scalar(keys),
        attention_softcap=None,
        final_softcap=None,
    )


def _gemma2(keys: _Keys) -> Hyperparameters:
    base = keys.number("rope.freq_base", 10_000.0)
    keys.require("rope.freq_base_swa", base)
    return Hyperparameters(
        **_common(keys),
        tied=True,
        rope_base=base,
        rope_base_sliding=base,
        rope_factor=1.0,
        window=keys.whole("attention.sliding_window", 4096),
        sliding=_sliding(keys, period=2),
        query_scalar=_query_scalar(keys),
        attention_softcap=keys.number("attn_logit_softcapping", 50.0),
        final_softcap=keys.number("final_logit_softcapping", 30.0),
    )


def _gemma3(keys: _Keys) -> Hyperparameters:
    window = keys.whole("attention.sliding_window", 0, least=0)
    sliding = _sliding(keys, period=6)
    return Hyperparameters(
        **_common(keys),
        tied="output.weight" not in keys.file.tensors,
        rope_base=keys.number("rope.freq_base"),
        rope_base_sliding=keys.number("rope.freq_base_swa", 10_000.0),
        rope_factor=_rope_factor(keys),
        window=window or None,
        sliding=sliding if window else (False,) * len(sliding),
        query_scalar=_query_scalar(keys),
        attention_softcap=None,
        final_softcap=keys.number("final_logit_softcapping", 0.0, least=0) or None,
    )


def _gemma3n(keys: _Keys) -> Hyperparameters:
    common = _common(keys)
    layers = common["layers"]
    return Hyperparameters(
        **common,
        tied="output.weight" not in keys.file.tensors,
        rope_base=keys.number("rope.freq_base"),
        rope_base_sliding=keys.number("rope.freq_base_swa", 10_000.0),
        rope_factor=1.0,
        window=keys.whole("attention.sliding_window"),
        sliding=_sliding(keys, period=5),
        query_scalar=1,
        attention_softcap=None,
        final_softcap=keys.number("final_logit_softcapping", 30.0),
        streams=_streams(keys),
        active_stream=keys.whole("altup.active_idx", least=0),
        per_layer=keys.whole("embedding_length_per_layer_input"),
        laurel_rank=keys.size_of("blk.0.laurel_l.weight"),
        shared_layers=keys.whole("attention.shared_kv_layers", max(layers - KV_LAYERS, 0), least=0),
        sparsity=tuple(_share(each) for each in keys.numbers("activation_sparsity_scale", layers)),
    )


_FAMILIES: dict[str, Callable[[_Keys], Hyperparameters]] = {
    "gemma": _gemma,
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "gemma3n": _gemma3n,
}


def _common(keys: _Keys) -> dict[str, Any]:
    layers, hidden, heads = keys.layers(), keys.whole("embedding_length"), keys.same("attention.head_count")
    head_dim = keys.whole("attention.key_length", hidden // heads)
    keys.require("attention.value_length", head_dim)
    keys.require("rope.dimension_count", head_dim)
    keys.require("attention.causal", True)
    return {
        "family": keys.family,
        "vocab": keys.size_of("token_embd.weight"),
        "hidden": hidden,
        "layers": layers,
        "heads": heads,
        "kv_heads": keys.same("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "intermediate": _intermediate(keys),
        "context": keys.whole("context_length"),
        "eps": keys.number("attention.layer_norm_rms_epsilon"),
    }


def _intermediate(keys: _Keys) -> tuple[int, ...]:
    layers, name = keys.layers(), "feed_forward_length"
    return keys.layerwise(name, layers) if keys.family == "gemma3n" else (keys.same(name),) * layers


def _streams(keys: _Keys) -> int:
    streams, projections = keys.whole("altup.num_inputs", least=2), keys.size_of("altup_proj.weight")
    if streams != projections + 1:
        raise keys.fault("altup.num_inputs", f"{streams}, but tensor altup_proj.weight holds {projections} projections")
    return streams


def _sliding(keys: _Keys, *, period: int) -> tuple[bool, ...]:
    """By a pattern with a value for each layer, or with one full layer at the end of each period."""
    layers, name = keys.layers(), "attention.sliding_window_pattern"
    given = keys.value(name, period)
    if isinstance(given, np.ndarray):
        if given.dtype.kind not in "?biu" or len(given) < layers:
            raise keys.fault(name, f"{len(given)} values, not one for each of {layers} layers")
        return tuple(bool(each) for each in given[:layers])
    period = keys.whole(name, period, least=0)
    return tuple(bool(period) and index % period < period - 1 for index in range(layers))


def _rope_factor(keys: _Keys) -> float:
    kind = keys.value("rope.scaling.type", "none")
    factor = keys.number("rope.scaling.factor", 1.0)
    if not isinstance(kind, str) or kind not in ("none", "linear"):
        raise keys.fault("rope.scaling.type", f"{kind!r:.60} is not supported (none, linear)")
    return factor if kind == "linear" else 1.0


def _query_scalar(keys: _Keys) -> int:
    hidden, heads = keys.whole("embedding_length"), keys.same("attention.head_count")
    implied = keys.whole("attention.key_length", hidden // heads)
    if keys.layers() == LAYERS_OF_27B.get(keys.family):
        implied = hidden // heads
    scale = keys.number("attention.scale", 0.0, least=0)
    if not scale:
        return implied
    scalar = round(scale**-2)
    if np.float32(scalar**-0.5) != np.float32(scale):
        raise keys.fault("attention.scale", f"{scale!r} is not the root of a whole number's reciprocal")
    return scalar


def _share(threshold: float) -> float:
    """The share of a normal distribution below `threshold`, in as few digits as give the same threshold in fp32 again."""
    if threshold == -math.inf:
        return 0.0
    normal, precision = NormalDist(), 4 * np.spacing(np.float32(abs(threshold)))
    share = normal.cdf(threshold)
    candidates = (round(share, digits) for digits in range(1, 12))
    exact = (each for each in candidates if 0 < each < 1 and abs(normal.inv_cdf(each) - threshold) <= precision)
    return next(exact, share)


class _Keys:
    """The keys of a file's architecture. What is not to be read is a ModelError that names file and key."""

    def __init__(self, file: GgufFile, family: str) -> None:
        self.file, self.family = file, family
        self._read: set[str] = set()

    def fault(self, name: str, what: str) -> ModelError:
        return ModelError(f"{self.file.path}: key {self.family}.{name}: {what}")

    def value(self, name: str, default: Any = None) -> Any:
        """The value, whatever it is. Raises ModelError where it is absent and has no default."""
        self._read.add(name)
        value = self.file.metadata.get(f"{self.family}.{name}", default)
        if value is None:
            raise self.fault(name, "is missing")
        return value

    def layers(self) -> int:
        """Their number, which what follows may count through: no more than there are tensors."""
        layers = self.whole("block_count")
        if layers > len(self.file.tensors):
            raise self.fault("block_count", f"{layers} layers, but the file has {len(self.file.tensors)} tensors")
        return layers

    def whole(self, name: str, default: int | None = None, *, least: int = 1) -> int:
        value = self.value(name, default)
        if type(value) is float and value.is_integer():  # as published files of Gemma 3n have their shared layers
            value = int(value)
        if type(value) is not int or not least <= value <= _MOST:
            raise self.fault(name, f"{value!r:.60} is not a whole number from {least} on")
        return value

    def number(self, name: str, default: float | None = None, *, least: float = math.ulp(0.0)) -> float:
        """In as few digits as its fp32 has: 1e-6 is written as 9.99999997e-07."""
        value = self.value(name, default)
        if type(value) not in (int, float) or not least <= value < math.inf:
            raise self.fault(name, f"{value!r:.60} is not a number {'from 0 on' if least == 0 else 'above 0'}")
        return float(str(np.float32(value)))

    def numbers(self, name: str, count: int) -> list[float]:
        value = self.value(name)
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "iuf" or len(value) != count:
            raise self.fault(name, f"is not one number for each of {count} layers")
        if np.isnan(value).any() or (value == math.inf).any():
            raise self.fault(name, "holds what is no number")
        return [float(each) for each in value]

    def layerwise(self, name: str, count: int) -> tuple[int, ...]:
        """A whole number for each layer, or one for all."""
        value = self.value(name)
        values = value.tolist() if isinstance(value, np.ndarray) else [value] * count
        if len(values) != count or not all(type(each) is int and 1 <= each <= _MOST for each in values):
            raise self.fault(name, f"is not a whole number from 1 on for each of {count} layers")
        return tuple(values)

    def same(self, name: str, default: int | None = None) -> int:
        """A whole number that may be given for each layer, where all layers have the same."""
        value = self.value(name, default)
        if not isinstance(value, np.ndarray):
            return self.whole(name, default)
        distinct = set(self.layerwise(name, self.layers()))
        if len(distinct) > 1:
            raise self.fault(name, f"layers with {' and '.join(map(str, sorted(distinct)[:2]))} are not supported")
        return distinct.pop()

    def require(self, name: str, supported: Any) -> None:
        """Where it is given."""
        value = self.value(name, supported)
        if not isinstance(value, (int, float)) or not math.isclose(value, supported, rel_tol=1e-6):
            raise self.fault(name, f"{value!r:.60} is not supported (only {supported!r})")

    def size_of(self, tensor: str) -> int:
        """A matrix's number of rows."""
        if tensor not in self.file.tensors:
            raise ModelError(f"{self.file.path}: tensor {tensor} is missing")
        return self.file.tensors[tensor].shape[0]

    def refuse_unread(self) -> None:
        """Raises ModelError for a key of the architecture that nothing has asked for, unless it is off."""
        for key, value in self.file.metadata.items():
            name = key.removeprefix(f"{self.family}.")
            if name == key or name in self._read or name in _SILENT:
                continue
            if isinstance(value, (list, np.ndarray)) or value not in (0, "", "none"):
                raise self.fault(name, "is not known, and might change what the model computes")
