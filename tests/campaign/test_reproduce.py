"""Adapters made by a campaign's own steps: continued from the champion, made again bit for bit, told from others."""

import json
import random

import pytest
from safetensors.torch import load_file, save_file

from agentloop import settings as configuration
from agentloop.campaign import train
from agentloop.campaign.campaign import Campaign
from agentloop.campaign.reproduce import WEIGHTS, compare, reproduce
from agentloop.errors import AdapterError, StoreError
from agentloop.records import Dataset, Sampling, Task, Trajectory, Turn
from agentloop.store import adapters, campaigns, datasets
from agentloop.store.ingest import ingest
from agentloop.store.shards import write_shard
from agentloop.training import rows, worker
from agentloop.training.launch import read_metrics

SETTINGS = (
    "training.rank=8",
    "training.epochs=1",
    "training.batch_tokens=256",
    "training.learning_rate=1e-3",
    "training.continue_adapter=true",
)


def trajectory(number: int) -> Trajectory:
    draw = random.Random(number)
    ids = [draw.randrange(10, 200) for _ in range(draw.randrange(30, 60))]
    half = len(ids) // 2
    task = Task("arithmetic", "sum", f"{number} + 1", str(number + 1), "train")
    turns = Turn("user", task.question, 0, half), Turn("model", task.answer, half, len(ids))
    mask = tuple(place >= half for place in range(len(ids)))
    logprobs = tuple(-1.0 if own else 0.0 for own in mask)
    return Trajectory(
        "policy_1", task, 0, Sampling(), 0, "answered", task.answer, tuple(ids), mask, logprobs, turns, 1.0
    )


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    """A campaign with a dataset of twelve stored trajectories."""
    root = tmp_path_factory.mktemp("data")
    settings = configuration.load([*SETTINGS, f"paths.data={root}", f"paths.cache={root / 'cache'}"], profile="demo")
    campaign = Campaign.open(settings)
    episodes = [trajectory(number) for number in range(12)]
    shard = settings.paths.shards / "rows.parquet"
    write_shard(shard, episodes, purpose="collect", campaign=campaign.name, iteration=1)
    with campaign.database() as database:
        campaigns.register(database, settings)
        ingest(database, [shard])
        datasets.save(database, DATASET, campaign=campaign.name, iteration=1)
    return campaign


DATASET = Dataset(tuple(trajectory(number).id for number in range(12)), "by hand", {})


@pytest.fixture(scope="module")
def fresh(campaign):
    return trained(campaign, parent=None)


@pytest.fixture(scope="module")
def continued(campaign, fresh):
    return trained(campaign, parent=fresh.adapter.id)


def trained(campaign: Campaign, parent: str | None):
    """As train.train does it, in this process: a child's start takes longer than the training."""
    run = train.plan(campaign, DATASET.id, parent=parent)
    with campaign.database() as database:
        rows.write(run.rows, ((row.token_ids, row.mask) for row in datasets.rows(database, DATASET.id)))
        file = run.rows.with_suffix(".json")
        file.write_text(json.dumps(run.to_json()))
        assert worker.main(str(file), "100") == 0
        adapters.save(database, run.adapter, path=run.output, campaign=campaign.name, iteration=1)
    return run


def weights(run):
    return load_file(run.output / WEIGHTS)


def test_a_continued_adapter_goes_on_where_its_parent_ended(campaign, fresh, continued):
    assert (fresh.adapter.parent, continued.adapter.parent) == (None, fresh.adapter.id)
    assert continued.adapter.id != fresh.adapter.id
    losses = [[step["loss"] for step in read_metrics(run)] for run in (fresh, continued)]
    # the same first batch: what the parent learnt is there before the first step
    assert losses[1][0] < losses[0][0]
    steps, rate = len(losses[1]), campaign.settings.training.learning_rate
    before, after = weights(fresh), weights(continued)
    assert all((after[name] - before[name]).abs().max() <= 1.5 * steps * rate for name in before)
    assert any(not after[name].equal(before[name]) for name in before)


def test_without_the_setting_the_champion_is_not_continued(campaign):
    training = campaign.settings.training.model_copy(update={"continue_adapter": False})
    settings = campaign.settings.model_copy(update={"training": training})
    run = train.plan(Campaign.open(settings), DATASET.id, parent="adapter_champion")
    assert run.adapter.parent is None


def test_it_is_made_again_bit_for_bit_and_what_is_not_the_same_is_told(campaign, continued, run_command):
    stored = weights(continued)
    name = sorted(stored)[0]
    save_file(stored | {name: stored[name] + 0.25}, continued.output / WEIGHTS)
    code, output = run_command(campaign, "reproduce", continued.adapter.id)
    save_file(stored, continued.output / WEIGHTS)
    assert code == 1
    assert f"Other weights: 1 of {len(stored)} tensors differ, by 0.25 at most" in output  # all others are the same
    assert not list(campaign.settings.paths.data.glob("reproduce-*"))


def test_the_same_weights_are_told_from_others(fresh, continued):
    tensors, others = ({name: each.numpy() for name, each in weights(run).items()} for run in (fresh, continued))
    same = compare(fresh.adapter, 12, tensors, tensors)
    other = compare(fresh.adapter, 12, tensors, others)
    assert same.same and same.largest == 0 and not same.different
    assert not other.same and other.largest > 0
    with pytest.raises(AdapterError, match="other modules"):
        compare(fresh.adapter, 12, tensors, {})


def test_an_unknown_adapter_is_one_line(campaign):
    with pytest.raises(StoreError, match="no adapter adapter_0") as error:
        reproduce(campaign.settings, "adapter_0")
    assert "\n" not in str(error.value)
