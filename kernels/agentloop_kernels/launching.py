"""What a computation would launch, found without a GPU, and compiled for one ahead of time.

Meta tensors (shapes without memory) take the kernels as CUDA tensors do. Inside `planning` their launches are noted
instead of sent, each in the very form in which Triton looks it up later: its own binder decides what is constant and
which strides and addresses are multiples of 16. A `Compiler` turns the notes into Triton's cache.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import triton
from torch import Tensor
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia import driver as nvidia
from triton.runtime.build import compile_module_from_src
from triton.runtime.jit import JITFunction

PR_SET_PDEATHSIG = 1
"""Of prctl(2)."""


def takes_kernels(x: Tensor) -> bool:
    """Return True where an operation on `x` is a Triton kernel; otherwise it is the reference."""
    return x.is_cuda or x.is_meta


@dataclass(frozen=True)
class Launch:
    """One specialisation of one kernel."""

    kernel: JITFunction
    specialisation: str
    """Signature, constants, alignments and options, as Triton serialises them (JSON)."""

    @property
    def module(self) -> str:
        return self.kernel.fn.__module__

    @property
    def name(self) -> str:
        return self.kernel.fn.__name__


class Timing(NamedTuple):
    """The times at which something was compiled, in seconds since the epoch."""

    name: str
    started: float
    ended: float


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


class Compiler:
    """Processes that compile launches into Triton's cache (TRITON_CACHE_DIR) as they are told of them.

    They are forked with the first task: that must be where CUDA is not in use. `launchers` also builds the host code
    that starts kernels, in Triton 3.6 by the C compiler and for each signature. It needs the CUDA driver's library.
    """

    def __init__(self, capability: tuple[int, int], *, processes: int, launchers: bool) -> None:
        context = multiprocessing.get_context("fork")
        self._pool = ProcessPoolExecutor(processes, context, _stand_ready, (capability, os.getpid()))
        self._launchers = launchers
        self._sources: set[str] = set()
        self._under_way: list[Future[Timing]] = []
        if launchers:
            self._start("driver", _build_driver)

    def compile(self, launches: Iterable[Launch]) -> None:
        """Begin with these, in order of their length: whoever starts with attention at the end keeps all others waiting."""
        launches = sorted(launches, key=lambda launch: "attention" not in launch.module)
        for launch in launches:
            self._start(launch.name, _compile, launch.module, launch.name, launch.specialisation)
        if self._launchers and hasattr(nvidia, "make_launcher"):
            for source in (_launcher_source(launch) for launch in launches):
                if source not in self._sources:
                    self._sources.add(source)
                    self._start("launcher", _build_launcher, source)

    def finish(self) -> list[Timing]:
        """Wait for all of it. The first failure is raised when everything else has been compiled."""
        self._pool.shutdown()
        return [future.result() for future in self._under_way]

    def _start(self, name: str, task: Callable[..., None], *arguments: str) -> None:
        self._under_way.append(self._pool.submit(_timed, name, task, *arguments))


def _stand_ready(capability: tuple[int, int], parent: int) -> None:
    """Of each process at its start. It ends with the one that gives it work, however that ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    knobs.runtime.jit_cache_hook = None  # launches may be being noted in the process that forked
    triton.runtime.driver.set_active(_Card(capability))


def _timed(name: str, task: Callable[..., None], *arguments: str) -> Timing:
    started = time.time()
    task(*arguments)
    return Timing(name, started, time.time())


def _compile(module: str, name: str, specialisation: str) -> None:
    getattr(importlib.import_module(module), name).preload(specialisation)


def _build_driver() -> None:
    nvidia.CudaUtils()


def _launcher_source(launch: Launch) -> str:
    """C of what starts this kernel, from its signature alone, as Triton's `CudaLauncher` makes it (3.6)."""
    signature = {name: _tuples(kind) for name, kind in json.loads(launch.specialisation)["signature"].items()}
    return nvidia.make_launcher({}, signature, None)


def _build_launcher(source: str) -> None:
    # The cache knows the result by name and source.
    compile_module_from_src(
        src=source,
        name="__triton_launcher",
        library_dirs=nvidia.library_dirs(),
        include_dirs=nvidia.include_dirs,
        libraries=nvidia.libraries,
    )


def _tuples(kind: str | list) -> str | tuple:
    """A type of a signature, whose tuples have become lists in JSON."""
    return kind if isinstance(kind, str) else tuple(_tuples(part) for part in kind)
