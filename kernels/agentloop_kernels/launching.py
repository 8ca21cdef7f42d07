"""What a computation would launch, found without a GPU, and compiled for one ahead of time.

Meta tensors (shapes without memory) take the kernels as CUDA tensors do. Inside `planning` their launches are noted
instead of sent, each in the very form in which Triton looks it up later: its own binder decides what is constant and
which strides and addresses are multiples of 16. `compile_launches` turns the notes into Triton's cache.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import triton
from torch import Tensor
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia import driver as nvidia
from triton.runtime.jit import JITFunction


def takes_kernels(x: Tensor) -> bool:
    """Whether an operation on `x` is a Triton kernel; otherwise it is the reference."""
    return x.is_cuda or x.is_meta


@dataclass(frozen=True)
class Launch:
    """One specialisation of one kernel."""

    kernel: JITFunction
    specialisation: str
    """Signature, constants, alignments and options, as Triton serialises them (JSON)."""

    @property
    def name(self) -> str:
        return self.kernel.fn.__name__


class _Card:
    """Stands in for Triton's driver: a card that is known by its compute capability only."""

    def __init__(self, capability: tuple[int, int]) -> None:
        self.target = GPUTarget("cuda", 10 * capability[0] + capability[1], 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> _Card:
        # Triton keeps kernels by device: what one card was given is unknown to the next.
        return self

    def get_current_stream(self, device: _Card) -> int:
        return 0


class _Noted:
    """Stands in for a compiled kernel: launched again, it does nothing."""

    function = packed_metadata = None

    def launch_metadata(self, *_) -> None: ...

    def run(self, *_) -> None: ...


@contextmanager
def card(capability: tuple[int, int]) -> Iterator[None]:
    """Triton takes a card of that compute capability to be there."""
    before = triton.runtime.driver._active
    triton.runtime.driver.set_active(_Card(capability))
    try:
        yield
    finally:
        triton.runtime.driver._active = before


@contextmanager
def planning(capability: tuple[int, int]) -> Iterator[list[Launch]]:
    """Note what meta tensors would launch on a card of that compute capability: each specialisation once."""
    launches: list[Launch] = []

    def note(*, key, fn, compile, **_) -> bool:
        launches.append(Launch(fn.jit_function, compile["specialization_data"]))
        kernels, *_ = fn.jit_function.device_caches[compile["device"]]
        kernels[key] = _Noted()
        return True  # Triton goes no further

    before, knobs.runtime.jit_cache_hook = knobs.runtime.jit_cache_hook, note
    try:
        with card(capability):
            yield launches
    finally:
        knobs.runtime.jit_cache_hook = before


def compile_launches(launches: list[Launch], capability: tuple[int, int], *, processes: int, launchers: bool) -> None:
    """Compile into Triton's cache (TRITON_CACHE_DIR), in forked processes: call it where CUDA is not in use.

    `launchers` also builds the host code that starts kernels, in Triton 3.6 by the C compiler and for each signature. It
    needs the CUDA driver's library. The first failure is raised when everything else has been compiled.
    """
    # The long ones first: whoever starts with attention at the end keeps all others waiting.
    order = sorted(launches, key=lambda launch: "attention" not in launch.kernel.fn.__module__)
    tasks = [*order, *([None] if launchers else [])]
    with multiprocessing.get_context("fork").Pool(min(processes, len(tasks)), _work_on, (tasks, capability)) as pool:
        under_way = [pool.apply_async(_compile, (index, launchers)) for index in range(len(tasks))]
        for result in under_way:
            result.wait()
    for result in under_way:
        result.get()


_work: list[Launch | None] = []


def _work_on(tasks: list[Launch | None], capability: tuple[int, int]) -> None:
    _work[:] = tasks
    triton.runtime.driver.set_active(_Card(capability))


def _compile(index: int, launchers: bool) -> None:
    launch = _work[index]
    if launch is None:
        nvidia.CudaUtils()
        return
    compiled = launch.kernel.preload(launch.specialisation)
    if launchers and hasattr(nvidia, "make_launcher"):
        nvidia.CudaLauncher(compiled.src, compiled.metadata)
