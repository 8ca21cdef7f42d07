"""The measuring process: `python -m agentloop.quantization.worker REQUEST.json`, a request as agentloop.quantization.measuring
writes it. It prints one JSON object; bad input ends it with one line on standard error and exit code 2.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import Any

import torch

from agentloop.engine import FastLanguageModel
from agentloop.engine.checkpoint import Checkpoint
from agentloop.engine.memory import GIB
from agentloop.engine.packed import packed_weights
from agentloop.errors import AgentloopError, SettingError
from agentloop.quantization import plan
from agentloop.quantization.divergence import Comparison
from agentloop.records import NF4, NONE, Quantization
from agentloop.training.memory import ran_out

Sequence = tuple[list[int], list[bool]]


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """`{"none", "nf4", "dynamic"}`: each `{"load_in_4bit", "in_16bit", "bytes", "kl", "same_choice", "tokens"}`.

    "dynamic" is `request["in_16bit"]`, or planned where `request["tolerance"]` is set. `bytes` are those of the language
    model's weights, `prompts` are continued by the base in 16 bit, `sequences` taken as they are.
    """
    directory, cache = Path(request["model"]), Path(request["cache"])
    longest = max(len(ids) for ids in [*request["prompts"], *(ids for ids, _ in request["sequences"])])
    new = request["new_tokens"]
    model, _ = FastLanguageModel.from_pretrained(
        directory, max_seq_length=longest + new, load_in_4bit=False, graphs=False, cache_directory=cache
    )
    sequences = [*continued(model, request["prompts"], new, request["stop"]), *request["sequences"]]
    checkpoint = Checkpoint(directory)
    packed = packed_weights(model.shape, checkpoint, model.fingerprint, cache, model.device)
    comparison = Comparison(model, packed, sequences)
    whole = 2 * sum(prod(size) for size in checkpoint.sizes().values())
    saved = {
        name: comparison.bytes_in_16bit(name) - comparison.bytes_packed(name) for name in sorted(comparison.original)
    }

    def measured(quantization: Quantization) -> dict[str, Any]:
        names = [name for name in saved if quantization.in_4bit and name not in quantization.in_16bit]
        found = asdict(comparison.of(names))
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
        in_16bit = _planned(comparison, saved, request["tolerance"], most)
    if in_16bit is not None:
        result["dynamic"] = measured(Quantization(True, tuple(in_16bit)))
    return result


def _planned(
    comparison: Comparison, saved: dict[str, int], tolerance: float, most_bytes: int | None
) -> tuple[str, ...]:
    costs = [
        plan.Cost(unit, comparison.of(unit).kl, sum(saved[name] for name in unit)) for unit in plan.units(sorted(saved))
    ]

    def joint(in_16bit: Any) -> float:
        return comparison.of([name for name in saved if name not in in_16bit]).kl

    return plan.choose(costs, joint, tolerance=tolerance, most_bytes=most_bytes)


def continued(model: Any, prompts: list[list[int]], new_tokens: int, stop: list[int]) -> list[Sequence]:
    """Prompts with what the model says next, its likeliest token each time, as (token_ids, mask)."""
    if not prompts:
        return []
    width = max(map(len, prompts))
    rows = torch.tensor([prompt + [0] * (width - len(prompt)) for prompt in prompts])
    real = torch.tensor([[1] * len(prompt) + [0] * (width - len(prompt)) for prompt in prompts])
    options = {"do_sample": False, "eos_token_id": stop, "pad_token_id": 0}
    sequences = []
    for prompt, row in zip(
        prompts, model.generate(rows, attention_mask=real, max_new_tokens=new_tokens, **options).tolist(), strict=True
    ):
        said = row[width:]
        ended = next((place + 1 for place, token in enumerate(said) if token in stop), len(said))
        sequences.append((prompt + said[:ended], [False] * len(prompt) + [True] * ended))
    return sequences


def main(request_file: str) -> int:
    try:
        result = measure(json.loads(Path(request_file).read_text(encoding="utf-8")))
    except AgentloopError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        if not ran_out(error):
            raise
        print(
            f"error: out of memory while the base in 16 bit was measured: {' '.join(str(error).split())[:200]}",
            file=sys.stderr,
        )
        return 2
    print(json.dumps(result), flush=True)
    return 0


if __name__ == "__main__":
    code = main(*sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
