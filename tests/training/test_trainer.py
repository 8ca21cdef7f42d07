"""Training in a child process: killed at any step it continues exactly; bad input is one line."""

import dataclasses
import json
import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from agentloop import canary_reference
from agentloop import settings as configuration
from agentloop.child_log import line_since
from agentloop.engine.api.model import Gemma
from agentloop.engine.lora.buffer import LoraBuffer
from agentloop.errors import ModelError, TrainerError
from agentloop.model_directory.fingerprint import base_fingerprint
from agentloop.records import NF4
from agentloop.training import checkpoint, reference, rows, worker
from agentloop.training.launch import launch, read_metrics
from agentloop.training.ranks import Ranks
from agentloop.training.run import TrainingRun
from agentloop.training.schedule import learning_rate
from agentloop.training.shortage import Shortage
from agentloop.training.trainer import train


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    from agentloop.tiny.architecture import random_checkpoint

    directory = tmp_path_factory.mktemp("base")
    random_checkpoint(directory, seed=0)
    return directory


@pytest.fixture
def settings(tmp_path):
    return configuration.load(
        {
            "paths": {"data": str(tmp_path / "data"), "cache": str(tmp_path / "cache")},
            "training": {"epochs": 2, "batch_tokens": 256, "checkpoint_steps": 2, "learning_rate": 1e-3},
        }
    )


def with_training(settings, **changed):
    return settings.model_copy(update={"training": settings.training.model_copy(update=changed)})


def elsewhere(run, settings):
    """The same run in another folder."""
    other = settings.paths.data / "other"
    return dataclasses.replace(run, adapters=other / "adapters", checkpoints=other / "checkpoints")


def plan(settings, base, seed=0):
    draw = random.Random(0)
    sequences = []
    for _ in range(16):
        length = draw.randrange(20, 60)
        sequences.append(
            (
                np.array([draw.randrange(10, 200) for _ in range(length)]),
                np.array([draw.random() < 0.4 for _ in range(length)]),
            )
        )
    path = settings.paths.data / "datasets" / "data_0.safetensors"
    rows.write(path, sequences)
    return TrainingRun.plan(
        base=base_fingerprint(base, settings.paths.cache),
        dataset="data_0",
        rows=path,
        model=base,
        training=settings.training,
        quantization=NF4,
        seed=seed,
        paths=settings.paths,
    )


def weights(run):
    return load_file(run.output / "adapter_model.safetensors")


def test_killed_run_continues_exactly(settings, base):
    undisturbed = plan(settings, base)
    launch(undisturbed, settings)
    expected = weights(undisturbed)
    assert any(tensor.abs().max() > 0 for name, tensor in expected.items() if "lora_B" in name)
    steps = len(read_metrics(undisturbed))
    assert steps >= 5

    again = elsewhere(undisturbed, settings)
    killed, took = [], []

    def kill_trainer_at_step_4(metrics):
        if metrics["step"] == 4 and not killed:
            killed.extend(trainers(again))
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    with pytest.raises(TrainerError, match="was killed"):
        launch(again, settings, on_step=kill_trainer_at_step_4, on_end=took.append)
    assert killed and not again.output.exists() and again.checkpoint.exists()

    continued = []
    launch(again, settings, on_step=continued.append, on_end=took.append)
    assert continued[0]["step"] > 1
    lost, whole = took
    assert "was killed" in lost.fault and whole.fault is None
    assert whole.start > 0 and whole.save > 0
    assert whole.steps >= 0.9 * sum(step["seconds"] for step in continued)
    found = weights(again)
    assert found.keys() == expected.keys()
    assert all(found[name].equal(expected[name]) for name in expected)
    assert [row["loss"] for row in read_metrics(again)] == [row["loss"] for row in read_metrics(undisturbed)]
    assert not again.checkpoint.exists()


def test_a_start_imports_what_it_uses_and_says_what_took_how_long(settings, base):
    run = plan(with_training(settings, epochs=1), base)
    file = settings.paths.data / "run.json"
    file.write_text(json.dumps(run.to_json()))
    program = f"""
import sys
from pathlib import Path
from agentloop.training import worker
assert "torch" not in sys.modules  # the card is asked while it is imported
from agentloop.engine.meta.forecast import StepForecast
assert worker.main({str(file)!r}, "100") == 0
StepForecast(Path({str(base)!r}), 2048)  # as a card's memory is checked
print(*sorted({{"transformers", "torch._dynamo", "sympy"}} & set(sys.modules)), file=sys.stderr)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8", check=True)
    told, imported = ended.stderr.splitlines()
    parts = ["imports", "batches", "check", "weights", "yardstick", "adapter", "first step"]
    assert re.findall(r"([a-z ]+) \d+\.\d s,", told.removeprefix("start:")) == [f" {part}" for part in parts]
    assert imported == ""


def test_moments_of_8_bits_continue_exactly(settings, base):
    settings = with_training(settings, optimizer_bits=8)
    undisturbed = plan(settings, base)
    train(undisturbed, checkpoint_steps=2, on_step=lambda metrics: None, ranks=Ranks())

    def interrupt(metrics):
        if metrics.step == 5:
            raise KeyboardInterrupt

    again = elsewhere(undisturbed, settings)
    with pytest.raises(KeyboardInterrupt):
        train(again, checkpoint_steps=2, on_step=interrupt, ranks=Ranks())
    done, tensors = checkpoint.read(again.checkpoint)
    assert done == 4 and tensors["first"].dtype == torch.uint8
    train(again, checkpoint_steps=2, on_step=lambda metrics: None, ranks=Ranks())
    expected, found = weights(undisturbed), weights(again)
    assert all(found[name].equal(expected[name]) for name in expected)

    exact = plan(with_training(settings, optimizer_bits=32), base)
    train(exact, checkpoint_steps=2, on_step=lambda metrics: None, ranks=Ranks())
    assert any(not tensor.equal(expected[name]) for name, tensor in weights(exact).items())
    losses, exact_losses = ([row["loss"] for row in read_metrics(run)] for run in (undisturbed, exact))
    assert losses == pytest.approx(exact_losses, rel=1e-2) and losses != exact_losses


def test_the_memory_budget_reaches_every_step(settings, base, monkeypatch):
    seen, step_plan = [], Gemma.step_plan

    def noting(model, batch, **options):
        seen.append(model.memory_budget)
        return step_plan(model, batch, **options)

    monkeypatch.setattr(Gemma, "step_plan", noting)
    run = plan(with_training(settings, epochs=1), base)
    file = settings.paths.data / "run.json"
    file.write_text(json.dumps(run.to_json()))
    assert worker.main(str(file), "100", "4.15") == 0
    assert seen == [4.15] * len(read_metrics(run))


def test_where_memory_is_short_a_leaner_plan_goes_on(settings, base, monkeypatch, capsys):
    undisturbed = plan(settings, base)
    launch(undisturbed, settings)

    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parent / 'short_card'}:{os.environ.get('PYTHONPATH', '')}")
    short = elsewhere(undisturbed, settings)
    steps = []
    launch(short, settings, on_step=lambda metrics: steps.append(metrics["step"]))
    assert steps[:5] == [1, 2, 3, 3, 4]  # on from the checkpoint of step 2
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("training.memory_budget: out of memory where 6.40 GiB were planned and 5.00 were to be had")
    assert line.endswith("from the newest checkpoint within 4.97 GiB")
    expected, found = weights(undisturbed), weights(short)
    assert all(found[name].equal(expected[name]) for name in expected)


@pytest.mark.parametrize(("planned", "available", "budget"), [(6.0, 20.0, 5.7), (6.0, 5.0, 4.975), (5.0, 5.0, 4.75)])
def test_the_next_budget_is_less_and_to_be_had(planned, available, budget):
    shortage = Shortage.parse(str(Shortage(planned, available)))
    assert shortage.next_budget == pytest.approx(budget)


def test_out_of_host_memory_is_one_line(settings, base, monkeypatch, capfd):
    def lacking(*arguments, **options):
        torch.empty(2**60, dtype=torch.uint8)

    monkeypatch.setattr(Gemma, "results_and_gradients", lacking)
    file = settings.paths.data / "run.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(plan(settings, base).to_json()))
    assert worker.main(str(file), "100") == 2
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith("error: out of memory") and "tried to allocate" in last


def test_a_hung_trainer_is_ended_and_continues(settings, base):
    patient = with_training(settings, stall_seconds=30)  # longer than it takes to load
    run = plan(patient, base)
    stopped = []

    def stop_trainer_at_step_3(metrics):
        if metrics["step"] == 3:
            stopped.extend(trainers(run))
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)

    with pytest.raises(TrainerError, match="training.stall_seconds") as error:
        launch(run, patient, on_step=stop_trainer_at_step_3)
    assert "\n" not in str(error.value)
    assert stopped and not trainers(run) and run.checkpoint.exists()
    launch(run, patient)
    assert run.output.exists()


def trainers(run):
    return [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and trains(pid, run)]


def trains(pid, run):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            command = file.read().split(b"\0")
    except OSError:
        return False
    return (
        b"agentloop.training.worker" in command
        and str(run.checkpoints).encode() in b" ".join(command)
        and b"agentloop.child" not in command
    )


def test_two_processes_learn_what_one_does(settings, base):
    """Under torchrun, with gloo: a batch's sequences are dealt out, the gradient is the same to rounding."""
    settings = with_training(settings, epochs=1)
    alone = plan(settings, base)
    train(alone, checkpoint_steps=2, on_step=lambda metrics: None, ranks=Ranks())
    shared = with_training(settings, devices=2, memory_budget=0.5)
    together = elsewhere(plan(shared, base), settings)
    assert together.adapter.id == alone.adapter.id
    steps = []
    launch(together, shared, on_step=steps.append)
    expected, found = read_metrics(alone), read_metrics(together)
    assert [row["step"] for row in steps] == [row["step"] for row in expected]
    for name in ("loss", "grad_norm", "supervised", "tokens"):
        assert [row[name] for row in found] == pytest.approx([row[name] for row in expected], rel=1e-4)
    for name, tensor in weights(alone).items():
        np.testing.assert_allclose(weights(together)[name], tensor, atol=2e-5)


def test_the_trainers_line_is_found_before_torchruns(tmp_path):
    log = tmp_path / "train.log"
    log.write_text("error: of an earlier run\n")
    start = log.stat().st_size
    assert line_since(log, start, "error: ") is None
    with open(log, "a") as file:
        file.write("W1121 warning\nerror: rows are missing\nE1121 failed (exitcode: 2)\n====\n")
    assert line_since(log, start, "error: ") == "error: rows are missing"


def test_a_gradient_that_is_not_finite_ends_in_an_error(settings, base, monkeypatch):
    monkeypatch.setattr(LoraBuffer, "_initialise", lambda lora: lora.parameters.fill_(float("inf")))
    run = plan(settings, base)
    with pytest.raises(ModelError, match="step 1: .* not finite in torch.float32"):
        train(run, checkpoint_steps=2, on_step=lambda metrics: None, ranks=Ranks())
    assert not run.output.exists()


def test_adapter_holds_the_trainers_own_logprobs(settings, base):
    run = plan(settings, base)
    train(run, checkpoint_steps=2, on_step=lambda metrics: None, ranks=Ranks())
    stored = canary_reference.read(run.output)
    assert (stored.dtype, stored.in_4bit, len(stored.prompts)) == ("float32", True, reference.PROMPTS)
    for prompt in stored.prompts:
        assert len(prompt.base) == len(prompt.adapted) == len(prompt.rounding) == len(prompt.token_ids) - 1
        assert max(prompt.base) <= 0 and prompt.base != prompt.adapted
    rounding = [abs(value) for prompt in stored.prompts for value in prompt.rounding]
    assert 1e-3 < sum(rounding) / len(rounding) < 0.1  # bf16 has 8 bits; these are some 6 nats


def test_name_follows_from_what_determines_the_weights(settings, base):
    run = plan(settings, base)
    assert plan(settings, base).adapter.id == run.adapter.id
    assert plan(settings, base, seed=1).adapter.id != run.adapter.id
    for same in (
        {"checkpoint_steps": 1},
        {"devices": 2},
        {"memory_budget": 4.15},
        {"stall_seconds": 9},
        {"optimizer_bits": 32},
    ):
        assert plan(with_training(settings, **same), base).adapter == run.adapter
    for other in ({"optimizer_bits": 8}, {"rank": 8}):
        assert plan(with_training(settings, **other), base).adapter.id != run.adapter.id
    assert run.settings.optimizer_bits == 32
    assert TrainingRun.from_json(json.loads(json.dumps(run.to_json()))) == run


def test_missing_rows_are_one_line(settings, base):
    run = plan(settings, base)
    run.rows.unlink()
    with pytest.raises(ModelError) as error:
        launch(run, settings)
    assert "rows are missing" in str(error.value) and "\n" not in str(error.value)


def test_learning_rate_warms_up_and_ends_near_zero():
    rates = [learning_rate(step, 100, peak=1.0, warmup_fraction=0.1) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == 1.0 and rates[-1] < 0.01
    assert rates[:10] == sorted(rates[:10]) and rates[10:] == sorted(rates[10:], reverse=True)


@pytest.mark.parametrize("left", [0, 7, 200])
def test_after_a_power_cut_a_broken_checkpoint_costs_time_and_nothing_else(settings, base, capsys, left):
    run = plan(settings, base)
    undisturbed = elsewhere(run, settings)
    for each in (undisturbed, run):
        interrupt = None if each is undisturbed else 4

        def stop(metrics, at=interrupt):
            if metrics.step == at:
                raise KeyboardInterrupt

        try:
            train(each, checkpoint_steps=2, on_step=stop, ranks=Ranks())
        except KeyboardInterrupt:
            pass
    os.truncate(run.checkpoint, left)
    with open(run.metrics, "ab") as torn:
        torn.write(bytes(100) + b'\xff{"step')
    train(run, checkpoint_steps=2, on_step=lambda metrics: None, ranks=Ranks())
    weights = [load_file(each.output / "adapter_model.safetensors") for each in (undisturbed, run)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert [row["loss"] for row in read_metrics(run)] == [row["loss"] for row in read_metrics(undisturbed)]
    assert f"{run.checkpoint}: not to be read" in capsys.readouterr().err
