"""The base that vLLM serves: as training sees it where it is quantised, so that served equals trained."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from agentloop.at_hand import AtHand
from agentloop.campaign import needs
from agentloop.campaign.campaign import Campaign
from agentloop.quantization.dequantised import dequantised
from agentloop.serving.policy_server import PolicyServer

_SERVERS: AtHand[PolicyServer] = AtHand()


def prepare(campaign: Campaign) -> Path:
    """The directory that is served; made where it is missing, as a step of the campaign. It takes as much disk as the original.

    Raises ModelError, RoomError, TrainerError, DiskError.
    """
    if not campaign.serves_dequantised:
        return campaign.model

    def work() -> dict[str, str]:
        needs.dequantised(campaign)
        with campaign.phase("prepare", 0):
            return {"directory": str(dequantised(campaign.settings, campaign.model, campaign.quantization))}

    made = campaign.step("prepare", 0, [campaign.base, campaign.quantization], work)
    directory = Path(made["directory"])
    # it lies in the cache, which may be deleted at any time, and moved with its data root
    return directory if directory.is_dir() else Path(work()["directory"])


def policies(campaign: Campaign) -> AbstractContextManager[PolicyServer]:
    """A server for the campaign's policies: `with policies(campaign) as server`.

    Blocks that overlap in one process share it. vLLM starts with the first policy that is asked for, and ends with the last
    of the blocks. Raises as `prepare` does, and SettingError.
    """
    key = (campaign.settings.model_dump_json(), campaign.base, campaign.given)
    note = partial(campaign.note, "vllm")
    return _SERVERS.sharing(
        key, lambda: PolicyServer(campaign.settings, prepare(campaign), base=campaign.base, note=note)
    )
