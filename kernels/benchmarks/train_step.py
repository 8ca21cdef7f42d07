"""Time and peak memory of whole QLoRA steps on a CUDA machine: forward, backward, optimizer.

    python kernels/benchmarks/train_step.py CHECKPOINT --cases 1x2048,4x2048 [--supervised 1.0] [--budget GiB] [--json OUT]

A case is SEGMENTSxTOKENS of random ids packed into one batch, or `agent:TOKENS`: segments with log-normal lengths, median
700. Predicted and measured peak memory are printed side by side. CHECKPOINT: a Gemma directory (random weights do).
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
import triton

from agentloop.engine import FastLanguageModel
from agentloop.engine.api.model import Gemma
from agentloop.engine.batch import PackedBatch, join
from agentloop.engine.optimizer import FlatAdamW
from agentloop.proof import synthetic


def make_batch(case: str, supervised: float, seed: int, vocab: int = 262_144) -> PackedBatch:
    """Random ids; the supervised tokens of a segment come in runs of 32, as a model's turns do."""
    rng = random.Random(seed)
    if case.startswith("agent:"):
        room, lengths = int(case.removeprefix("agent:")), []
        while room > 0:
            lengths.append(min(room, synthetic.row_length(rng, math.exp(6.55))))
            room -= lengths[-1]
    else:
        segments, tokens = map(int, case.split("x"))
        lengths = [tokens] * segments
    rows = [synthetic.row(rng, length, supervised, vocab) for length in lengths]
    return join(rows)


def process_gib() -> float:
    """What this process holds of the card and held at its peak beyond that. Nobody else may use the card: what the driver
    says is in use counts as this process's."""
    free, total = torch.cuda.mem_get_info()
    since = torch.cuda.max_memory_reserved() - torch.cuda.memory_reserved()
    return (total - free + since) / 2**30


def measure(model: Gemma, optimizer: FlatAdamW, batches: list[PackedBatch], warmup: int) -> dict[str, float]:
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    times, losses = [], []
    for batch in batches:
        start = time.perf_counter()
        loss = model.loss_and_gradients(batch)
        optimizer.step(learning_rate=1e-4, max_grad_norm=1.0)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
        losses.append(loss.mean)
    step = statistics.median(times[warmup:])
    tokens = batches[0].tokens
    return {
        "tokens": tokens,
        "supervised": batches[-1].supervised,
        "step_ms": 1e3 * step,
        "tokens_per_second": tokens / step,
        "first_step_s": times[0],
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
        "reserved_gib": torch.cuda.max_memory_reserved() / 2**30,
        "process_gib": process_gib(),
        "first_loss": losses[0],
        "last_loss": losses[-1],
    }


def profile(model: Gemma, optimizer: FlatAdamW, batch: PackedBatch, rows: int) -> None:
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    with record(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as trace:
        model.loss_and_gradients(batch)
        optimizer.step(learning_rate=1e-4, max_grad_norm=1.0)
        torch.cuda.synchronize()
    events = [e for e in trace.key_averages() if e.self_device_time_total > 0 and e.device_type.name == "CUDA"]
    total = sum(e.self_device_time_total for e in events)
    print(f"device time {total / 1e3:.1f} ms in {sum(e.count for e in events)} kernels")
    for e in sorted(events, key=lambda e: -e.self_device_time_total)[:rows]:
        each = e.self_device_time_total / e.count
        print(f"{e.self_device_time_total / 1e3:8.2f} ms {e.count:5d} x {each:8.1f} us  {e.key[:110]}")


def write(file: Path, results: list[dict[str, Any]]) -> None:
    """Write the results as JSON, with what they were measured on and by which command."""
    machine = {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "python": platform.python_version(),
        "command": " ".join(sys.argv),
    }
    file.write_text(json.dumps({"machine": machine, "results": results}, indent=1), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--cases", default="1x2048,4x2048")
    parser.add_argument("--supervised", type=float, default=1.0)
    parser.add_argument("--budget", default="auto", help="GiB of device memory, auto for what is free, or a comma list")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--cache", type=Path, default=Path("/tmp/agentloop-cache"))
    parser.add_argument("--profile", type=int, default=0, help="print so many of the longest kernels of one step")
    parser.add_argument("--max-seq-length", type=int, default=8192)
    parser.add_argument("--bits", type=int, default=32, choices=(8, 32), help="of the optimizer's moments")
    parser.add_argument("--resident", action="store_true", help="keep the dequantised weights")
    parser.add_argument("--eager", action="store_true", help="no CUDA graphs")
    parser.add_argument("--card", type=float, help="GiB that torch may take of the device, as on a smaller card")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.card:
        torch.cuda.set_per_process_memory_fraction(arguments.card * 2**30 / torch.cuda.mem_get_info()[1])
    start = time.perf_counter()
    model, _ = FastLanguageModel.from_pretrained(
        arguments.checkpoint,
        max_seq_length=arguments.max_seq_length,
        resident=arguments.resident,
        graphs=not arguments.eager,
        cache_directory=arguments.cache,
    )
    model = FastLanguageModel.get_peft_model(model, r=arguments.rank, lora_alpha=arguments.rank)
    vocabulary = model.shape.ple_vocab or model.shape.vocab
    optimizer = FlatAdamW(model.lora, bits=arguments.bits)
    torch.cuda.synchronize()
    load = time.perf_counter() - start
    print(f"load {load:.1f} s, {torch.cuda.memory_allocated() / 2**30:.2f} GiB on the device", flush=True)
    results = []
    for budget in arguments.budget.split(","):
        model.memory_budget = budget if budget == "auto" else float(budget)
        for case in arguments.cases.split(","):
            batches = [make_batch(case, arguments.supervised, seed, vocabulary) for seed in range(arguments.steps)]
            model.expect(batches)
            try:
                result = {
                    "case": case,
                    "share": arguments.supervised,
                    "budget": budget,
                    "load_s": load,
                    "predicted_gib": model.predicted_peak(batches[-1]) / 2**30,
                    "plan": str(model.step_plan(batches[-1])),
                    **measure(model, optimizer, batches, warmup=3),
                }
            except torch.OutOfMemoryError:
                result = {"case": case, "share": arguments.supervised, "budget": budget, "out_of_memory": True}
            results.append(result)
            print(
                "RES " + " ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in result.items()),
                flush=True,
            )
            if arguments.profile:
                profile(model, optimizer, batches[-1], arguments.profile)
    if arguments.json:
        write(arguments.json, results)


if __name__ == "__main__":
    main()
