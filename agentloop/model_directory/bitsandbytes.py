"""Weights that a directory holds in bitsandbytes' four bits: which they are, and what they unpack to. Reads no torch.

Beside a packed `X.weight` stand `X.weight.absmax`, `.quant_map`, where the scales are quantised too `.nested_absmax` and
`.nested_quant_map`, and `.quant_state.bitsandbytes__nf4`, which is JSON in bytes. These names say which weights are packed.
config.json's llm_int8_skip_modules would say it only roughly: its entries count from the start or from the end of a module's
name, as that was in the class that wrote the directory (`model.language_model.layers.…` in a multimodal one).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from agentloop.errors import ModelError

_STATE = ".quant_state.bitsandbytes__"
_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
"""The dtype that a weight unpacks to -> the same as safetensors calls it."""


@dataclass(frozen=True)
class PackedState:
    """One packed weight, as its quant_state describes it."""

    kind: str
    """"nf4" or "fp4"."""
    blocksize: int
    """Elements, in the order of rows, that have one scale."""
    dtype: str
    """Name of the dtype that the weight unpacks to: `bfloat16` and the like."""
    shape: tuple[int, ...]
    nested_blocksize: int | None
    """Scales that have one scale of their own; None where they are in fp32."""
    nested_offset: float

    @property
    def stored(self) -> str:
        """The dtype as safetensors calls it."""
        return _DTYPES[self.dtype]

    @property
    def nbytes(self) -> int:
        """Bytes of the packed elements, two in each."""
        return -(-prod(self.shape) // 2)


def states(names: Iterable[str]) -> dict[str, str]:
    """Name of each packed weight -> name of the tensor that describes it."""
    return {name.partition(_STATE)[0]: name for name in names if _STATE in name}


def parts(weight: str, names: Iterable[str]) -> list[str]:
    """The names that belong to a packed weight, beside its own."""
    return [name for name in names if name.startswith(f"{weight}.")]


def read_state(description: bytes, weight: str, directory: Path) -> PackedState:
    """The state that a tensor's bytes describe. Raises ModelError where they are broken or of an unknown kind."""
    try:
        found = json.loads(description)
        nested = found.get("nested_blocksize")
        state = PackedState(
            str(found["quant_type"]),
            int(found["blocksize"]),
            str(found["dtype"]),
            tuple(int(size) for size in found["shape"]),
            None if nested is None else int(nested),
            float(found.get("nested_offset", 0.0)),
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(f"{directory}: the quant_state of {weight} is not to be read: {error!r:.100}") from None
    if state.kind not in ("nf4", "fp4") or state.dtype not in _DTYPES or min(state.blocksize, *state.shape) < 1:
        raise ModelError(
            f"{directory}: {weight} is packed as {state.kind} of {state.dtype}, blocks of {state.blocksize}: not supported"
        )
    return state


def check_config(path: Path, found: Any) -> None:
    """Raises ModelError where a config.json's quantization_config is another than bitsandbytes' in four bits."""
    method = found.get("quant_method", "bitsandbytes") if isinstance(found, dict) else None
    if method != "bitsandbytes" or not (found.get("load_in_4bit") or found.get("_load_in_4bit")):
        kind = f"{method!r:.40}" + (" in 8 bit" if method == "bitsandbytes" else "")
        raise ModelError(f"{path}: quantization_config of {kind} is not supported (only bitsandbytes in 4 bit)")
