"""The most precise way to hold the base with which a training step fits this machine."""

from __future__ import annotations

from agentloop import card
from agentloop.errors import SettingError
from agentloop.model_directory.configuration import is_packed
from agentloop.records import NF4, NONE
from agentloop.serving.server import LEFT_ASLEEP
from agentloop.settings import Settings
from agentloop.store import campaigns
from agentloop.store.database import Database
from agentloop.training.forecasts import least_memory

WORTHWHILE = 0.1
"""Share of the memory that NF4 saves over 16 bit: with less to spare than this, a dynamic base would be NF4 all but in name."""


def kind(settings: Settings) -> str:
    """ "none", "dynamic" or "nf4": as training.quantization says; for "auto" what the campaign began with, or what fits now."""
    chosen = settings.training.quantization
    if chosen != "auto":
        return chosen
    with Database.open(settings.paths.database) as database:
        began = campaigns.quantization(database, settings)
    return began or fitting(settings)[0]


def check(settings: Settings) -> None:
    """Raises SettingError where a base that comes in 4 bit is to be held in another way: there is no 16-bit original."""
    chosen = settings.training.quantization
    if chosen in ("none", "dynamic") and is_packed(settings.model_directory()):
        raise SettingError(
            f"training.quantization: {chosen} needs a base in 16 bit, but {settings.model_directory()} comes in 4 bit; set "
            "training.quantization to nf4 or auto, which take it as it is"
        )


def fitting(settings: Settings) -> tuple[str, float | None]:
    """The most precise kind with which a training step fits the card, and the GiB that are to spare there beside NF4.

    Without a card: "none", None. A base that comes in 4 bit: "nf4", None. Raises ModelError.
    """
    training = settings.training
    if is_packed(settings.model_directory()):
        return "nf4", None
    if not card.present():
        return "none", None
    taken = LEFT_ASLEEP if settings.serving.policy == "sleep" else 0
    free = min(card.free_bytes()[: training.devices]) + card.CONTEXT - taken
    whole, packed, share = least_memory(settings, (NONE, NF4))
    allowed = share * free / card.GIB
    if training.memory_budget != "auto":
        allowed = min(training.memory_budget, allowed)
    if whole <= allowed:
        return "none", allowed - packed
    worthwhile = allowed - packed >= WORTHWHILE * (whole - packed)
    return ("dynamic" if worthwhile else "nf4"), max(0.0, allowed - packed)
