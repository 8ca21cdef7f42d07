"""Free memory of the graphics card, as its driver sees it: `python -m agentloop.serving.card` prints the bytes.

Whoever asks the driver gets a context of some 400 MiB on the card for as long as it lives. A process of its own asks, so
that the flow never holds one; it sees the card that vLLM and the trainer see, because it inherits the same environment.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
import time

from agentloop.errors import ServerError

GIB = 2**30
_POLL_SECONDS = 0.2
_ASK_SECONDS = 60


def free_bytes() -> int:
    """Raises ServerError where there is no driver or no card."""
    asked = subprocess.run(
        [sys.executable, "-m", "agentloop.serving.card"], capture_output=True, text=True, timeout=_ASK_SECONDS
    )
    if asked.returncode:
        raise ServerError(f"the card's free memory is unknown: {asked.stderr.strip()}")
    return int(asked.stdout)


def wait_until_free(target: int, *, seconds: float) -> int:
    """Wait until at least `target` bytes are free and return how many are. Raises ServerError, with the figures."""
    deadline = time.monotonic() + seconds
    while (free := free_bytes()) < target:
        if time.monotonic() > deadline:
            raise ServerError(
                f"the card's memory is not free: {free / GIB:.2f} GiB after {seconds:g} s, expected {target / GIB:.2f} GiB"
            )
        time.sleep(_POLL_SECONDS)
    return free


def _ask() -> int:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        sys.exit("there is no CUDA driver (libcuda.so.1)")
    device, context = ctypes.c_int(), ctypes.c_void_p()
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    for name, *arguments in (
        ("cuInit", 0),
        ("cuDeviceGet", ctypes.byref(device), 0),
        ("cuDevicePrimaryCtxRetain", ctypes.byref(context), device),
        ("cuCtxSetCurrent", context),
        ("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total)),
    ):
        code = getattr(driver, name)(*arguments)
        if code:
            sys.exit(f"{name} answered {code}")
    return free.value


if __name__ == "__main__":
    print(_ask())
