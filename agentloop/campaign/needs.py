"""Bytes of disk that the next large thing takes, asked for before it begins, so that a full disk is told before the work.

Each raises NoSpaceError, which names path, needed and free bytes. Estimates come from what the same thing took before, and
from the sizes of model and adapter; `retention.reserve_gib` stays free beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agentloop import card, space
from agentloop.campaign.campaign import Campaign
from agentloop.model_directory import tensors
from agentloop.model_directory.configuration import read_architecture
from agentloop.rollout.collection import ShardPlan
from agentloop.settings import Settings
from agentloop.store.database import Database
from agentloop.training.run import TrainingRun

_EPISODE_TOKEN = 16
"""Bytes for a token of the longest episode, in shard and database, until there are enough episodes to measure: ids, log
probabilities and text before they are compressed."""
_ENOUGH = 5_000
"""Trajectories from which on the database's size tells that of one: the first rows of all tables take some 10 MiB."""
_NEWEST = 50
"""Shards that the size of an episode is read from."""
_MARGIN = 1.5
"""Episodes grow while a policy learns, and DuckDB writes a changed block anew before it gives the old one back."""
_NF4_BYTE = 0.6
"""Bytes of a packed weight, its scales included."""
_REFERENCE = 8 << 20
"""Bytes of the canary's reference, the journal and TensorBoard's file, in plenty."""
_REPORT = 16 << 20
"""Bytes of a page with as many trajectories as it may hold, in plenty."""


def episodes(campaign: Campaign, shards: Sequence[ShardPlan]) -> None:
    """Room for the shards of these episodes, and for their rows in the database."""
    count = sum(len(shard.episodes) for shard in shards)
    with campaign.database() as database:
        each = _bytes_of_an_episode(database, campaign.settings)
    _require(campaign.settings, campaign.settings.paths.shards, int(count * each * _MARGIN))


def training(campaign: Campaign, run: TrainingRun, tokens: int) -> None:
    """Room for the rows (`tokens` in all), the checkpoint with the one that it replaces, and the adapter."""
    settings = campaign.settings
    parameters = _adapter_parameters(run.model, settings.training.rank, settings.training.targets)
    moments = 2 * settings.training.optimizer_bits / 8
    # ids and mask, and where failures are learnt from log probabilities and rewards
    row = 5 if run.settings.rows == "successes" else 13
    needed = row * tokens + parameters * (2 * (4 + moments) + 4) + _REFERENCE
    if campaign.quantization.in_4bit:
        needed += _packed(campaign)
    _require(settings, run.adapters, int(needed))


def dequantised(campaign: Campaign) -> None:
    """Room for the base as training sees it, and for its packed weights."""
    original = sum(file.stat().st_size for file in campaign.model.iterdir() if file.is_file())
    written = original if card.present() else 2 * original  # in fp32, as it is computed with there
    _require(campaign.settings, campaign.settings.paths.cache, written + _packed(campaign))


def report(settings: Settings, page: Path) -> None:
    """Room for the report beside the one that it replaces."""
    before = page.stat().st_size if page.is_file() else 0
    space.require(page.parent, max(_REPORT, 2 * before))


def _require(settings: Settings, path: Path, needed: int) -> None:
    space.require(path, needed, reserve=settings.retention.reserve)


def _bytes_of_an_episode(database: Database, settings: Settings) -> float:
    """From the newest shards, with the database's share; from the longest episode where there are few yet."""
    ((everything,),) = database.execute("SELECT count(*) FROM trajectories")
    if everything < _ENOUGH:
        return settings.agent.max_tokens * _EPISODE_TOKEN
    ((size, count),) = database.execute(
        f"""
        SELECT sum(bytes), sum(trajectories) FROM (
            SELECT bytes, trajectories FROM shards WHERE trajectories > 0 ORDER BY number DESC LIMIT {_NEWEST})
        """
    )
    return size / count + database.path.stat().st_size / everything


def _adapter_parameters(model: Path, rank: int, targets: Sequence[str]) -> int:
    shape = read_architecture(model)
    trained = [name for name in shape.linears if name.rpartition(".")[2] in targets]
    return sum(rank * sum(tensors.size(shape, f"{name}.weight")) for name in trained)


def _packed(campaign: Campaign) -> int:
    """Bytes of the packed weights; none where they are there."""
    if list((campaign.settings.paths.cache / "nf4").glob(f"{campaign.base}-*")):
        return 0
    shape = read_architecture(campaign.model)
    weights = 0
    for name in shape.linears:
        rows, columns = tensors.size(shape, f"{name}.weight")
        weights += rows * columns
    return int(_NF4_BYTE * weights)
