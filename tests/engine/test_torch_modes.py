"""The modes and copies of torch: whatever state a caller is in, the same model trains, and what trains is what computes."""

from __future__ import annotations

import copy
import io
from contextlib import contextmanager

import pytest
import torch
from torch.func import functional_call
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import Trainer, TrainingArguments

from agentloop.engine import FastLanguageModel
from agentloop.engine.batch import join
from agentloop.engine.optimizer import FlatAdamW
from agentloop.errors import ModelError, SettingError

IDS = [3, 50, 7, 8, 90, 12, 44, 5]
ROW = torch.tensor([IDS])
BATCH = join([(IDS, [True] * len(IDS))])


def load(checkpoint, cache, dtype=torch.float32):
    model, _ = FastLanguageModel.from_pretrained(checkpoint, dtype=dtype, cache_directory=cache)
    return FastLanguageModel.get_peft_model(model, r=8, lora_alpha=16)


@pytest.fixture
def model(checkpoint, cache, fill_adapter):
    loaded = load(checkpoint, cache)
    fill_adapter(loaded)
    return loaded


def gradient(model) -> torch.Tensor:
    """Of the mean loss, by the trainers' interface."""
    model.adapter.grad = None
    model(ROW, labels=ROW).loss.backward()
    return model.adapter.grad


@contextmanager
def default_dtype(dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


MODES = {
    "inference_mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "default dtype": lambda: default_dtype(torch.bfloat16),
    "default device": lambda: torch.device("meta"),
}


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_every_call_is_the_same_in_every_mode(model, mode):
    """And the first calls of all are made in it: buffers are born there."""
    plain = copy.deepcopy(model)
    with mode():
        batch = join([(IDS, [True] * len(IDS))])
        ours = [
            model.logprobs(IDS), model.logits(batch), model.hidden(batch), model.token_results(batch, observe=True).entropy,
            model.generate(torch.tensor([IDS], device="cpu"), max_new_tokens=2, do_sample=False),
            model.loss_and_gradients(batch).loss_sum, model.lora.gradients.clone(),
        ]  # fmt: skip
    assert batch.token_ids.device.type == "cpu"
    expected = [
        plain.logprobs(IDS), plain.logits(batch), plain.hidden(batch), plain.token_results(batch, observe=True).entropy,
        plain.generate(ROW, max_new_tokens=2, do_sample=False),
        plain.loss_and_gradients(batch).loss_sum, plain.lora.gradients.clone(),
    ]  # fmt: skip
    for each, value in zip(ours, expected, strict=True):
        assert torch.equal(each, value)
    assert torch.equal(gradient(model), gradient(plain))


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_a_model_that_was_loaded_in_a_mode_trains(checkpoint, cache, mode):
    expected = load(checkpoint, cache)
    with mode():
        model = load(checkpoint, cache)
        optimizer = FlatAdamW(model.lora)
        assert torch.equal(model.lora.parameters, expected.lora.parameters)
    other = FlatAdamW(expected.lora)
    for each, steps in ((model, optimizer), (expected, other)):
        each.loss_and_gradients(BATCH)
        steps.step(learning_rate=1e-2)
    assert torch.equal(model.lora.parameters, expected.lora.parameters)
    assert torch.equal(gradient(model), gradient(expected))


@pytest.mark.parametrize("mode", [MODES["autocast"], MODES["default dtype"]], ids=["autocast", "default dtype"])
def test_a_trainers_step_is_the_same_in_every_mode(model, mode):
    expected = gradient(model)
    with mode():
        assert torch.equal(gradient(model), expected)


def test_a_failed_call_leaves_the_adapter_on(model, fill_adapter):
    expected, base = model.logprobs(IDS), model.logprobs(IDS, adapter=False)
    assert not torch.equal(expected, base)
    for wrong, error in (
        ([5] * 3000, ModelError),
        ([5, -7, 6], SettingError),
        ([5, 10**6], SettingError),
        ([], ValueError),
    ):
        with pytest.raises(error):
            model.logprobs(wrong, adapter=False)
        assert torch.equal(model.logprobs(IDS), expected)
    with pytest.raises(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.network, "forward", interrupted)
        model.logprobs(IDS, adapter=False)
    assert torch.equal(model.logprobs(IDS), expected)
    assert torch.equal(model.logprobs(IDS, adapter=False), base)


def interrupted(*_, **__):
    raise KeyboardInterrupt


# copies, and parameters that torch exchanges


def saved(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, saved], ids=["deepcopy", "torch.save"])
def test_a_copy_trains_by_itself(model, duplicate):
    before = model.logprobs(IDS)
    other = duplicate(model)
    assert torch.equal(other.logprobs(IDS), before)
    optimizer = torch.optim.SGD(other.parameters(), lr=1.0)
    gradient(other)
    optimizer.step()
    assert not torch.allclose(other.logprobs(IDS), before) and torch.equal(model.logprobs(IDS), before)
    model.lora.parameters.copy_(other.lora.parameters)
    assert torch.equal(model.logprobs(IDS), other.logprobs(IDS))


def test_a_deep_copy_shares_the_frozen_weights(model):
    other = copy.deepcopy(model)
    assert other.weights.embedding is model.weights.embedding
    assert all(ours is theirs for ours, theirs in zip(model.weights.frozen(), other.weights.frozen(), strict=True))


def test_averaged_model(model):
    """EMA and SWA keep a deep copy and write into its parameters."""
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    first = model.lora.parameters.clone()
    averaged.update_parameters(model)
    with torch.no_grad():
        model.adapter.mul_(3)
    averaged.update_parameters(model)
    torch.testing.assert_close(averaged.module.lora.parameters, 2 * first)
    with torch.no_grad():
        model.adapter.copy_(2 * first)
        torch.testing.assert_close(averaged(ROW).logits, model(ROW).logits)


def exchanged_data(model, values):
    model.adapter.data = values


def assigned_state(model, values):
    model.load_state_dict({"adapter": values}, assign=True)


def copied_state(model, values):
    model.load_state_dict({"adapter": values})


@pytest.mark.parametrize("exchange", [exchanged_data, assigned_state, copied_state])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_exchanged_parameter_is_what_computes(checkpoint, cache, fill_adapter, exchange, dtype, tmp_path):
    model, other = load(checkpoint, cache, dtype), load(checkpoint, cache, dtype)
    fill_adapter(other)
    exchange(model, other.lora.parameters.clone())
    assert torch.equal(model.logprobs(IDS), other.logprobs(IDS))
    for each in (model, other):
        each.loss_and_gradients(BATCH)
        FlatAdamW(each.lora).step(learning_rate=1e-2)
    assert torch.equal(model.adapter, other.adapter) and torch.equal(model.logprobs(IDS), other.logprobs(IDS))
    optimizers = [torch.optim.SGD(each.parameters(), lr=0.5) for each in (model, other)]
    for each, optimizer in zip((model, other), optimizers):
        gradient(each)
        optimizer.step()
    for each in (model, other):
        each.loss_and_gradients(BATCH)
    assert torch.equal(model.lora.gradients, other.lora.gradients)
    exchange(model, 2 * other.lora.parameters)
    model.save_pretrained(tmp_path / "adapter")
    other.load_adapter(tmp_path / "adapter")
    assert torch.equal(other.lora.parameters, model.adapter)


def test_a_parameter_that_does_not_fit_is_refused(model):
    for wrong in (torch.zeros(7), model.lora.parameters.bfloat16()):
        fitting = model.lora.parameters.clone()
        model.adapter = torch.nn.Parameter(wrong)
        with pytest.raises(ModelError, match=r"^adapter: has been replaced"):
            model.logprobs(IDS)
        model.adapter = torch.nn.Parameter(fitting)
        model.logprobs(IDS)


def test_functional_call(model):
    """Other values for one call, with the gradient for them."""
    values = (2 * model.lora.parameters).requires_grad_()
    before = model.logprobs(IDS)
    functional_call(model, {"adapter": values}, (ROW,), {"labels": ROW}).loss.backward()
    assert torch.equal(model.logprobs(IDS), before)
    with torch.no_grad():
        model.adapter.mul_(2)
    assert torch.equal(gradient(model), values.grad)


def test_an_optimizer_of_torchs_with_the_own_loop(checkpoint, cache):
    """It writes fp32 parameters alone; the next step reads their 16-bit copy."""
    model = load(checkpoint, cache, torch.bfloat16)
    losses = []
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(4):
        losses.append(model.loss_and_gradients(BATCH).mean)
        model.adapter.grad = model.lora.gradients.clone()
        model.lora.gradients.zero_()
        optimizer.step()
    assert losses[-1] < losses[1] < losses[0]


def test_trainer_brings_the_best_checkpoint_back(model, tmp_path):
    """The last of three, or an earlier one: what was measured as the best is what computes afterwards."""
    rows = [{"input_ids": IDS, "labels": IDS}] * 3
    args = TrainingArguments(
        output_dir=str(tmp_path), max_steps=3, per_device_train_batch_size=1, learning_rate=0.5, eval_strategy="steps",
        eval_steps=1, save_steps=1, load_best_model_at_end=True, report_to="none", use_cpu=True, disable_tqdm=True,
        lr_scheduler_type="constant", optim="sgd",
    )  # fmt: skip
    trainer = Trainer(model=model, args=args, train_dataset=rows, eval_dataset=rows[:1])
    trainer.train()
    measured = [row["eval_loss"] for row in trainer.state.log_history if "eval_loss" in row]
    assert len(set(measured)) == 3
    with torch.no_grad():
        assert float(model(ROW, labels=ROW).loss) == pytest.approx(min(measured), rel=1e-6)
    assert -float(model.logprobs(IDS).mean()) == pytest.approx(min(measured), rel=1e-5)
