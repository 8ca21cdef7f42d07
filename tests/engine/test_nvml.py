"""What the driver's management library says about the cards, and when it is not asked."""

import ctypes

import pytest
import torch

from agentloop.engine.memory import nvml


class Library:
    """Answers as libnvidia-ml.so.1 does, for cards of these compute capabilities."""

    def __init__(self, *cards: tuple[int, int], refuses: str = "") -> None:
        self.cards, self.refuses, self.open = cards, refuses, 0

    def nvmlInit_v2(self) -> int:
        self.open += 1
        return 0

    def nvmlShutdown(self) -> int:
        self.open -= 1
        return 0

    def nvmlDeviceGetCount_v2(self, count) -> int:
        count._obj.value = len(self.cards)
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: int, handle) -> int:
        handle._obj.value = index + 1
        return 4 if self.refuses else 0

    def nvmlDeviceGetCudaComputeCapability(self, handle, major, minor) -> int:
        major._obj.value, minor._obj.value = self.cards[handle.value - 1]
        return 0


@pytest.mark.parametrize(
    ("library", "visible", "expected"),
    [
        (Library((9, 0)), 1, (9, 0)),
        (Library((8, 6), (8, 6)), 1, (8, 6)),
        (Library((9, 0), (8, 6)), 2, None),  # which of them is CUDA's first is not known
        (Library((9, 0)), 0, None),  # CUDA_VISIBLE_DEVICES hides it
        (Library(), 0, None),
        (Library((9, 0), refuses="not permitted"), 1, None),
    ],
)
def test_capability(monkeypatch, library, visible, expected):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    assert nvml.capability() == expected
    assert library.open == 0


def test_no_driver(monkeypatch):
    def absent(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", absent)
    assert nvml.capability() is None
