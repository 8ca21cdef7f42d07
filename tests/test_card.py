"""The memory of all visible cards: the driver asked for each, and nobody starts before the last is free."""

import ctypes
import json

import pytest

from agentloop import card
from agentloop.errors import ServerError

GIB = card.GIB


class Driver:
    """Answers as libcuda.so.1 does, for cards with so many bytes free."""

    def __init__(self, *free: int) -> None:
        self.free, self.current = free, None

    def cuInit(self, flags: int) -> int:
        return 0

    def cuDeviceGetCount(self, count) -> int:
        count._obj.value = len(self.free)
        return 0

    def cuDeviceGet(self, device, index: int) -> int:
        device._obj.value = index
        return 0

    def cuDevicePrimaryCtxRetain(self, context, device) -> int:
        context._obj.value = device.value + 1
        return 0

    def cuCtxSetCurrent(self, context) -> int:
        self.current = context.value - 1
        return 0

    def cuMemGetInfo_v2(self, free, total) -> int:
        free._obj.value = total._obj.value = self.free[self.current]
        return 0

    def cuDeviceGetName(self, name, length: int, device) -> int:
        name.value = f"Card {device.value}".encode()
        return 0

    def cuDeviceTotalMem_v2(self, total, device) -> int:
        total._obj.value = 24 * GIB
        return 0

    def cuDeviceGetAttribute(self, value, attribute: int, device) -> int:
        value._obj.value = {75: 8, 76: 6}[attribute]
        return 0


@pytest.mark.parametrize("free", [(7 * GIB,), (70 * GIB, 3 * GIB, 5 * GIB)])
def test_every_visible_card_is_asked(monkeypatch, free):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver(*free))
    assert card._free(card._Driver()) == list(free)


def test_a_card_is_described(monkeypatch, capsys):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver(7 * GIB, 3 * GIB))
    card._main(["cards"])
    assert json.loads(capsys.readouterr().out) == [
        {"name": f"Card {index}", "memory_gib": 24.0, "compute_capability": "8.6"} for index in range(2)
    ]


def test_waits_for_the_last_card(monkeypatch):
    answers = iter([(10 * GIB, 2 * GIB), (70 * GIB, 2 * GIB), (70 * GIB, 20 * GIB)])
    monkeypatch.setattr(card, "free_bytes", lambda: next(answers))
    card.wait_until_free([60 * GIB, 20 * GIB], seconds=60)
    assert next(answers, None) is None


def test_a_card_that_stays_full_is_named(monkeypatch):
    monkeypatch.setattr(card, "free_bytes", lambda: (70 * GIB, 2 * GIB))
    message = "the card's memory is not free after 0 s: 2.00 GiB on card 1, expected 20.00 GiB"
    with pytest.raises(ServerError, match=f"^{message}$"):
        card.wait_until_free([60 * GIB, 20 * GIB], seconds=0)
