"""The graphics cards as their driver sees them: `python -m agentloop.card` prints the bytes that are free, card by card, and
with the word `cards` what each card is.

Whoever asks the driver for free memory gets a context of some 400 MiB on the card for as long as it lives. A process of its
own asks, so that the flow never holds one; it sees the cards that vLLM and the trainer see, because it inherits the same
environment.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from agentloop.child import inherited
from agentloop.errors import ServerError, SettingError

GIB = 2**30
CONTEXT = GIB // 2
"""Bytes that the process which asks takes itself while it asks (0.51 GiB of an H200)."""
OLDEST = (7, 5)
"""Least compute capability that torch has code for when it is built for CUDA 13."""
NEWER = "7.5 or later is needed (T4, RTX 20); set CUDA_VISIBLE_DEVICES to leave the card out"
_POLL_SECONDS = 0.2
_ASK_SECONDS = 60
_NAME_BYTES = 256
_MAJOR, _MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR."""


@dataclass(frozen=True)
class Card:
    """A card that CUDA lets this process use."""

    name: str
    memory_gib: float
    compute_capability: str
    """Such as 9.0."""


@cache
def present() -> bool:
    """Return True where CUDA has a card for vLLM and the trainer, which then have to share it."""
    try:
        return bool(cards())
    except ServerError:
        return False


def free_bytes() -> tuple[int, ...]:
    """Bytes free on each visible card beside what asking takes. Raises ServerError where there is no driver or no card."""
    return FreeBytes().answer()


def cards() -> tuple[Card, ...]:
    """The visible cards in CUDA's order. Raises ServerError where there is no driver or no card."""
    return tuple(Card(**each) for each in json.loads(_answer(_asking("cards"), "the card is unknown")))


def identifiers() -> tuple[str, ...]:
    """Return what CUDA_VISIBLE_DEVICES calls each visible card, in CUDA's order. Raises ServerError as `cards` does."""
    there = len(cards())
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return tuple(str(number) for number in range(there)) if named is None else tuple(named.split(",")[:there])


@cache
def too_old() -> tuple[Card, ...]:
    """The visible cards that torch, built for CUDA 13, has no code for: V100 and before."""
    try:
        found = cards()
    except ServerError:
        return ()
    return tuple(each for each in found if tuple(map(int, each.compute_capability.split("."))) < OLDEST)


def check() -> None:
    """Raises SettingError, in one line that names it, where a visible card is too old."""
    for each in too_old():
        raise SettingError(f"{each.name} has compute capability {each.compute_capability}: {NEWER}")


class FreeBytes:
    """The question for `free_bytes`, which another process works on until `answer` is called."""

    def __init__(self) -> None:
        self._asking = _asking()

    def answer(self) -> tuple[int, ...]:
        """Wait for the answer. Raises as `free_bytes` does."""
        return tuple(map(int, _answer(self._asking, "the card's free memory is unknown").split()))


def _asking(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "agentloop.card", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        env=inherited(),
    )


def _answer(asking: subprocess.Popen[str], fault: str) -> str:
    with asking:
        try:
            told, complaint = asking.communicate(timeout=_ASK_SECONDS)
        except BaseException:
            asking.kill()
            raise
    if asking.returncode:
        raise ServerError(f"{fault}: {complaint.strip()}")
    return told


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


class _Driver:
    """CUDA's driver in this process, without a context."""

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL("libcuda.so.1")
        except OSError:
            sys.exit("there is no CUDA driver (libcuda.so.1)")
        self.call("cuInit", 0)

    def call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            sys.exit(f"{name} answered {code}")

    def devices(self) -> list[ctypes.c_int]:
        count = ctypes.c_int()
        self.call("cuDeviceGetCount", ctypes.byref(count))
        devices = [ctypes.c_int() for _ in range(count.value)]
        for index, device in enumerate(devices):
            self.call("cuDeviceGet", ctypes.byref(device), index)
        return devices


def _free(driver: _Driver) -> list[int]:
    context, free, total = ctypes.c_void_p(), ctypes.c_size_t(), ctypes.c_size_t()
    found = []
    for device in driver.devices():
        driver.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        driver.call("cuCtxSetCurrent", context)
        driver.call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        found.append(free.value)
    return found


def _described(driver: _Driver, device: ctypes.c_int) -> Card:
    name, total = ctypes.create_string_buffer(_NAME_BYTES), ctypes.c_size_t()
    driver.call("cuDeviceGetName", name, _NAME_BYTES, device)
    driver.call("cuDeviceTotalMem_v2", ctypes.byref(total), device)
    parts = [ctypes.c_int(), ctypes.c_int()]
    for part, attribute in zip(parts, (_MAJOR, _MINOR), strict=True):
        driver.call("cuDeviceGetAttribute", ctypes.byref(part), attribute, device)
    major, minor = parts
    return Card(name.value.decode(errors="replace"), round(total.value / GIB, 2), f"{major.value}.{minor.value}")


def _main(words: Sequence[str]) -> None:
    driver = _Driver()
    if list(words) == ["cards"]:
        print(json.dumps([asdict(_described(driver, device)) for device in driver.devices()]))
    else:
        print(*_free(driver))


if __name__ == "__main__":
    _main(sys.argv[1:])
