"""Free memory of the graphics cards, as their driver sees it: `python -m agentloop.card` prints bytes, card by card.

Whoever asks the driver gets a context of some 400 MiB on the card for as long as it lives. A process of its own asks, so
that the flow never holds one; it sees the cards that vLLM and the trainer see, because it inherits the same environment.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from agentloop.child import inherited
from agentloop.errors import ServerError

GIB = 2**30
CONTEXT = GIB // 2
"""Bytes that the process which asks takes itself while it asks (0.51 GiB of an H200)."""
_POLL_SECONDS = 0.2
_ASK_SECONDS = 60


def free_bytes() -> tuple[int, ...]:
    """Bytes free on each visible card beside what asking takes. Raises ServerError where there is no driver or no card."""
    asked = subprocess.run(
        [sys.executable, "-m", "agentloop.card"],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=_ASK_SECONDS,
        env=inherited(),
    )
    if asked.returncode:
        raise ServerError(f"the card's free memory is unknown: {asked.stderr.strip()}")
    return tuple(map(int, asked.stdout.split()))


def wait_until_free(targets: Sequence[int], *, seconds: float) -> None:
    """Wait until at least so many bytes are free on each visible card. Raises ServerError, with the figures."""
    deadline = time.monotonic() + seconds
    while lacking := [
        f"{free / GIB:.2f} GiB on card {card}, expected {target / GIB:.2f} GiB"
        for card, (free, target) in enumerate(zip(free_bytes(), targets, strict=True))
        if free < target
    ]:
        if time.monotonic() > deadline:
            raise ServerError(f"the card's memory is not free after {seconds:g} s: {'; '.join(lacking)}")
        time.sleep(_POLL_SECONDS)


def _ask() -> list[int]:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        sys.exit("there is no CUDA driver (libcuda.so.1)")

    def call(name: str, *arguments: Any) -> None:
        code = getattr(driver, name)(*arguments)
        if code:
            sys.exit(f"{name} answered {code}")

    cards, device, context = ctypes.c_int(), ctypes.c_int(), ctypes.c_void_p()
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    found = []
    call("cuInit", 0)
    call("cuDeviceGetCount", ctypes.byref(cards))
    for index in range(cards.value):
        call("cuDeviceGet", ctypes.byref(device), index)
        call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        call("cuCtxSetCurrent", context)
        call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        found.append(free.value)
    return found


if __name__ == "__main__":
    print(*_ask())
