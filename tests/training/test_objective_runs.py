"""Runs of objectives that learn from failures: what they learn, what they write down, killed or on several devices."""

import dataclasses
import random

import numpy as np
import pytest
from safetensors.torch import load_file

from agentloop import settings as configuration
from agentloop.errors import ModelError, SettingError
from agentloop.model_directory.fingerprint import base_fingerprint
from agentloop.records import NF4
from agentloop.settings import Bounds, Grpo, Sft, Training
from agentloop.training import bounds, checkpoint, rows
from agentloop.training.example import Example
from agentloop.training.journal import StepMetrics
from agentloop.training.launch import launch, read_metrics
from agentloop.training.objectives.sft import departures
from agentloop.training.ranks import Ranks
from agentloop.training.run import TrainingRun
from agentloop.training.trainer import train

OBJECTIVES = {
    "sft": {"sft": {"push_down": 1.0, "push_above": 0.0}},
    "grpo": {"grpo": {"anchor": "start", "kl": 0.1}},
    "dpo": {"dpo": {"reference": "base"}},
    "kto": {"kto": {}},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    from agentloop.tiny.architecture import random_checkpoint

    directory = tmp_path_factory.mktemp("base")
    random_checkpoint(directory, seed=0)
    return directory


def examples() -> list[Example]:
    """Ten pairs of a success and a failure, which part at the tenth token."""
    draw, found = random.Random(0), []
    for group in range(10):
        shared = [draw.randrange(10, 200) for _ in range(9)]
        for reward in (1.0, 0.0):
            ids = [*shared, *(draw.randrange(10, 200) for _ in range(draw.randrange(8, 30)))]
            mask = tuple(place >= 5 for place in range(len(ids)))
            logprobs = np.where(mask, -5.0, 0).astype(np.float32)
            nothing = np.full(len(ids), np.nan, np.float32)
            found.append(Example(tuple(ids), mask, logprobs, nothing, reward, 1.0, group, len(found)))
    return found


def planned(tmp_path, base, objective: str, **changed) -> tuple[TrainingRun, configuration.Settings]:
    about = {"epochs": 2, "batch_tokens": 128, "checkpoint_steps": 2, "learning_rate": 2e-3, "objective": objective}
    settings = configuration.load(
        {
            "paths": {"data": str(tmp_path / "data"), "cache": str(tmp_path / "cache")},
            "training": about | OBJECTIVES[objective] | changed,
        }
    )
    path = settings.paths.data / "datasets" / "data_0.safetensors"
    rows.write_examples(path, examples())
    run = TrainingRun.plan(
        base=base_fingerprint(base, settings.paths.cache), dataset="data_0", rows=path, model=base,
        training=settings.training, quantization=NF4, seed=0, paths=settings.paths,
    )  # fmt: skip
    return run, settings


def weights(run):
    return load_file(run.output / "adapter_model.safetensors")


def trained(run, **options):
    train(run, checkpoint_steps=2, on_step=options.get("on_step", lambda metrics: None), ranks=Ranks())


def test_examples_come_back(tmp_path):
    written = examples()
    written[3] = dataclasses.replace(written[3], weight=2.5, reward=0.25)
    rows.write_examples(tmp_path / "rows.safetensors", written)
    for ours, theirs in zip(rows.read_examples(tmp_path / "rows.safetensors"), written, strict=True):
        for field in dataclasses.fields(Example):
            np.testing.assert_array_equal(getattr(ours, field.name), getattr(theirs, field.name))
    assert rows.read(tmp_path / "rows.safetensors") == [(each.token_ids, each.mask) for each in written]
    # what is known of successes alone
    rows.write(tmp_path / "plain.safetensors", [(np.array([1, 2]), np.array([False, True]))])
    [only] = rows.read_examples(tmp_path / "plain.safetensors")
    assert only.solved and only.token_ids == (1, 2) and only.mask == (False, True)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_run_that_was_interrupted_continues_exactly(tmp_path, base, objective):
    run, settings = planned(tmp_path, base, objective)
    trained(run)
    steps = read_metrics(run)
    assert len(steps) >= 4 and any(tensor.any() for name, tensor in weights(run).items() if "lora_B" in name)
    last, first = steps[-1], steps[0]
    assert all(first[name] is not None for name in ("nll", "entropy", "kl"))
    if objective == "dpo":
        assert first["loss"] > last["loss"] and last["preferred"] == 1.0
    else:
        assert last["nll"] < first["nll"]

    def stop(metrics):
        if metrics.step == 3:
            raise KeyboardInterrupt

    other = settings.paths.data / "other"
    again = dataclasses.replace(run, adapters=other / "adapters", checkpoints=other / "checkpoints")
    with pytest.raises(KeyboardInterrupt):
        trained(again, on_step=stop)
    assert checkpoint.read(again.checkpoint)[0] == 2
    trained(again)
    expected, found = weights(run), weights(again)
    assert all(found[name].equal(expected[name]) for name in expected)
    assert [step["loss"] for step in read_metrics(again)] == [step["loss"] for step in steps]


@pytest.mark.parametrize("objective", ["grpo", "dpo"])
def test_two_processes_learn_what_one_does(tmp_path, base, objective):
    run, settings = planned(tmp_path, base, objective, epochs=1)
    trained(run)
    shared = settings.model_copy(update={"training": settings.training.model_copy(update={"devices": 2})})
    other = settings.paths.data / "other"
    together = dataclasses.replace(run, adapters=other / "adapters", checkpoints=other / "checkpoints")
    launch(together, shared)
    for name in ("loss", "grad_norm", "nll", "entropy"):
        ours, theirs = ([step[name] for step in read_metrics(each)] for each in (together, run))
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-5), name
    found = weights(together)
    for name, tensor in weights(run).items():
        # Adam makes a whole step of a gradient that is nothing but rounding
        assert (found[name] - tensor).norm() < 1e-3 * tensor.norm(), name


def test_a_bound_gives_the_run_up_in_one_line(tmp_path, base):
    run, settings = planned(tmp_path, base, "kto", bounds={"max_kl": 1e-9})
    with pytest.raises(ModelError, match=r"training.bounds.max_kl: .* in step 1 of \d+, above 1e-09") as error:
        launch(run, settings)
    assert "\n" not in str(error.value) and not run.output.exists()
    # with another bound it is the same adapter
    other, settings = planned(tmp_path, base, "kto", bounds={"max_kl": 1e9, "min_entropy": 1e-3, "max_nll": 100.0})
    assert other.adapter == run.adapter
    launch(other, settings)
    assert run.output.exists()


def metrics(**known) -> StepMetrics:
    about = {"step": 2, "steps": 9, "epoch": 0, "loss": 1.5, "grad_norm": 1.0, "learning_rate": 1e-4}
    return StepMetrics(**about, tokens=10, supervised=5, seconds=0.1, **known)


@pytest.mark.parametrize(
    ("set_to", "known", "line"),
    [
        ({"max_nll": 1.0}, {}, "max_nll: cross-entropy of successes is 1.5 in step 2 of 9, above 1"),
        ({"max_nll": 2.0}, {"nll": 3.0, "kl": 0.0}, "max_nll: .* is 3 in"),
        ({"min_entropy": 0.5}, {"entropy": 0.25}, "min_entropy: entropy is 0.25 .* below 0.5"),
        ({"max_clipped": 0.5}, {"clipped": 0.4, "truncated": 0.2}, "max_clipped: share of clipped .* is 0.6 "),
        ({"max_nll": 2.0, "min_entropy": 0.1, "max_kl": 0.1}, {"entropy": 0.25, "kl": 0.01, "nll": 1.0}, None),
        ({"max_nll": 1.0}, {"kl": 0.0}, None),  # no success was in the step
        ({}, {"entropy": 0.0, "kl": 9.0, "nll": 9.0}, None),
    ],
)
def test_bounds(set_to, known, line):
    if line is None:
        bounds.check(metrics(**known), Bounds(**set_to))
    else:
        with pytest.raises(ModelError, match=line):
            bounds.check(metrics(**known), Bounds(**set_to))


def test_nothing_to_learn_from_is_one_line(tmp_path, base):
    run, _ = planned(tmp_path, base, "grpo", grpo={})
    run.rows.unlink()
    rows.write_examples(run.rows, [dataclasses.replace(each, reward=1.0) for each in examples()])
    with pytest.raises(ModelError, match="training.objective: grpo has nothing to learn"):
        trained(run)
    run, _ = planned(tmp_path, base, "grpo", grpo={"credit": "turns"})
    with pytest.raises(ModelError, match="training.grpo.credit: turns, but no turn"):
        trained(run)
    run, _ = planned(tmp_path, base, "dpo")
    run.rows.unlink()
    rows.write_examples(run.rows, examples()[1:])
    with pytest.raises(ModelError, match="dpo learns from pairs, but group 0 .* 0 successes and 1 failures"):
        trained(run)


def test_only_the_chosen_objective_is_part_of_a_name(tmp_path, base):
    name = planned(tmp_path, base, "grpo")[0].adapter
    assert name.training["grpo"]["kl"] == 0.1 and not {"sft", "dpo", "kto", "bounds"} & name.training.keys()
    assert planned(tmp_path, base, "grpo", dpo={"beta": 0.7})[0].adapter == name
    assert planned(tmp_path, base, "grpo", grpo={"kl": 0.2})[0].adapter.id != name.id
    # all of it is in the name, so that another default one day is another name
    assert planned(tmp_path, base, "grpo", grpo={})[0].adapter.training["grpo"]["clip_low"] == 0.9
    run, settings = planned(tmp_path, base, "sft")
    assert run.adapter.training["sft"] == {"push_down": 1.0, "push_above": 0.0} and run.settings.sft.push_down == 1
    plain, _ = planned(tmp_path, base, "sft", sft={}, dpo={"beta": 0.7})
    assert not {"objective", "sft", "dpo"} & plain.adapter.training.keys()
    assert settings.training.on_successes().rows == "successes"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["training.objective=ppo"], "training.objective: "),
        (["training.grpo.clip_low=2"], "training.grpo.clip_low: "),
        (["training.grpo.cliplow=0.2"], "training.grpo.cliplow: unknown setting"),
        (["training.bounds.max_kl=0.1"], "training: bounds.max_kl needs an objective that learns from failures"),
        (
            ["training.objective=dpo", "training.bounds.max_clipped=0.1"],
            "training: bounds.max_clipped is for .* dpo clips",
        ),
    ],
)
def test_settings_that_cannot_be_are_one_line(words, line):
    with pytest.raises(SettingError, match=line) as error:
        configuration.load(words)
    assert "\n" not in str(error.value)


def test_rows_of_each_objective():
    assert Training().rows == "successes" and Training(sft=Sft(push_down=0.1)).rows == "groups"
    assert Training(objective="grpo").rows == Training(objective="kto").rows == "groups"
    assert Training(objective="dpo").rows == "pairs" and Training(objective="grpo", grpo=Grpo(kl=1)).rows == "groups"


def sample(text: str, reward: float, *, prompt: int = 2, tool: str = "", group: int = 0, episode: int = 0) -> Example:
    """A token is a letter; the prompt and the letters in `tool` are not the model's."""
    ids = tuple(map(ord, text))
    mask = tuple(place >= prompt and letter not in tool for place, letter in enumerate(text))
    none = np.full(len(ids), np.nan, np.float32)
    return Example(ids, mask, np.zeros(len(ids), np.float32), none, reward, 1.0, group, episode)


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([("ppabcd", 1), ("ppabxy", 0)], ["ppabx"]),
        ([("ppabcd", 1), ("ppaxcd", 1), ("ppaxyz", 0)], ["ppaxy"]),  # further than any success alone
        ([("ppabcd", 1), ("ppabxy", 0), ("ppabxz", 0)], ["ppabx"]),  # the same step away counts once
        ([("ppabcd", 1), ("ppab", 0)], []),  # ended before it left
        ([("ppabcd", 1), ("ppabcde", 0)], ["ppabcde"]),  # went on where the success ended
        ([("ppabTd", 1), ("ppabUd", 0)], []),  # a tool said something else
        ([("ppabcd", 0), ("ppabxy", 0)], []),  # no success to leave
        ([("qqabcd", 1), ("ppabxy", 0)], []),  # another prompt
    ],
)
def test_where_a_failure_leaves_every_success(samples, expected):
    found = list(departures([sample(text, reward, tool="TU") for text, reward in samples]))
    assert ["".join(map(chr, each.token_ids)) for each in found] == expected
    assert all(sum(each.mask) == 1 and each.mask[-1] for each in found)
