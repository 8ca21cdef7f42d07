"""The loop in small on pretrained weights: what a base that knows a little collects, what it learns, how that is served.

One vLLM serves all of it, in fp32.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from agentloop.campaign import canary, collect, demonstrations, select, teaching, train
from agentloop.campaign.campaign import Campaign
from agentloop.campaign.prepare import policies
from agentloop.campaign.teaching import Lesson, Teaching
from agentloop.engine import FastLanguageModel
from agentloop.project import CHECKOUT
from agentloop.rollout.collection import ShardPlan
from agentloop.serving.client import CompletionClient
from agentloop.serving.policy_server import PolicyServer
from agentloop.settings import Settings, load
from agentloop.store import datasets
from agentloop.teaching.source import Source
from agentloop.training.run import TrainingRun

pytestmark = [pytest.mark.real, pytest.mark.slow]
FAMILIES = ("home_of_largest", "of_the_oldest")
TASKS, SAMPLES = 12, 2
WINDOW = 512
TOLERANCE = 1e-3
"""Nats per token, both sides in fp32."""


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("loop")


def settings_of(root: Path, model: Path, **sections: Any) -> Settings:
    """Everything in fp32, without descriptions of the tools: short, and exactly comparable."""
    return load(
        {
            "campaign": "real",
            "model": str(model),
            "environment": "database",
            "paths": {name: str(root / name) for name in ("models", "data", "cache")},
            "agent": {"describe_tools": False, "max_turn_tokens": 64, "max_tokens": 512},
            **sections,
        }
    )


@pytest.fixture(scope="module")
def taught(gemma, root) -> Path:
    """The base after a few demonstrations of two families of `database`: as it is fetched, it solves nothing. In small steps
    it learns more from as many tokens."""
    few = {"tasks": 20, "epochs": 2, "batch_tokens": 320, "rank": 16, "alpha": 32, "learning_rate": 1.5e-3}
    settings = settings_of(root, gemma, teach=few, training={"quantization": "none", "dtype": "float32"})
    lesson = Teaching.open(Lesson(settings, Source("experts"), families=FAMILIES, name="taught"))
    with lesson.at_work():
        planned = demonstrations.plan(lesson)
        for shard in planned.shards:
            demonstrations.play(lesson, planned, shard)
        assert demonstrations.take_in(lesson, planned)["accepted"] == few["tasks"]
        run = teaching.plan_training(lesson, teaching.choose(lesson)["dataset"])
        teaching.train(lesson, run)
        teaching.merge(lesson, run)
    return lesson.directory(run)


@dataclass(frozen=True)
class Round:
    """One iteration without its verdict, and the server while it still runs."""

    campaign: Campaign
    server: PolicyServer
    planned: list[ShardPlan]
    counts: dict[str, int]
    dataset: dict[str, Any]
    run: TrainingRun
    trained: dict[str, Any]
    report: dict[str, Any]
    """The canary's."""


@pytest.fixture(scope="module")
def loop(taught, root) -> Iterator[Round]:
    settings = settings_of(
        root,
        taught,
        seed=3,  # most of its tasks are of the families that were taught
        serving={"dtype": "float32", "max_model_len": 1024, "extra_arguments": ["--enforce-eager"]},
        collect={"tasks": TASKS, "samples": SAMPLES},
        selection={"max_success_rate": 1.0},
        training={
            "quantization": "none",
            "dtype": "float32",
            "epochs": 2,
            "batch_tokens": 640,
            "learning_rate": 1e-4,
        },
    )
    campaign = Campaign.open(settings)
    with campaign.at_work(), policies(campaign) as server:
        champion = campaign.begin(1)
        planned = collect.plan_collection(campaign, 1, champion)
        for shard in planned:
            asyncio.run(
                collect.collect_shard(campaign, server, shard, adapter=champion, iteration=1, purpose="collect")
            )
        counts = collect.ingest_shards(campaign, planned, adapter=champion, iteration=1, purpose="collect")
        dataset = select.select(campaign, 1)
        run = train.plan(campaign, dataset["dataset"])
        trained = train.train(campaign, run, iteration=1)
        report = canary.check(campaign, 1, server, run)
        yield Round(campaign, server, planned, counts, dataset, run, trained, report)


@pytest.fixture(scope="module")
def engine(loop):
    """The trained adapter on its base, read from what the loop has left on disk."""
    model, tokenizer = FastLanguageModel.from_pretrained(
        loop.run.output, dtype=torch.float32, load_in_4bit=False, device="cpu", cache_directory=loop.run.cache
    )
    return model, tokenizer


def test_what_is_collected_is_scored_by_the_verifier(loop):
    planned = {trajectory for shard in loop.planned for trajectory in shard.trajectories}
    tasks = {task.id: task for task in loop.campaign.training_tasks(1)}
    with loop.campaign.database() as database:
        rows = database.execute(
            "SELECT t.id, t.task, t.answer, s.value FROM trajectories t "
            "JOIN collected c ON c.trajectory = t.id AND c.purpose = 'collect' "
            "JOIN scores s ON s.trajectory = t.id AND s.scorer = 'success'"
        )
    assert len(rows) == TASKS * SAMPLES and {name for name, *_ in rows} == planned and loop.counts["failed"] == 0
    verify = loop.campaign.environment.verify
    assert all(value == verify(tasks[task], answer) for _, task, answer, value in rows)
    assert 0 < sum(value for *_, value in rows) < len(rows), "a base that was taught a little solves some"


def test_what_was_solved_is_learnt(loop, engine):
    """And nothing else: each row of the dataset was solved, and is likelier after the training than before."""
    model, _ = engine
    with loop.campaign.database() as database:
        chosen = list(datasets.rows(database, loop.dataset["dataset"]))
        solved = database.execute(
            "SELECT count(*) FROM dataset_rows r JOIN scores s ON s.trajectory = r.trajectory "
            "WHERE s.scorer = 'success' AND s.value = 1 AND r.dataset = ?",
            [loop.dataset["dataset"]],
        )[0][0]
    assert len(chosen) == loop.dataset["rows"] == solved > 0
    assert loop.trained["steps"] >= 1
    before, after = (
        [model.logprobs(row.token_ids, adapter=adapter)[torch.tensor(row.mask[1:])].mean() for row in chosen[:4]]
        for adapter in (False, True)
    )
    assert sum(after) > sum(before)


def test_the_canary_finds_it_served_as_it_was_trained(loop):
    assert loop.report["fault"] is None and loop.report["tokens"] > 100
    assert max(loop.report["base_max"], loop.report["adapter_max"]) < 10 * TOLERANCE
    assert loop.report["share"] == pytest.approx(1, abs=0.05)


def test_served_beyond_the_window(loop, engine):
    """Log probabilities of a prompt that is longer than the window, and of what is generated behind it."""
    model, tokenizer = engine
    ids = tokenizer((CHECKOUT / "README.md").read_text()).input_ids[: WINDOW + 150]
    names = {False: loop.server.serve(None), True: loop.server.serve(loop.run.adapter.id)}

    async def served(name: str):
        async with CompletionClient([loop.server.endpoint], loop.campaign.settings.serving) as client:
            prompt = await client.prompt_logprobs(name, ids)
            completion = await client.complete(name, ids, max_tokens=30, seed=1)
            return torch.tensor(prompt), completion

    for adapter, name in names.items():
        prompt, completion = asyncio.run(served(name))
        expected = model.logprobs([*ids, *completion.token_ids], adapter=adapter)
        assert (prompt - expected[: len(prompt)]).abs().max() < 10 * TOLERANCE
        assert (torch.tensor(completion.logprobs) - expected[len(prompt) :]).abs().max() < 10 * TOLERANCE
    moved = model.logprobs(ids) - model.logprobs(ids, adapter=False)
    assert moved.abs().mean() > 10 * TOLERANCE, "an adapter without effect would prove nothing"
