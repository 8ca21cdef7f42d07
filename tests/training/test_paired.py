"""The paired benchmark: a few steps of engine and transformers agree, and a planted fault is seen."""

import pytest
import torch
from paired_training import ROOT, EngineTrainer, Recipe, TransformersTrainer, compare, hold_out, plan, train, verdict
from transformers import AutoTokenizer

from agentloop.engine.io.dequantised import dequantised_checkpoint
from agentloop.environments.arithmetic import Arithmetic
from agentloop.tiny import demonstrations

MODEL = ROOT / "models" / "tiny"
RECIPE = Recipe(steps=5, rows=4)
TOLERANCE = 1e-5
"""Nats. What is found: 1e-7 where nothing is wrong, 3e-4 and more for the faults that losses show well."""


@pytest.fixture(scope="module")
def rows():
    """(to train on, to measure on) of demonstrations."""
    environment, tokenizer = Arithmetic(), AutoTokenizer.from_pretrained(MODEL)
    acted = demonstrations.act(demonstrations.write(environment, 15, seed=0), environment, tokenizer)
    return hold_out([(episode.token_ids, episode.mask) for episode in acted])


@pytest.fixture(scope="module")
def steps(rows):
    return plan(rows[0], RECIPE, seed=0)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("paired")


@pytest.fixture
def engine(cache):
    return EngineTrainer(MODEL, RECIPE, seed=0, dtype=torch.float32, cache=cache)


@pytest.fixture(scope="module")
def reference(cache, rows, steps):
    initial = EngineTrainer(MODEL, RECIPE, seed=0, dtype=torch.float32, cache=cache).adapter()
    other = TransformersTrainer(dequantised_checkpoint(MODEL, cache), RECIPE, initial=initial, dtype=torch.float32)
    return train(other, steps, rows[1])


def after_gradients(engine, change):
    compute = engine.model.loss_and_gradients

    def faulty(batch):
        loss = compute(batch)
        change(engine.model.lora)
        return loss

    engine.model.loss_and_gradients = faulty


def test_both_trainers_end_alike(engine, reference, rows, steps):
    run = train(engine, steps, rows[1])
    found = compare(run, reference)
    assert abs(found["final_loss"]) < TOLERANCE and found["training_loss_at_most"] < TOLERANCE
    assert found["gradient_norm_at_most"] < 1e-3 and found["adapter_distance"] < 1e-3
    assert run.before == pytest.approx(reference.before, abs=TOLERANCE)
    assert abs(run.final - run.before) > 100 * TOLERANCE  # else there was nothing to agree on
    assert 0 < run.clipped == reference.clipped < RECIPE.steps


def test_a_skipped_row_is_seen(engine, reference, rows, steps):
    found = compare(train(engine, [steps[0][1:], *steps[1:]], rows[1]), reference)
    assert found["training_loss_at_most"] > 10 * TOLERANCE and abs(found["final_loss"]) > 5 * TOLERANCE


def test_an_adapter_that_is_not_trained_is_seen(engine, reference, rows, steps):
    after_gradients(engine, lambda lora: lora.named_gradients()["layers.2.mlp.down_proj.lora_B.weight"].zero_())
    found = compare(train(engine, steps, rows[1]), reference)
    assert found["training_loss_at_most"] > 10 * TOLERANCE and found["adapter_distance"] > 0.05


def test_a_factor_that_adam_all_but_takes_out_is_seen_in_the_norms(engine, reference, rows, steps):
    after_gradients(engine, lambda lora: lora.gradients.mul_(1.05))
    found = compare(train(engine, steps, rows[1]), reference)
    assert found["gradient_norm_at_most"] == pytest.approx(0.05, abs=1e-3)


def test_no_question_is_trained_on_and_measured(rows, steps):
    def questions(side):
        return {tuple(ids[: list(mask).index(True)]) for ids, mask in side}

    assert rows[1] and not questions(rows[0]) & questions(rows[1])
    assert [len(batch) for batch in steps] == [RECIPE.rows] * RECIPE.steps
    assert plan(rows[0], RECIPE, seed=0) == steps != plan(rows[0], RECIPE, seed=1)


def test_the_verdict_is_about_the_largest_difference():
    def seed(reference, difference):
        about = {
            "final_loss": difference,
            "training_loss_at_most": 0,
            "gradient_norm_at_most": 0,
            "adapter_distance": 0,
        }
        return {"transformers float32": {"final_loss": reference}, "against the reference": {"engine": about}}

    within = verdict({"0": seed(0.1, 0.005), "1": seed(0.12, -0.01)})
    assert within["spread_standard_deviation"] == pytest.approx(0.02 / 2**0.5)
    assert within["engine"]["largest_paired_difference"] == 0.01 and within["engine"]["within_spread"]
    assert not verdict({"0": seed(0.1, 0.005), "1": seed(0.12, -0.02)})["engine"]["within_spread"]
