"""The process that measures what quantisation does to a base. Its request is written by measuring.py."""

from __future__ import annotations

from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import Any

import torch

from agentloop import card, job
from agentloop.engine import FastLanguageModel
from agentloop.engine.io.checkpoint import Checkpoint
from agentloop.engine.io.packed import packed_weights
from agentloop.engine.memory.plans import GIB
from agentloop.errors import SettingError
from agentloop.model_directory.configuration import read_architecture
from agentloop.model_directory.tensors import LANDMARK, headers, required
from agentloop.quantization import plan
from agentloop.quantization.divergence import Comparison
from agentloop.records import NF4, NONE, Quantization

Sequence = tuple[list[int], list[bool]]
BOTH = 1.3
"""Linears in 16 bit and in NF4, as a multiple of those in 16 bit."""
BESIDE = 2 * GIB
"""Matrices, activations, logits and CUDA's own context."""
TURNS = 2
"""Turns of the model that an episode has at least: a call and an answer."""


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """`{"none", "nf4", "dynamic"}`: each `{"load_in_4bit", "in_16bit", "bytes", "kl", "same_choice", "tokens", "episode_kl"}`.

    "dynamic" is `request["in_16bit"]`, or planned where `request["tolerance"]` is set: nats of a whole episode. `bytes` are
    those of the language model's weights, `prompts` are continued by the base in 16 bit, `sequences` taken as they are.
    `episode_kl` is `kl` by the model's tokens in an episode: as many as a sequence has in the mean, or, where there is none,
    `TURNS` continuations.
    """
    directory, cache = Path(request["model"]), Path(request["cache"])
    longest = max(len(ids) for ids in [*request["prompts"], *(ids for ids, _ in request["sequences"])])
    new = request["new_tokens"]
    checkpoint = Checkpoint(directory)
    model, _ = FastLanguageModel.from_pretrained(
        directory,
        max_seq_length=longest + new,
        load_in_4bit=False,
        graphs=False,
        offload_linears=not has_room(directory),
        cache_directory=cache,
    )
    turns = continued(model, request["prompts"], new, request["stop"])
    sequences = [*turns, *request["sequences"]]
    episode = _mean_tokens(request["sequences"]) if request["sequences"] else TURNS * _mean_tokens(turns)
    packed = packed_weights(model.shape, checkpoint, model.fingerprint, cache, model.device)
    comparison = Comparison(model, packed, sequences)
    _, held = headers(directory)
    whole = 2 * sum(prod(header.size) for header in held.values())
    saved = {
        name: comparison.bytes_in_16bit(name) - comparison.bytes_packed(name) for name in sorted(comparison.original)
    }

    def measured(quantization: Quantization) -> dict[str, Any]:
        names = [name for name in saved if quantization.in_4bit and name not in quantization.in_16bit]
        found = asdict(comparison.of(names))
        found["episode_kl"] = found["kl"] * episode
        return quantization.settings() | {"bytes": whole - sum(saved[name] for name in names)} | found

    result = {"none": measured(NONE), "nf4": measured(NF4)}
    in_16bit = request["in_16bit"]
    if request["tolerance"] is not None:
        most = request["most_bytes"]
        if request["total_bytes"] is not None:
            most = request["total_bytes"] - result["nf4"]["bytes"]
            if most < 0:
                least = result["nf4"]["bytes"] / GIB
                raise SettingError(
                    f"--bytes: {request['total_bytes'] / GIB:.3g} GiB, but in NF4 alone it takes {least:.3g}"
                )
        in_16bit = _planned(comparison, saved, request["tolerance"] / episode, most)
    if in_16bit is not None:
        result["dynamic"] = measured(Quantization(True, tuple(in_16bit)))
    return result


def has_room(directory: Path) -> bool:
    """Return True where the linears of this model fit the card in 16 bit and NF4 beside everything else. Raises ServerError."""
    if not torch.cuda.device_count():
        return True
    shape = read_architecture(directory)
    sizes = dict(required(shape))
    linears = 2 * sum(prod(sizes[f"{name}.weight"]) for name in shape.linears)
    head = 2 * prod(sizes[LANDMARK])
    return BOTH * linears + 2 * head + BESIDE <= card.free_bytes()[0]


def _planned(
    comparison: Comparison, saved: dict[str, int], tolerance: float, most_bytes: int | None
) -> tuple[str, ...]:
    costs = [
        plan.Cost(unit, comparison.of(unit).kl, sum(saved[name] for name in unit)) for unit in plan.units(sorted(saved))
    ]

    def joint(in_16bit: Any) -> float:
        return comparison.of([name for name in saved if name not in in_16bit]).kl

    return plan.choose(costs, joint, tolerance=tolerance, most_bytes=most_bytes)


def _mean_tokens(sequences: list[Any]) -> float:
    """Tokens of the model's in one of these, in the mean."""
    return sum(sum(mask) for _, mask in sequences) / len(sequences)


def continued(model: Any, prompts: list[list[int]], new_tokens: int, stop: list[int]) -> list[Sequence]:
    """Prompts with what the model says next at temperature 1, as (token_ids, mask). The same each time."""
    if not prompts:
        return []
    width = max(map(len, prompts))
    rows = torch.tensor([prompt + [0] * (width - len(prompt)) for prompt in prompts])
    real = torch.tensor([[1] * len(prompt) + [0] * (width - len(prompt)) for prompt in prompts])
    torch.manual_seed(0)
    options = {"do_sample": True, "temperature": 1.0, "eos_token_id": stop, "pad_token_id": 0}
    sequences = []
    for prompt, row in zip(
        prompts, model.generate(rows, attention_mask=real, max_new_tokens=new_tokens, **options).tolist(), strict=True
    ):
        said = row[width:]
        ended = next((place + 1 for place, token in enumerate(said) if token in stop), len(said))
        sequences.append((prompt + said[:ended], [False] * len(prompt) + [True] * ended))
    return sequences


if __name__ == "__main__":
    job.main(measure)
