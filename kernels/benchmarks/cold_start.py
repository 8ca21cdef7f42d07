"""Seconds from the start of a process to the end of its first training step on a CUDA machine, with empty caches of kernels.

    python kernels/benchmarks/cold_start.py CHECKPOINT [--tokens 2048] [--cache DIR] [--warm] [--json OUT]

The packed NF4 weights are on disk (a process before makes them); Triton's cache is an empty directory, or with `--warm` the
one that the cold run filled. Printed are the stages, what the load and the compilation beside it did when, and which kernels
the training process still had to compile itself. All times are seconds since the start of the process.
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
from typing import Any

STEPS = 8
LONGEST = 12
"""Tasks of the compilation that are listed."""


class Clock:
    """Seconds since the start of the process, by what happened."""

    def __init__(self, started: float) -> None:
        self.started = started
        self.stages: dict[str, float] = {}
        self.spans: dict[str, tuple[float, float]] = {}

    def since(self, moment: float) -> float:
        return round(moment - self.started, 2)

    def reach(self, stage: str) -> None:
        self.stages[stage] = self.since(time.time())

    def watch(self, owner: Any, name: str, span: str) -> None:
        """Note when `owner.name` is first called and when it returns."""
        called = getattr(owner, name)

        def watched(*arguments: Any, **named: Any) -> Any:
            begin = time.time()
            result = called(*arguments, **named)
            self.spans.setdefault(span, (self.since(begin), self.since(time.time())))
            return result

        setattr(owner, name, watched)


def watch_load(clock: Clock) -> None:
    """The parts of `FastLanguageModel.from_pretrained`; the tokenizer and the table have threads of their own."""
    import torch

    from agentloop.engine.api import language_model
    from agentloop.engine.models import table, weights
    from agentloop.engine.models.gemma3n import weights as gemma3n

    clock.watch(language_model.nvml, "capability", "capability")
    clock.watch(language_model, "compile_ahead", "start of the compilation")
    clock.watch(language_model, "load_tokenizer", "tokenizer")
    clock.watch(language_model, "_default_device", "search for CUDA")
    clock.watch(torch.cuda, "set_device", "cuda")
    clock.watch(language_model, "Checkpoint", "checkpoint's index")
    clock.watch(language_model, "base_fingerprint", "fingerprint")
    clock.watch(language_model, "packed_weights", "packed linears")
    clock.watch(language_model, "load_weights", "other weights")
    clock.watch(gemma3n, "EmbeddingTable", "table")
    clock.watch(table, "_mapped", "table's registration")
    clock.watch(language_model, "Gemma", "model")
    dense = weights.Checkpoint.tensor

    def tensor(self: Any, name: str) -> Any:
        if name == "embed_tokens.weight":
            clock.reach("layers")
        if name.startswith("per_layer_model_projection"):
            clock.reach("embeddings")
        return dense(self, name)

    weights.Checkpoint.tensor = tensor


def compilation(clock: Clock) -> dict[str, Any]:
    """When the process that compiles began, had planned and was done, and its longest tasks, from what it has left behind."""
    import triton

    from agentloop.engine.warmup.compilation import MARKER

    markers = [path for path in Path(triton.knobs.cache.dir).glob(f"{MARKER}*") if path.suffix != ".lock"]
    if not markers:
        return {}
    history = json.loads(markers[0].read_text(encoding="utf-8"))
    tasks = [(name, clock.since(begin), clock.since(end)) for name, begin, end in history.pop("tasks")]
    moments = {name: clock.since(moment) for name, moment in history.items()}
    longest = sorted(tasks, key=lambda task: task[1] - task[2])[:LONGEST]
    seconds = round(sum(end - begin for _, begin, end in tasks), 2)
    return moments | {"tasks": len(tasks), "seconds of them all": seconds, "longest": longest}


def child(checkpoint: Path, tokens: int, cache: Path, started: float) -> None:
    """In a fresh process: load, first step, and how fast it is afterwards."""
    clock = Clock(started)
    clock.reach("python")
    import torch

    clock.reach("torch")
    import triton
    from train_step import make_batch

    from agentloop.engine import FastLanguageModel
    from agentloop.engine.optimizer import FlatAdamW

    own = []
    triton.knobs.compilation.listener = lambda *, src, cache_hit, **_: None if cache_hit else own.append(src.name)
    clock.reach("imports")
    watch_load(clock)
    model, _ = FastLanguageModel.from_pretrained(checkpoint, max_seq_length=8192, cache_directory=cache)
    clock.reach("load")
    model = FastLanguageModel.get_peft_model(model)
    optimizer = FlatAdamW(model.lora)
    clock.reach("adapter")
    compiled = model.compilation is not None
    if compiled:
        model.compilation.wait()
    clock.reach("kernels")
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
            if "first step" not in clock.stages:
                clock.reach("first step")
                print(json.dumps({"seconds_until": clock.stages}), flush=True)
        rates[case] = batch.tokens / sorted(times)[len(times) // 2]
    results = {
        "seconds_until": clock.stages,
        "load": clock.spans,
        "compilation": compilation(clock) if compiled else {},
        "compiled_by_itself": own,
        "tokens_per_second": rates,
    }
    print(json.dumps(results))


def prepare(checkpoint: Path, cache: Path) -> None:
    from agentloop.engine.io.checkpoint import Checkpoint
    from agentloop.engine.io.packed import packed_weights
    from agentloop.model_directory.configuration import read_architecture
    from agentloop.model_directory.fingerprint import base_fingerprint

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
            command,
            env=os.environ | {"TRITON_CACHE_DIR": kernels},
            stdout=subprocess.PIPE,
            encoding="utf-8",
            check=False,
        )
        results[name] = json.loads(run.stdout.splitlines()[-1])
        print(f"RES {name} start: {json.dumps(results[name])}", flush=True)
    if arguments.json:
        import torch
        import triton

        machine = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "triton": triton.__version__}
        arguments.json.write_text(json.dumps({"machine": machine, "results": results}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
