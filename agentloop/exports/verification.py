"""Is what was exported what was trained? What another program computes with it, against the trainer's own log probabilities.

Two right programs differ by rounding and, where the export is quantised, by that: the mean difference has a bound for each
type. An adapter that moves the model by less than the bound could be scaled wrongly and pass. So its effect is looked at by
itself as well: rounding averages out over some hundred tokens, and what is left says how much of the effect is there. Not so
where an export is quantised: that makes a model worse on the same tokens that an adapter moves, and nothing averages out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from agentloop.errors import ModelError
from agentloop.exports.prompts import MOST_TOKENS, Prompts, prompts

Rows = Sequence[Sequence[float]]
"""For each prompt the log probability of each token given those before it. [prompts][tokens - 1]"""

BOUNDS = {"f32": 0.005, "f16": 0.01, "bf16": 0.03, "q8_0": 0.15, "q4_k_m": 0.8}
"""Type of the exported weights -> nats per token that they may be off in the mean, where the trainer computes in fp32.

Two to three times what Gemma 3 270M, the smallest and so the least robust, was measured to be off.
"""
EXACT = ("f32", "f16", "bf16")
"""Types in which a fault shows for certain; the others' own error might hide one."""
ROUNDING = {"float64": 0.0, "float32": 0.0, "float16": 0.02, "bfloat16": 0.06}
"""What is added for the dtype that the trainer computes in, and once more for the program's."""
_MISSING = 0.25
"""Share of the adapter's effect that may be lacking or too much."""
_CERTAIN = 3.0
"""Standard errors that it has to be off by besides."""
_BLURRED = 0.1
"""Standard error of that share from which on nothing can be said of it."""


class Trainer(Protocol):
    """The engine's model."""

    max_seq_length: int

    def logprobs(self, token_ids: Sequence[int], *, adapter: bool = True) -> Any:
        """Return the log probability of each token given those before it."""


@dataclass(frozen=True)
class Expected:
    """The trainer's own log probabilities of the fixed prompts."""

    prompts: Prompts
    base: Rows
    adapted: Rows
    dtype: str
    """In which the trainer computed them, as torch calls it: "float32"."""

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Expected:
        """Return what `dataclasses.asdict` was given."""
        asked = Prompts(
            tuple(values["prompts"]["texts"]),
            tuple(map(tuple, values["prompts"]["token_ids"])),
            values["prompts"]["most_tokens"],
        )
        return cls(asked, values["base"], values["adapted"], values["dtype"])

    def bound(self, kinds: Sequence[str], computed_in: str) -> float:
        """Return the nats per token by which weights that were rounded to these types, one after the other, may be off in the
        mean, where a program computes in that dtype."""
        return sum(BOUNDS[kind] for kind in kinds) + ROUNDING[self.dtype] + ROUNDING[computed_in]


@dataclass(frozen=True)
class Figures:
    """Distance between the log probabilities of a program and those of the trainer, in nats per token."""

    export: str
    """The file or directory."""
    program: str
    mean: float
    worst: float
    bound: float
    """Of the mean."""
    effect: float
    """How far the adapter moves the trainer's log probabilities, in the mean."""
    share: float | None
    """How much of that effect the export has: 1 for all. None where rounding hides it, or quantisation."""
    tokens: int

    def __str__(self) -> str:
        share = "" if self.share is None else f"; {self.share:.0%} of the adapter's effect ({self.effect:.2g})"
        return (
            f"{self.export}: {self.program} is {self.mean:.2g} nats per token from the trainer in the mean "
            f"(bound {self.bound:.2g}), {self.worst:.2g} at most, over {self.tokens} tokens{share}"
        )


def expect(model: Trainer, tokenizer: Any, dtype: str) -> Expected:
    """Ask the trainer, with the adapter and without it."""
    asked = prompts(tokenizer, min(MOST_TOKENS, model.max_seq_length))
    base, adapted = ([model.logprobs(ids, adapter=on).tolist() for ids in asked.asked] for on in (False, True))
    return Expected(asked, base, adapted, dtype)


def compare(
    expected: Expected, rows: Rows, *, export: str, program: str, kinds: Sequence[str], computed_in: str = "float32"
) -> Figures:
    """Return the figures of what `program` says of the same prompts; `kinds` are the types that the weights were rounded to.

    Raises ModelError, naming the export, where they are too far from the trainer's.
    """
    base, adapted, given = _flat(expected.base), _flat(expected.adapted), _flat(rows)
    if given.shape != adapted.shape:
        raise ModelError(f"{export}: {program} gave {given.size} log probabilities, not {adapted.size}")
    gap, effect = given - adapted, adapted - base
    share, error = _share(gap, effect)
    figures = Figures(
        export=export,
        program=program,
        mean=float(np.abs(gap).mean()),
        worst=float(np.abs(gap).max()),
        bound=expected.bound(kinds, computed_in),
        effect=float(np.abs(effect).mean()),
        share=share if error <= _BLURRED and all(kind in EXACT for kind in kinds) else None,
        tokens=gap.size,
    )
    if not figures.mean <= figures.bound:  # also where something is not a number
        raise ModelError(
            f"{export}: not what was trained: {program} is {figures.mean:.2g} nats per token from the trainer in the mean, "
            f"more than {figures.bound:.2g}"
        )
    if figures.share is not None and abs(share - 1) > max(_MISSING, _CERTAIN * error):
        raise ModelError(f"{export}: not what was trained: it has {share:.0%} of the adapter's effect by {program}")
    return figures


def same_tokens(expected: Expected, token_ids: Sequence[Sequence[int]], *, export: str, program: str) -> None:
    """Raise ModelError, naming the export, where `program` reads one of the texts as other tokens than the trainer."""
    for text, ids, given in zip(expected.prompts.texts, expected.prompts.token_ids, token_ids, strict=True):
        if list(ids) != list(given):
            raise ModelError(f"{export}: {program} reads {text[:40]!r}… as other tokens than the trainer")


def same_turns(expected: Expected, text: str, *, export: str, program: str) -> None:
    """Raise ModelError, naming the export, where `program` writes the conversation otherwise than it is trained on."""
    trained = expected.prompts.conversation
    if text != trained:
        there = next((i for i, (a, b) in enumerate(zip(text, trained)) if a != b), min(len(text), len(trained)))
        raise ModelError(
            f"{export}: wrong template: {program} writes {text[there : there + 30]!r} where {trained[there : there + 30]!r} "
            "is trained on"
        )


def _share(gap: np.ndarray, effect: np.ndarray) -> tuple[float, float]:
    """The effect that is there as a multiple of `effect`, both [tokens], and that number's standard error."""
    power = float(effect @ effect)
    if not power:
        return 1.0, math.inf
    lacking = float(gap @ effect) / power
    left = gap - lacking * effect
    return 1 + lacking, math.sqrt(float(left @ left) / max(gap.size - 1, 1) / power)


def _flat(rows: Rows) -> np.ndarray:
    return np.concatenate([np.asarray(row, dtype=np.float64) for row in rows])
