"""The canary's yardstick as it is stored beside an adapter: what the trainer's own forward says of a few prompts.

Written by the trainer (training/reference.py) and read by whoever serves the adapter, wherever that is; without torch.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from agentloop.errors import AdapterError
from agentloop.reading import read_object
from agentloop.records import Quantization

FILE = "reference.json"


@dataclass(frozen=True)
class Prompt:
    token_ids: tuple[int, ...]
    base: tuple[float, ...]
    """Log probability of each token given its prefix, without the adapter. [tokens - 1]"""
    adapted: tuple[float, ...]
    """The same with the adapter."""
    rounding: tuple[float, ...]
    """`base` in 16-bit arithmetic minus `base` in fp32, on the same weights."""


@dataclass(frozen=True)
class Reference:
    dtype: str
    """In which the trainer computed `base` and `adapted`: "float32", "bfloat16" or "float16"."""
    in_4bit: bool
    """The base's linears went through NF4: what was trained on is the dequantised base."""
    prompts: tuple[Prompt, ...]
    in_16bit: tuple[str, ...] = ()
    """The linears that were left in 16 bit all the same."""

    @property
    def quantization(self) -> Quantization:
        return Quantization(self.in_4bit, self.in_16bit)

    @property
    def token_ids(self) -> list[tuple[int, ...]]:
        return [prompt.token_ids for prompt in self.prompts]

    def write(self, directory: Path) -> None:
        (directory / FILE).write_text(json.dumps(asdict(self)), encoding="utf-8")


def read(directory: Path) -> Reference:
    """Raises AdapterError where the adapter has none, or one that is broken or of another layout."""
    file = directory / FILE
    if not file.is_file():
        raise AdapterError(f"{directory}: no {FILE}; the trainer writes it when it saves an adapter")
    stored = read_object(file, AdapterError)
    try:
        prompts = tuple(
            Prompt(**{name: tuple(values) for name, values in prompt.items()}) for prompt in stored["prompts"]
        )
        reference = Reference(stored["dtype"], stored["in_4bit"], prompts, tuple(stored.get("in_16bit", ())))
        whole = bool(prompts) and all(map(_is_whole, prompts))
    except (TypeError, KeyError, AttributeError):
        whole = False
    if not whole:
        raise AdapterError(f"{file}: another layout than this version writes; train the adapter again")
    return reference


def _is_whole(prompt: Prompt) -> bool:
    rows = (prompt.base, prompt.adapted, prompt.rounding)
    return (
        all(type(token) is int for token in prompt.token_ids)
        and all(len(row) == len(prompt.token_ids) - 1 for row in rows)
        and all(type(value) is float for row in rows for value in row)
    )
