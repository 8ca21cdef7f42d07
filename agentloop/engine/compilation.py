"""Kernels compiled in other processes while the weights load, so that the first step finds them in Triton's cache.

What a training run can launch is found by running its steps on a blueprint of the model (shapes, no weights); it depends on
the architecture, the dtype and the card, not on batch sizes. One marker beside Triton's cache says that it is all there.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import agentloop_kernels
import torch
import triton
from agentloop_kernels.launching import Launch, compile_launches, planning

from agentloop.engine.architecture import Architecture
from agentloop.engine.batch import join
from agentloop.engine.blueprint import META, blueprint
from agentloop.engine.context import make_context, step_inputs
from agentloop.engine.memory import Keep, StepPlan
from agentloop.engine.optimizer import FlatAdamW

TOKENS = 96
"""Of the batches that are planned; any number launches the same kernels."""
PROCESSES = 16


class Compilation:
    """A compilation under way."""

    def __init__(self, process: subprocess.Popen) -> None:
        self._process = process

    def wait(self) -> None:
        """Until it has ended. Where it failed, kernels are compiled when they are launched, one after the other."""
        self._process.wait()


def compile_ahead(shape: Architecture, dtype: torch.dtype, capability: tuple[int, int]) -> Compilation | None:
    """Start compiling what training this architecture launches; None where it has been done before."""
    request = {"shape": asdict(shape), "dtype": str(dtype).removeprefix("torch."), "capability": capability}
    text = json.dumps(request, sort_keys=True)
    marker = Path(triton.knobs.cache.dir) / f"agentloop-{_digest(text)}"
    if marker.exists():
        return None
    process = subprocess.Popen(
        [sys.executable, "-c", f"from {__name__} import main; main()", str(marker)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,  # the trainer's own is read line by line
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    process.stdin.write(text.encode())
    process.stdin.close()
    return Compilation(process)


def plan_launches(shape: Architecture, dtype: torch.dtype, capability: tuple[int, int]) -> list[Launch]:
    """Every specialisation of every kernel that a training run of this model launches on such a card."""
    shape = representative(shape)
    model = blueprint(shape, dtype=dtype, max_seq_length=TOKENS)
    half = TOKENS // 2
    batch = join([([0] * half, [False] * (half // 2) + [True] * (half // 2)), ([0] * half, [True] * half)])
    with planning(capability) as launches:
        for keep, chunk in ((Keep.ALL, TOKENS), (Keep.STREAMS, half)):
            for skip in (True, False):
                model.plan = StepPlan((keep,) * shape.layers, chunk=chunk)
                model.loss_and_gradients(batch, skip=skip)
        context = make_context(shape, step_inputs(batch, skip=False).to(META))
        model.network.logprobs(context, StepPlan((Keep.STREAMS,) * shape.layers))
        for bits in (32, 8):
            FlatAdamW(model.lora, bits=bits).step(max_grad_norm=1.0)
    return launches


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
    for package in (Path(agentloop_kernels.__file__).parent, Path(__file__).parent):
        for source in sorted(package.glob("*.py")):
            digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def main() -> None:
    """What `compile_ahead` starts, with the marker's path as its argument and the request on standard input."""
    marker, request = Path(sys.argv[1]), json.load(sys.stdin)
    marker.parent.mkdir(parents=True, exist_ok=True)
    with open(marker.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if marker.exists():  # another process was at it
            return
        os.nice(5)  # the weights, which load at the same time, go first
        fields = {name: tuple(value) if isinstance(value, list) else value for name, value in request["shape"].items()}
        capability = tuple(request["capability"])
        launches = plan_launches(Architecture(**fields), getattr(torch, request["dtype"]), capability)
        processes = min(PROCESSES, len(os.sched_getaffinity(0)))
        compile_launches(launches, capability, processes=processes, launchers=True)
        marker.touch()
