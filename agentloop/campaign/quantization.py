"""How the base of a campaign is held in training: settled once, before anything is named by it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentloop import card
from agentloop.errors import RoomError
from agentloop.records import NF4, NONE, Quantization
from agentloop.serving.server import LEFT_ASLEEP
from agentloop.store import campaigns

if TYPE_CHECKING:
    from agentloop.campaign.campaign import Campaign
    from agentloop.settings import Settings

WORTHWHILE = 0.1
"""Of what NF4 saves: with less memory to spare than this beside it, dynamic would be NF4."""


def kind(campaign: Campaign) -> str:
    """ "none", "dynamic" or "nf4": what the setting says, and for "auto" what the campaign began with or what fits now."""
    chosen = campaign.settings.training.quantization
    if chosen != "auto":
        return chosen
    with campaign.database() as database:
        began = campaigns.quantization(database, campaign.settings)
    return began or fitting(campaign.settings)[0]


def settle(campaign: Campaign) -> Quantization:
    """What the campaign trains on; where that is not in the settings it is recorded, and stays. Raises ModelError."""
    chosen = campaign.settings.training.quantization
    if chosen == "none":
        return NONE
    if chosen == "nf4":
        return NF4

    def work() -> dict[str, Any]:
        found = kind(campaign)
        if found != "dynamic":
            return {"kind": found, **(NF4 if found == "nf4" else NONE).settings()}
        try:
            return {"kind": found, **plan(campaign)}
        except RoomError as error:
            if chosen == "dynamic":
                raise
            print(f"training.quantization: nf4, for nothing could be planned: {error}")
            return {"kind": "nf4", **NF4.settings()}

    about = [campaign.base, chosen, campaign.settings.training.quantization_tolerance]
    return Quantization.of(campaign.step("quantize", 0, about, work))


def plan(campaign: Campaign) -> dict[str, Any]:
    """The modules that stay in 16 bit: `{load_in_4bit, in_16bit, bytes, kl, …}`, as measuring.measure gives them.

    As few as the tolerance asks for; fewer where the card has no room for them. Raises ModelError.
    """
    from agentloop.campaign import judge
    from agentloop.quantization.measuring import measure

    spare = fitting(campaign.settings)[1]
    return measure(
        campaign.settings,
        campaign.model,
        judge.material(campaign),
        tolerance=campaign.settings.training.quantization_tolerance,
        most_bytes=None if spare is None else int(spare * card.GIB),
    )["dynamic"]


def fitting(settings: Settings) -> tuple[str, float | None]:
    """The most precise kind with which a training step fits the card, and the GiB that are to spare there beside NF4.

    Without a card: "none", None. Raises ModelError.
    """
    import torch

    training = settings.training
    cards = torch.cuda.device_count()
    if not cards:
        return "none", None
    from agentloop.engine.model import AUTO_SHARE
    from agentloop.training.memory import forecast

    taken = LEFT_ASLEEP if settings.serving.policy == "sleep" else 0
    free = min(card.free_bytes()[: training.devices]) + card.CONTEXT - taken
    allowed = AUTO_SHARE * free / card.GIB
    if training.memory_budget != "auto":
        allowed = min(training.memory_budget, allowed)
    whole, packed = (forecast(settings, each).least for each in (NONE, NF4))
    if whole <= allowed:
        return "none", allowed - packed
    worthwhile = allowed - packed >= WORTHWHILE * (whole - packed)
    return ("dynamic" if worthwhile else "nf4"), max(0.0, allowed - packed)
