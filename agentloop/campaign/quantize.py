"""How the base of a campaign is held in training: settled once, before anything is named by it."""

from __future__ import annotations

from typing import Any

from agentloop import card
from agentloop.campaign import fitting, material
from agentloop.campaign.campaign import Campaign
from agentloop.errors import RoomError
from agentloop.quantization.measuring import measure
from agentloop.records import NF4, NONE, Quantization


def settle(campaign: Campaign) -> Quantization:
    """Return how the base is held that the campaign trains on; where that is not in the settings it is recorded, and stays.

    Raises ModelError.
    """
    chosen = campaign.settings.training.quantization
    if chosen == "none":
        return NONE
    if chosen == "nf4":
        return NF4

    def work() -> dict[str, Any]:
        found = fitting.kind(campaign.settings)
        if found != "dynamic":
            return {"kind": found, **(NF4 if found == "nf4" else NONE).settings()}
        try:
            return {"kind": found, **plan(campaign)}
        except RoomError as error:
            if chosen == "dynamic":
                raise
            print(f"training.quantization: nf4, for nothing could be planned: {error}")
            return {"kind": "nf4", **NF4.settings()}

    return Quantization.of(campaign.step("quantize", 0, campaign.quantize_inputs, work))


def plan(campaign: Campaign) -> dict[str, Any]:
    """The modules that stay in 16 bit: `{load_in_4bit, in_16bit, bytes, kl, …}`, as measuring.measure gives them.

    As few as the tolerance asks for; fewer where the card has no room for them. Raises ModelError.
    """
    _, spare = fitting.fitting(campaign.settings)
    return measure(
        campaign.settings,
        campaign.model,
        material.gather(campaign),
        tolerance=campaign.settings.training.quantization_tolerance,
        most_bytes=None if spare is None else int(spare * card.GIB),
    )["dynamic"]
