"""Training over real batches, whose sizes never repeat, beside one repeated batch: tokens per second, captures included.

    python kernels/benchmarks/epoch.py CHECKPOINT --cases 8192:0.3:16,8192:1.0:16 [--batches 60] [--memory GiB] [--json OUT]

A case is TOKENS:SUPERVISED:RANK, the budget of a batch, the share of its tokens that is trained on and the adapter's rank.
Rows have log-normal lengths, median 700, the supervised tokens in runs of 32; they are packed and stepped through as the
trainer does, every step's loss read. `epoch` is all batches one after another, from the second on: the first one compiles.
`repeated` is one batch of the same packing again and again, once it is recorded. Tokens that fill up a batch do not count.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from train_step import process_gib, write

from agentloop.engine import FastLanguageModel
from agentloop.engine.api.model import Gemma
from agentloop.engine.batch import PackedBatch, pack
from agentloop.engine.optimizer import FlatAdamW
from agentloop.proof import synthetic

REPEATS = 12
SETTLED = 4
"""Steps of a repeated batch after which its graph is recorded and warm."""


def real_batches(budget: int, supervised: float, count: int, vocabulary: int) -> list[PackedBatch]:
    """About so many packed batches of random ids."""
    rng = random.Random(0)
    rows: list[tuple[list[int], list[bool]]] = []
    while sum(len(ids) for ids, _ in rows) < budget * (count - 0.5):
        length = min(budget, 8192, synthetic.row_length(rng, math.exp(6.55)))
        rows.append(synthetic.row(rng, length, supervised, vocabulary))
    return pack(rows, budget)


def stepped(model: Gemma, optimizer: FlatAdamW, batches: list[PackedBatch]) -> list[float]:
    """Seconds of each step, as the trainer takes them: a step's loss is read when the next one is under way."""
    times = []
    started = time.perf_counter()
    waiting: list[torch.Tensor] = []
    for batch in [*batches, None]:
        taken = []
        if batch is not None:
            taken = [model.loss_and_gradients(batch).loss_sum, optimizer.step(learning_rate=1e-4, max_grad_norm=1.0)]
        if waiting:
            assert all(math.isfinite(float(each)) for each in waiting)
            times.append(time.perf_counter() - started)
            started = time.perf_counter()
        waiting = taken
    return times


def measure(model: Gemma, optimizer: FlatAdamW, batches: list[PackedBatch]) -> dict[str, Any]:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    model.expect(batches)
    first = stepped(model, optimizer, batches[:1])  # alone: what the second step records is of the second step
    times = first + stepped(model, optimizer, batches[1:])
    process, recorded = process_gib(), len(model._graphs._captured)
    again = stepped(model, optimizer, batches)
    tokens = [batch.tokens for batch in batches]
    usual = sorted(batches, key=lambda batch: batch.supervised)[len(batches) // 2]
    repeated = statistics.median(stepped(model, optimizer, [usual] * REPEATS)[SETTLED:])
    epoch = sum(tokens[1:]) / sum(times[1:])
    return {
        "batches": len(batches),
        "tokens": [min(tokens), max(tokens)],
        "supervised": [min(b.supervised for b in batches), max(b.supervised for b in batches)],
        "padded": [[shape.tokens, shape.rows, shape.segments, shape.longest] for shape in model._known.shapes],
        "graphs": recorded,
        "plan": str(model.step_plan(usual)),
        "first_step_s": times[0],
        "epoch_tokens_per_second": epoch,
        "second_epoch_tokens_per_second": sum(tokens) / sum(again),
        "repeated_tokens_per_second": usual.tokens / repeated,
        "epoch_over_repeated": epoch * repeated / usual.tokens,
        "step_ms": {
            "mean": 1e3 * statistics.mean(times[1:]),
            **{f"p{100 * p:.0f}": 1e3 * sorted(times[1:])[int(p * (len(times) - 2))] for p in (0.1, 0.5, 0.9, 1)},
        },
        "process_gib": process,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--cases", default="8192:0.3:16,8192:1.0:16")
    parser.add_argument("--batches", type=int, default=60)
    parser.add_argument("--memory", default="auto", help="GiB of the card that the process may hold")
    parser.add_argument("--cache", type=Path, default=Path("/tmp/agentloop-cache"))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    model, _ = FastLanguageModel.from_pretrained(
        arguments.checkpoint, max_seq_length=8192, cache_directory=arguments.cache
    )
    model.memory_budget = arguments.memory if arguments.memory == "auto" else float(arguments.memory)
    vocabulary = model.shape.ple_vocab or model.shape.vocab
    results = []
    for case in arguments.cases.split(","):
        budget, supervised, rank = case.split(":")
        model = FastLanguageModel.get_peft_model(model.unload(), r=int(rank), lora_alpha=int(rank))
        batches = real_batches(int(budget), float(supervised), arguments.batches, vocabulary)
        results.append({"case": case, **measure(model, FlatAdamW(model.lora), batches)})
        print("RES", json.dumps(results[-1]), flush=True)
    if arguments.json:
        write(arguments.json, results)


if __name__ == "__main__":
    main()
