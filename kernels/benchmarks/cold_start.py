"""Seconds from the start of a process to the end of its first training step on a CUDA machine, with empty caches of kernels.

    python kernels/benchmarks/cold_start.py CHECKPOINT [--tokens 2048] [--cache DIR] [--warm] [--json OUT]

The packed NF4 weights are on disk (a process before makes them); Triton's cache is an empty directory, or with `--warm` the
one that the cold run filled. Printed are the stages, and which kernels the training process still had to compile itself.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STEPS = 8


def child(checkpoint: Path, tokens: int, cache: Path, started: float) -> None:
    """In a fresh process: load, first step, and how fast it is afterwards."""
    stages = {"python": time.time() - started}
    import torch
    import triton
    from train_step import make_batch

    from agentloop.engine import FastLanguageModel
    from agentloop.engine.optimizer import FlatAdamW

    own = []
    triton.knobs.compilation.listener = lambda *, src, cache_hit, **_: None if cache_hit else own.append(src.name)
    stages["imports"] = time.time() - started
    model, _ = FastLanguageModel.from_pretrained(checkpoint, max_seq_length=8192, cache_directory=cache)
    stages["load"] = time.time() - started
    model = FastLanguageModel.get_peft_model(model)
    optimizer = FlatAdamW(model.lora)
    stages["adapter"] = time.time() - started
    if model.compilation:
        model.compilation.wait()
    stages["kernels"] = time.time() - started
    rates = {}
    for case, share in ((f"1x{tokens}", 1.0), ("agent:8192", 0.3)):
        times = []
        for _ in range(STEPS):
            batch = make_batch(case, share, 7)
            begin = time.perf_counter()
            model.loss_and_gradients(batch)
            optimizer.step(learning_rate=1e-4, max_grad_norm=1.0)
            torch.cuda.synchronize()
            times.append(time.perf_counter() - begin)
            if "first step" not in stages:
                stages["first step"] = time.time() - started
                print(json.dumps({"seconds_until": stages}), flush=True)
        rates[case] = batch.tokens / sorted(times)[len(times) // 2]
    print(json.dumps({"seconds_until": stages, "compiled_by_itself": own, "tokens_per_second": rates}))


def prepare(checkpoint: Path, cache: Path) -> None:
    from agentloop.engine.architecture import read_architecture
    from agentloop.engine.checkpoint import Checkpoint
    from agentloop.engine.fingerprint import base_fingerprint
    from agentloop.engine.packed import packed_weights

    fingerprint = base_fingerprint(checkpoint, cache)
    packed_weights(read_architecture(checkpoint), Checkpoint(checkpoint), fingerprint, cache, "cuda")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--cache", type=Path, default=Path("/tmp/agentloop-cache"))
    parser.add_argument("--warm", action="store_true", help="once more, with the kernels that the first run compiled")
    parser.add_argument("--prepare", action="store_true", help="only write the packed weights")
    parser.add_argument("--started", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.prepare:
        prepare(arguments.checkpoint, arguments.cache)
        return
    if arguments.started:
        child(arguments.checkpoint, arguments.tokens, arguments.cache, arguments.started)
        return
    kernels = tempfile.mkdtemp(prefix="triton-")
    results = {}
    for name in ("cold", "warm") if arguments.warm else ("cold",):
        command = [sys.executable, __file__, *sys.argv[1:], "--started", str(time.time())]
        run = subprocess.run(
            command, env=os.environ | {"TRITON_CACHE_DIR": kernels}, stdout=subprocess.PIPE, text=True, check=False
        )
        results[name] = json.loads(run.stdout.splitlines()[-1])
        print(f"RES {name} start: {json.dumps(results[name])}", flush=True)
    if arguments.json:
        import torch
        import triton

        machine = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "triton": triton.__version__}
        arguments.json.write_text(json.dumps({"machine": machine, "results": results}, indent=1))


if __name__ == "__main__":
    main()
