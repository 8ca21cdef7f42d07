"""One training run on one device and on several: tokens a second, and whether the same adapter comes out.

    python kernels/benchmarks/ranks.py CHECKPOINT [--devices 2] [--sequences 96] [--tokens 2048] [--batch 16384] [--json OUT]

Random rows, all tokens supervised. The optimizer's steps are the same, each of `batch` tokens dealt out among the devices,
so losses and adapters must agree but for rounding. Without a GPU the processes are on the CPU (gloo): with a tiny checkpoint.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from agentloop import settings as configuration
from agentloop.model_directory.fingerprint import base_fingerprint
from agentloop.settings import Settings
from agentloop.training import rows
from agentloop.training.launch import launch
from agentloop.training.run import TrainingRun

WARM_UP = 3


def settings_for(checkpoint: Path, work: Path, devices: int, batch: int) -> Settings:
    # Adapters are named by what made them, not by how many devices did: a folder for each.
    return configuration.load(
        {
            "model": str(checkpoint),
            "paths": {"data": str(work / f"devices-{devices}"), "cache": str(work / "cache")},
            "training": {"rank": 16, "alpha": 32, "epochs": 1, "batch_tokens": batch, "devices": devices},
        }
    )


def write_rows(path: Path, vocabulary: int, sequences: int, tokens: int) -> None:
    draw = np.random.default_rng(0)
    rows.write(path, [(draw.integers(6, vocabulary, tokens), np.ones(tokens, bool)) for _ in range(sequences)])


def train(settings: Settings, checkpoint: Path, path: Path) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
    """The metrics of every step, and the adapter."""
    steps: list[dict[str, Any]] = []
    run = TrainingRun.plan(
        base=base_fingerprint(checkpoint, settings.paths.cache),
        dataset="data_random",
        rows=path,
        model=checkpoint,
        training=settings.training,
        seed=0,
        paths=settings.paths,
    )
    launch(run, settings, on_step=steps.append)
    return steps, load_file(run.output / "adapter_model.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--sequences", type=int, default=96)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=16_384)
    parser.add_argument("--work", type=Path, default=Path("/tmp/agentloop-ranks"))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    checkpoint, work = arguments.checkpoint.resolve(), arguments.work.resolve()
    vocabulary = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))["vocab_size_per_layer_input"]
    path = work / "rows.safetensors"
    write_rows(path, vocabulary, arguments.sequences, arguments.tokens)
    runs, rates = {}, {}
    for devices in (1, arguments.devices):
        steps, adapter = runs[devices] = train(
            settings_for(checkpoint, work, devices, arguments.batch), checkpoint, path
        )
        rates[devices] = statistics.median(step["tokens"] / step["seconds"] for step in steps[WARM_UP:])
        print(f"RES devices={devices} tokens_per_second={rates[devices]:.0f}", flush=True)
    (one, first), (several, second) = runs[1], runs[arguments.devices]
    distance = sum((first[name] - second[name]).double().square().sum() for name in first).sqrt()
    size = sum(tensor.double().square().sum() for tensor in first.values()).sqrt()
    results = {
        "devices": arguments.devices,
        "tokens_per_second": rates,
        "speed_up": rates[arguments.devices] / rates[1],
        "losses": {devices: [step["loss"] for step in steps] for devices, (steps, _) in runs.items()},
        "largest_loss_difference": max(abs(a["loss"] - b["loss"]) for a, b in zip(one, several, strict=True)),
        "adapters_relative_distance": float(distance / size),
    }
    print(f"RES {json.dumps(results)}")
    if arguments.json:
        machine = {
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "torch": torch.__version__,
            "python": platform.python_version(),
        }
        arguments.json.write_text(
            json.dumps({"machine": machine, "results": results}, indent=1) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
