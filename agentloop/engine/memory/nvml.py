"""What the driver's management library knows: its version, the cards' compute capability, and what a process holds of a card.

It needs no CUDA context. Asking CUDA itself takes a second or more and makes a process that cannot be copied any more
(warmup/fork.py).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_MOST_PROCESSES = 256
_VERSION_BYTES = 96


class _Process(ctypes.Structure):
    """nvmlProcessInfo_t."""

    _fields_ = [
        ("pid", ctypes.c_uint),
        ("bytes", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    ]


def capability() -> tuple[int, int] | None:
    """Compute capability of every card in the machine, where this process may use one.

    None without driver or card, and where cards differ: the library numbers them otherwise than CUDA.
    """
    with _library() as library:
        capabilities = set() if library is None else _capabilities(library)
    # CUDA_VISIBLE_DEVICES may hide them all; torch counts without a context as well.
    return capabilities.pop() if len(capabilities) == 1 and torch.cuda.device_count() else None


def driver_version() -> str | None:
    """Such as 580.95.05; None where there is no driver."""
    version = ctypes.create_string_buffer(_VERSION_BYTES)
    with _library() as library:
        if library is None or library.nvmlSystemGetDriverVersion(version, ctypes.c_uint(_VERSION_BYTES)):
            return None
    return version.value.decode(errors="replace")


def process_bytes(device: torch.device) -> int | None:
    """Memory of `device` that this process holds, as nvidia-smi shows it; None where the driver does not tell (in a container
    it knows processes by other numbers, and of a part of a card it tells nothing)."""
    uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    with _library() as library:
        return None if library is None else _process_bytes(library, uuid)


@contextmanager
def _library() -> Iterator[ctypes.CDLL | None]:
    """The library, initialised; None where there is none."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        library = None
    if library is None or library.nvmlInit_v2():
        yield None
        return
    try:
        yield library
    finally:
        library.nvmlShutdown()


def _process_bytes(library: ctypes.CDLL, uuid: str) -> int | None:
    handle, count, processes = ctypes.c_void_p(), ctypes.c_uint(_MOST_PROCESSES), (_Process * _MOST_PROCESSES)()
    if library.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(handle)):
        return None
    if library.nvmlDeviceGetComputeRunningProcesses_v3(handle, ctypes.byref(count), processes):
        return None
    own = [process.bytes for process in processes[: count.value] if process.pid == os.getpid()]
    return own[0] if own and own[0] != ctypes.c_ulonglong(-1).value else None


def _capabilities(library: ctypes.CDLL) -> set[tuple[int, int]]:
    """Of all cards; empty where one does not tell."""
    count, handle, major, minor = ctypes.c_uint(), ctypes.c_void_p(), ctypes.c_int(), ctypes.c_int()
    if library.nvmlDeviceGetCount_v2(ctypes.byref(count)):
        return set()
    found = set()
    for index in range(count.value):
        if library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)):
            return set()
        if library.nvmlDeviceGetCudaComputeCapability(handle, ctypes.byref(major), ctypes.byref(minor)):
            return set()
        found.add((major.value, minor.value))
    return found
