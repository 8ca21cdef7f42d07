"""A card that torch has no code for is named in one line before anything starts."""

import pytest
from test_status import SETTINGS

from agentloop import card, settings
from agentloop.campaign.campaign import Campaign
from agentloop.cli import doctor
from agentloop.errors import SettingError

LINE = (
    "Tesla V100-SXM2-16GB has compute capability 7.0: 7.5 or later is needed (T4, RTX 20); set CUDA_VISIBLE_DEVICES to "
    "leave the card out"
)


@pytest.fixture
def cards(monkeypatch):
    """Puts cards of these compute capabilities in the machine."""

    def put(*capabilities: str) -> None:
        names = {"7.0": "Tesla V100-SXM2-16GB", "7.5": "Tesla T4"}
        found = tuple(card.Card(names[each], 15.8, each) for each in capabilities)
        monkeypatch.setattr(card, "cards", lambda: found)
        monkeypatch.setattr(card, "free_bytes", lambda: (12 * card.GIB,) * len(found))
        card.too_old.cache_clear()
        card.present.cache_clear()

    yield put
    card.too_old.cache_clear()
    card.present.cache_clear()


@pytest.mark.parametrize("command", [("run", "--dry-run"), ("run",)], ids=" ".join)
def test_a_run_is_refused_in_one_line(agentloop, cards, data, command):
    cards("7.5", "7.0")
    code, output, errors = agentloop(*command, *SETTINGS)
    assert code == 2 and not output
    assert errors == f"error: {LINE}\n"
    assert not data.exists()


def test_a_flow_is_refused(cards, data):
    cards("7.0")
    with pytest.raises(
        SettingError, match=r"^Tesla V100-SXM2-16GB has compute capability 7\.0: 7\.5 or later is needed"
    ):
        Campaign.open(settings.load({"paths": {"data": str(data)}}))


def test_doctor_says_it(cards):
    cards("7.0")
    check = doctor._gpu()
    assert check.state == "missing" and "(sm_70)" in check.found and check.told_remedy == card.NEWER
    cards("7.5")
    assert doctor._gpu().ok
