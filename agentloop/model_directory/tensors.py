"""The tensors that config.json implies, by name and size, and whether a directory's weights are those.

Names are without the prefix (`model.`, `model.language_model.`, …) that a file puts before the language model's tensors. It is
found from the one tensor that language models have and towers have not. Reads headers alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

from agentloop.errors import ModelError
from agentloop.model_directory import bitsandbytes
from agentloop.model_directory.architecture import Architecture
from agentloop.model_directory.configuration import has_tied_head, is_packed, read_architecture
from agentloop.model_directory.files import tensor_files, weight_files
from agentloop.reading import open_tensors

LANDMARK = "embed_tokens.weight"
TYPES = ("BF16", "F16", "F32", "F64")
"""Types of weights that are read, as safetensors calls them."""
_BYTES = {"U8": 1, "I8": 1, "F16": 2, "BF16": 2, "F32": 4}
"""Of an element of what packed weights may be stored as."""


@dataclass(frozen=True)
class Header:
    """One tensor, as its file's header describes it."""

    type: str
    """As safetensors calls it: BF16, F32, …"""
    size: tuple[int, ...]


def headers(directory: Path) -> tuple[str, dict[str, Header]]:
    """The prefix of the language model's tensors, and their headers by name without it. Raises ModelError.

    Of a weight in bitsandbytes' four bits it is the header that it has unpacked.
    """
    return _of_language(directory, _all_headers(directory))


def _of_language(directory: Path, found: dict[str, Header]) -> tuple[str, dict[str, Header]]:
    prefix = language_prefix(directory, found)
    return prefix, {name.removeprefix(prefix): each for name, each in found.items() if name.startswith(prefix)}


def _all_headers(directory: Path) -> dict[str, Header]:
    files = {path: open_tensors(path, ModelError, framework="np") for path in weight_files(directory)}
    where = tensor_files(directory, {path: file.keys() for path, file in files.items()})
    found: dict[str, Header] = {}
    for name, path in where.items():
        tensor = files[path].get_slice(name)
        found[name] = Header(tensor.get_dtype(), tuple(tensor.get_shape()))
    packed = bitsandbytes.states(found)
    if bool(packed) != is_packed(directory):
        raise ModelError(
            f"{directory}: config.json has a quantization_config, but no weight is packed"
            if not packed
            else f"{directory}: {min(packed)} is packed, but config.json has no quantization_config"
        )
    for weight, state in packed.items():
        unpacked = _unpacked(weight, bytes(files[where[state]].get_tensor(state)), found, directory)
        for name in bitsandbytes.parts(weight, list(found)):
            del found[name]
        found[weight] = unpacked
    return found


def _unpacked(weight: str, description: bytes, found: dict[str, Header], directory: Path) -> Header:
    state = bitsandbytes.read_state(description, weight, directory)
    absmax, nested = f"{weight}.absmax", f"{weight}.nested_absmax"
    scales = -(-prod(state.shape) // state.blocksize)
    expected = {weight: state.nbytes, absmax: scales, f"{weight}.quant_map": 16}
    if state.nested_blocksize is not None:
        expected |= {nested: -(-scales // state.nested_blocksize), f"{weight}.nested_quant_map": 256}
    for name, length in expected.items():
        if name not in found:
            raise ModelError(f"{directory}: the weights lack {name}")
        header = found[name]
        length_here = prod(header.size) * (_BYTES.get(header.type, 0) if name == weight else 1)
        if length_here != length:
            raise ModelError(f"{directory}: {name} has {length_here} elements, {length} by its quant_state")
    return Header(state.stored, state.shape)


def language_prefix(directory: Path, names: Iterable[str]) -> str:
    """Return what stands before the names of the language model's tensors.

    Raises ModelError where there is no one such model.
    """
    landmarks = [name for name in names if name.endswith(LANDMARK)]
    if len(landmarks) != 1:
        raise ModelError(f"{directory}: {len(landmarks)} tensors named {LANDMARK}; a language model has one")
    return landmarks[0][: -len(LANDMARK)]


def check(directory: Path) -> None:
    """Raises ModelError where config.json is of no model that is computed here, a tensor is missing, no floating-point one,
    or of another size than config.json implies.
    """
    shape = read_architecture(directory)
    everything = _all_headers(directory)
    prefix, found = _of_language(directory, everything)
    needed = dict(required(shape))
    for name, header in found.items():
        if name.startswith("layers.") and int(name.split(".")[1]) >= shape.layers:
            raise ModelError(f"{directory}: the weights have {name}, config.json only {shape.layers} layers")
        expected = needed.get(name) or _implied(shape, name)
        if expected is None:
            continue  # not the language model's
        if header.size != expected:
            raise ModelError(
                f"{directory}: {name} is {list(header.size)} in the weights, {list(expected)} by config.json"
            )
        if header.type not in TYPES:
            raise ModelError(f"{directory}: {name} is {header.type} in the weights, not {' or '.join(TYPES)}")
    if missing := next((name for name in needed if name not in found), None):
        raise ModelError(f"{directory}: the weights lack {prefix}{missing}")
    _check_head(directory, everything, shape)


def _check_head(directory: Path, found: dict[str, Header], shape: Architecture) -> None:
    """Raises ModelError where the head is not the embedding, by config.json, and there is none, or one that does not fit."""
    own = next((each for name, each in found.items() if name.endswith("lm_head.weight")), None)
    if own is None and not has_tied_head(directory):
        raise ModelError(
            f"{directory}: the weights lack lm_head.weight, and tie_word_embeddings is false in config.json"
        )
    if own is not None and own.size != (shape.vocab, shape.hidden):
        raise ModelError(
            f"{directory}: lm_head.weight is {list(own.size)} in the weights, {[shape.vocab, shape.hidden]} by config.json"
        )
    if own is not None and own.type not in TYPES:
        raise ModelError(f"{directory}: lm_head.weight is {own.type} in the weights, not {' or '.join(TYPES)}")


def required(shape: Architecture) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and size of every tensor that a model of this architecture is made from."""
    for name in _required_names(shape):
        yield name, size(shape, name)


def _required_names(shape: Architecture) -> Iterator[str]:
    yield LANDMARK
    for index, spec in enumerate(shape.layer_specs):
        yield from (f"layers.{index}.{name}" for name in spec.others)
    yield from (f"{name}.weight" for name in shape.linears)
    if shape.family == "gemma3n":
        for name in ("embed_tokens_per_layer", "per_layer_model_projection", "per_layer_projection_norm"):
            yield f"{name}.weight"
        for kind in ("altup_projections", "altup_unembed_projections"):
            yield from (f"{kind}.{index}.weight" for index in range(shape.streams - 1))
    yield "norm.weight"


def size(shape: Architecture, name: str) -> tuple[int, ...]:
    """The size of the tensor `name`. Raises KeyError where a model of this architecture has none of that name."""
    if name.startswith("layers."):
        _, index, tensor = name.split(".", 2)
        return shape.layer_specs[int(index)].size(tensor)
    parts = name.removesuffix(".weight").split(".")
    return _outside_layers(shape)[".".join(part for part in parts if not part.isdigit())]


def _implied(shape: Architecture, name: str) -> tuple[int, ...] | None:
    try:
        return size(shape, name)
    except (KeyError, ValueError):
        return None


def _outside_layers(s: Architecture) -> dict[str, tuple[int, ...]]:
    return {
        "embed_tokens": (s.vocab, s.hidden),
        "embed_tokens_per_layer": (s.ple_vocab, s.layers * s.ple),
        "per_layer_model_projection": (s.layers * s.ple, s.hidden),
        "per_layer_projection_norm": (s.ple,),
        "altup_projections": (s.hidden, s.hidden),
        "altup_unembed_projections": (s.hidden, s.hidden),
        "norm": (s.hidden,),
    }
