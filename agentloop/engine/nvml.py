"""The compute capability of the machine's cards from the driver's management library, which needs no CUDA context.

Asking CUDA itself takes a second or more and makes a process that cannot be copied any more (fork.py).
"""

from __future__ import annotations

import ctypes

import torch


def capability() -> tuple[int, int] | None:
    """Of every card in the machine, where this process may use one.

    None without driver or card, and where cards differ: the library numbers them otherwise than CUDA.
    """
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    if library.nvmlInit_v2():
        return None
    try:
        capabilities = _capabilities(library)
    finally:
        library.nvmlShutdown()
    # CUDA_VISIBLE_DEVICES may hide them all; torch counts without a context as well.
    return capabilities.pop() if len(capabilities) == 1 and torch.cuda.device_count() else None


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
