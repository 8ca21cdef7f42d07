"""Kernels compiled in other processes while the weights load, so that the first step finds them in Triton's cache.

What a training run can launch is found by running its steps on a blueprint of the model (shapes, no weights); it depends on
the architecture, the dtype and the card, not on batch sizes. What is found is compiled while the rest is still looked for.
One marker beside Triton's cache says that it is all there.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import torch
import triton

import agentloop_kernels
from agentloop import limits
from agentloop.engine.batch import join
from agentloop.engine.memory.plans import Keep, StepPlan
from agentloop.engine.meta.blueprint import META, blueprint
from agentloop.engine.optimizer import FlatAdamW
from agentloop.engine.step.context import make_context, step_inputs
from agentloop.engine.step.model import Compilation
from agentloop.engine.step.recast import recast
from agentloop.engine.warmup.fork import can_fork, fork
from agentloop.files import atomic
from agentloop.model_directory.architecture import Architecture
from agentloop_kernels.launching import Compiler, Launch, planning

TOKENS = 96
"""Of the batches that are planned; any number launches the same kernels."""
PROCESSES = 16
MARKER = "agentloop-"
"""Begins its name in Triton's cache."""
SOURCES = (Path(agentloop_kernels.__file__).parent, Path(__file__).parents[1])
"""Packages that decide what is compiled: the kernels and the whole engine."""


def compile_ahead(shape: Architecture, dtype: torch.dtype, capability: tuple[int, int]) -> Compilation | None:
    """Start compiling what training this architecture launches; None where it has been done before.

    In a copy of this process where that can be had; otherwise in a fresh interpreter, which imports everything once more. Where
    it fails, kernels are compiled when they are launched, one after the other.
    """
    request = {"shape": asdict(shape), "dtype": str(dtype).removeprefix("torch."), "capability": capability}
    text = json.dumps(request, sort_keys=True)
    marker = Path(triton.knobs.cache.dir) / f"{MARKER}{_digest(text)}"
    if marker.exists():
        return None
    if can_fork():
        return fork(lambda: compile_all(marker, shape, dtype, capability))
    process = subprocess.Popen(
        [sys.executable, "-c", f"from {__name__} import main; main()", str(marker)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,  # the trainer's own is read line by line
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    process.stdin.write(text.encode())
    process.stdin.close()
    return process


def compile_all(marker: Path, shape: Architecture, dtype: torch.dtype, capability: tuple[int, int]) -> None:
    """Plan and compile at once, then write `marker`: JSON of when what was done, in seconds since the epoch."""
    started = time.time()
    marker.parent.mkdir(parents=True, exist_ok=True)
    with open(marker.with_suffix(".lock"), "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if marker.exists():  # another process was at it
            return
        os.nice(5)  # the weights, which load at the same time, go first
        processes = min(PROCESSES, limits.processors())
        compiler = Compiler(capability, processes=processes, launchers=True)
        for launches in plan_launches(shape, dtype, capability):
            compiler.compile(launches)
        planned = time.time()
        timings = compiler.finish()
        history = {"started": started, "planned": planned, "compiled": time.time(), "tasks": timings}
        with atomic(marker) as temporary:
            temporary.write_text(json.dumps(history), encoding="utf-8")


def plan_launches(shape: Architecture, dtype: torch.dtype, capability: tuple[int, int]) -> Iterator[list[Launch]]:
    """Every specialisation of every kernel that a training run of this model launches on such a card, as they are found."""
    shape = representative(shape)
    model = blueprint(shape, dtype=dtype, max_seq_length=TOKENS)
    half = TOKENS // 2
    batch = join([([0] * half, [False] * (half // 2) + [True] * (half // 2)), ([0] * half, [True] * half)])
    context = make_context(shape, step_inputs(batch, skip=False).to(META))
    forward = StepPlan((Keep.STREAMS,) * shape.layers)

    def step(keep: Keep, chunk: int, skip: bool) -> None:
        model.plan = StepPlan((keep,) * shape.layers, chunk=chunk)
        model.loss_and_gradients(batch, skip=skip)

    parts = (
        lambda: FlatAdamW(model.lora, bits=8).step(max_grad_norm=1.0),
        lambda: FlatAdamW(model.lora, bits=32).step(max_grad_norm=1.0),
        lambda: step(Keep.ALL, TOKENS, skip=True),  # nearly everything
        lambda: step(Keep.STREAMS, half, skip=True),
        lambda: step(Keep.ALL, TOKENS, skip=False),
        lambda: step(Keep.STREAMS, half, skip=False),
        lambda: model.network.logprobs(context, forward),
        lambda: recast(model.unload()).network.hidden(context, forward),  # the trainer measures what rounding does
    )
    with planning(capability) as launches:
        for part in parts:
            part()
            yield launches[:]
            launches.clear()


def representative(shape: Architecture) -> Architecture:
    """`shape` with one layer of each kind: as many kernels in a fifth of the launches."""

    def one_of_each(layers: range) -> list[int]:
        kinds = {(shape.layer_types[i], shape.intermediate[i], shape.sparsity[i]): i for i in reversed(layers)}
        return sorted(kinds.values())

    shared = one_of_each(range(shape.first_shared, shape.layers))
    chosen = [*one_of_each(range(shape.boundary)), shape.boundary, *shared]
    return replace(
        shape,
        layers=len(chosen),
        shared_layers=len(shared),
        intermediate=tuple(shape.intermediate[i] for i in chosen),
        layer_types=tuple(shape.layer_types[i] for i in chosen),
        sparsity=tuple(shape.sparsity[i] for i in chosen),
    )


def _digest(request: str) -> str:
    """Of everything that decides what is compiled and how."""
    digest = hashlib.sha256(f"{request} {triton.__version__} {torch.__version__} {sys.version}".encode())
    for package in SOURCES:
        for source in sorted(package.rglob("*.py")):
            digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def main() -> None:
    """The fresh interpreter, with the marker's path as its argument and the request on standard input."""
    request = json.load(sys.stdin)
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in request["shape"].items()}
    capability = tuple(request["capability"])
    compile_all(Path(sys.argv[1]), Architecture(**fields), getattr(torch, request["dtype"]), capability)
