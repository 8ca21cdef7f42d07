"""Training beside another program that holds most of the card: a leaner plan, the same adapter, or one line.

    python tests/training/short_memory.py CHECKPOINT [--leave 5.0] [--json OUT]

On a CUDA machine that nobody else uses. CHECKPOINT: a Gemma 3n directory (random weights of E4B's shape do). A filler takes
all of the card but `--leave` GiB; the trainer, told that it may hold more, runs out of memory, goes on with a leaner plan
from its newest checkpoint and ends with an adapter, which is compared with that of two runs that nobody disturbed.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from agentloop import settings as configuration
from agentloop.errors import AgentloopError
from agentloop.model_directory.fingerprint import base_fingerprint
from agentloop.records import NF4
from agentloop.settings import Settings
from agentloop.training import rows
from agentloop.training.launch import launch, read_metrics
from agentloop.training.run import TrainingRun

FILLER = """
import sys, time, torch
leave, held = float(sys.argv[1]) * 2**30, []
while (free := torch.cuda.mem_get_info()[0]) - leave > 2**21:
    held.append(torch.empty(int(free - leave), dtype=torch.uint8, device="cuda"))
print(free / 2**30, flush=True)
sys.stdin.read()
"""


@contextmanager
def filled(leave: float) -> Iterator[float]:
    """Another process holds all of the card but `leave` GiB. Gives what is free then."""
    process = subprocess.Popen(
        [sys.executable, "-c", FILLER, str(leave)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield float(process.stdout.readline())
    finally:
        process.stdin.close()
        process.wait()


def sequences(count: int, tokens: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Random ids; two thirds of a sequence are trained on."""
    draw = random.Random(0)
    made = []
    for _ in range(count):
        length = draw.randrange(tokens // 6, tokens // 2)
        ids = np.array([draw.randrange(10, 260_000) for _ in range(length)])
        made.append((ids, np.array([draw.random() < 0.66 for _ in range(length)])))
    return made


def attempt(run: TrainingRun, settings: Settings, root: Path) -> dict[str, Any]:
    """Train under `root`; what it said, and how much the process held."""
    run = replace(run, adapters=root / "adapters", checkpoints=root / "checkpoints")
    said, started, steps = StringIO(), time.perf_counter(), []
    try:
        with redirect_stdout(said):
            launch(run, settings, on_step=lambda metrics: steps.append(metrics["memory_gib"]))
    except AgentloopError as error:
        return {"refused": str(error).partition(" (log")[0], "seconds": time.perf_counter() - started}
    metrics = read_metrics(run)
    return {
        "said": said.getvalue().splitlines(),
        "steps_made": len(steps),
        "steps": len(metrics),
        "process_gib": max(steps),
        "losses": [row["loss"] for row in metrics],
        "seconds": time.perf_counter() - started,
        "adapter": run.adapter.id,
        "weights": run.output / "adapter_model.safetensors",
    }


def apart(one: Path, other: Path) -> float:
    """Norm of the difference of two adapters' weights, relative to the first's."""
    a, b = load_file(one), load_file(other)
    difference = sum((a[name].double() - b[name].double()).square().sum() for name in a)
    return float((difference / sum(tensor.double().square().sum() for tensor in a.values())).sqrt())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--leave", type=float, default=5.0, help="GiB of the card for the trainer's whole process")
    parser.add_argument("--budget", type=float, default=6.5, help="GiB that the trainer is told it may hold")
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--bits", type=int, default=8, choices=(8, 32))
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    root = Path(tempfile.mkdtemp())

    def settings(**training: Any) -> Settings:
        fixed = {"epochs": 2, "batch_tokens": asked.tokens, "checkpoint_steps": 2, "optimizer_bits": asked.bits}
        paths = {"data": str(root / "data"), "cache": str(root / "cache")}
        return configuration.load({"paths": paths, "training": fixed | training})

    own = settings()
    own.export()
    data = own.paths.data / "rows.safetensors"
    rows.write(data, sequences(12, asked.tokens))
    run = TrainingRun.plan(
        base=base_fingerprint(asked.checkpoint, own.paths.cache), dataset="data_0", rows=data, model=asked.checkpoint,
        training=own.training, quantization=NF4, seed=0, paths=own.paths,
    )  # fmt: skip
    results = {"undisturbed": attempt(run, own, root / "one"), "again": attempt(run, own, root / "two")}
    with filled(asked.leave) as free:
        results["short"] = {"left_gib": free, **attempt(run, settings(memory_budget=asked.budget), root / "short")}
        results["short_auto"] = {"left_gib": free, **attempt(run, own, root / "auto")}
    results["leanest"] = attempt(run, settings(memory_budget=asked.leave), root / "leanest")
    results["leanest_again"] = attempt(run, settings(memory_budget=asked.leave), root / "leanest_again")
    with filled(asked.leave - 1) as free:
        results["too_small"] = {"left_gib": free, **attempt(run, own, root / "small")}
    results["budget_too_small"] = attempt(run, settings(memory_budget=3.0), root / "budget")
    first = results["undisturbed"]["weights"]
    for name in ("again", "short", "short_auto", "leanest", "leanest_again"):
        if "weights" in results[name]:
            results[name]["apart_from_undisturbed"] = apart(first, results[name]["weights"])
    for result in results.values():
        result.pop("weights", None)
    machine = {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "command": " ".join(sys.argv),
    }
    text = json.dumps({"machine": machine, "results": results}, indent=1)
    print(text)
    if asked.json:
        asked.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
