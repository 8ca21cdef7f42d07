"""Batches as trainers and people make them: without a label, with masks and positions of their own, with wrong ids."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import Trainer, TrainingArguments
from trl import SFTConfig, SFTTrainer

from agentloop.engine import FastLanguageModel
from agentloop.engine.batch import IGNORED, PackedBatch, join
from agentloop.errors import SettingError

IDS = [3, 50, 7, 8, 90, 12, 44, 5]
ROW = torch.tensor([IDS])


@pytest.fixture
def model(trainable):
    return trainable


@pytest.fixture(scope="module")
def loaded(checkpoint, cache):
    """In fp32, with its tokenizer."""
    return FastLanguageModel.from_pretrained(checkpoint, cache_directory=cache)


@pytest.fixture
def small(loaded, fill_adapter):
    model, _ = loaded
    FastLanguageModel.get_peft_model(model.unload(), r=8, lora_alpha=16)
    fill_adapter(model)
    return model


def one_line(error) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


# no label

NONE = {
    "all ignored": {"input_ids": ROW, "labels": torch.full_like(ROW, IGNORED)},
    "one token": {"input_ids": ROW[:, :1], "labels": ROW[:, :1]},
    "only the first": {"input_ids": ROW, "labels": ROW.masked_fill(torch.arange(8) > 0, IGNORED)},
    "all padding": {"input_ids": ROW, "labels": ROW, "attention_mask": torch.zeros_like(ROW)},
    "two rows": {"input_ids": ROW.repeat(2, 1), "labels": torch.full((2, 8), IGNORED)},
    "no row": {"input_ids": ROW[:0], "labels": ROW[:0]},
}


@pytest.mark.parametrize("inputs", NONE.values(), ids=NONE)
def test_a_batch_without_labels_gives_nothing(model, inputs):
    """PEFT: a loss and gradients of zero."""
    for options in ({}, {"num_items_in_batch": torch.tensor(5)}, {"num_items_in_batch": 0}):
        model.adapter.grad = None
        output = model(**inputs, **options)
        output.loss.backward()
        assert output.loss == 0 and not model.adapter.grad.any()
        with torch.no_grad():
            again = model(**inputs, **options)
        for name in ("log_probs", "entropy", "is_top1", "label_mask"):
            assert (
                output[name].shape == again[name].shape == (len(inputs["input_ids"]), inputs["input_ids"].shape[1] - 1)
            )
            assert output[name].dtype == again[name].dtype and not output[name].any() and not again[name].any()


def test_accumulated_with_one_that_has_labels(model):
    model(ROW, labels=ROW).loss.backward()
    expected = model.adapter.grad.clone()
    for inputs in NONE.values():
        model(**inputs).loss.backward()
    assert torch.equal(model.adapter.grad, expected)


def test_logits_of_nothing(model):
    model.eval()
    assert model(ROW[:0]).logits.shape == (0, 8, model.shape.vocab)
    assert not model(ROW, attention_mask=torch.zeros_like(ROW)).logits.any()
    assert model.logprobs([7]).shape == (0,)
    empty = PackedBatch(ROW[0], torch.full((8,), IGNORED), torch.arange(8), torch.tensor([0, 8], dtype=torch.int32), 8)
    assert model.hidden(empty).shape == (0, 128) and model.logits(empty).shape == (0, model.shape.vocab)
    assert model.loss_and_gradients(empty).mean == 0 and not model.lora.gradients.any()


@pytest.mark.parametrize("strategy", ["bfd", "wrapped"])
def test_trl_packs_prompts_that_fill_a_row(loaded, small, tmp_path, strategy):
    """Packed rows then hold prompts alone."""
    _, tokenizer = loaded
    rows = [{"prompt": "How many apples are left? " * 9, "completion": " 7"}, {"prompt": "Compute", "completion": " 3"}]
    args = SFTConfig(
        output_dir=str(tmp_path), max_length=32, packing=True, packing_strategy=strategy, completion_only_loss=True,
        per_device_train_batch_size=1, gradient_accumulation_steps=2, num_train_epochs=1, logging_steps=1,
        save_strategy="no", report_to="none", bf16=False, use_cpu=True, disable_tqdm=True, learning_rate=1e-2,
    )  # fmt: skip
    trainer = SFTTrainer(model=small, processing_class=tokenizer, train_dataset=Dataset.from_list(rows * 3), args=args)
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses and np.isfinite(losses).all() and max(losses) > 0


# ids

WRONG = [-1, -5, -101, 10**6, 2**40]


@pytest.mark.parametrize("wrong", [*WRONG, IGNORED])
def test_a_token_id_that_is_none(model, wrong):
    row = ROW.clone()
    row[0, 3] = wrong
    for call in (
        lambda: model(row, labels=ROW),
        lambda: model.eval()(row),
        lambda: model.generate(row, max_new_tokens=1),
        lambda: model.logprobs(row[0].tolist()),
        lambda: model.loss_and_gradients(join([(row[0].tolist(), [True] * 8)])),
    ):
        with pytest.raises(SettingError) as error:
            call()
        assert "token id" in one_line(error) and str(wrong) in str(error.value)
    assert not model.lora.gradients.any()


@pytest.mark.parametrize("wrong", WRONG)
def test_a_label_that_is_none(model, wrong):
    labels = ROW.clone()
    labels[0, 3] = wrong
    packed = join([(IDS, [True] * 8)])
    packed.labels[2] = wrong
    calls = (lambda: model(ROW, labels=labels), lambda: model.token_results(packed))
    for call in (*calls, lambda: model.loss_and_gradients(packed), lambda: model.results_and_gradients(packed, 1.0)):
        with pytest.raises(SettingError) as error:
            call()
        assert one_line(error).startswith("labels: ") and f"{wrong} is none" in str(error.value)
    assert not model.lora.gradients.any()


def test_the_first_and_the_last_token(model):
    last = model.shape.vocab - 1
    ids = torch.tensor([[0, last, 0, last]])
    assert torch.isfinite(model(ids, labels=ids).loss)
    with pytest.raises(SettingError, match=rf"{last + 1} is none of the model's {last + 1} tokens \(0 to {last}\)"):
        model(ids + 1, labels=ids)


@pytest.mark.parametrize(
    ("inputs", "named"),
    [
        ({"input_ids": ROW[0]}, "input_ids: has the shape [8]"),
        ({"input_ids": ROW.float()}, "input_ids: torch.float32"),
        ({"labels": ROW.repeat(2, 1)}, "labels: has the shape [2, 8], not [1, 8]"),
        ({"input_ids": ROW.repeat(2, 1), "labels": ROW}, "labels: has the shape [1, 8], not [2, 8]"),
        ({"labels": ROW[:, :-1]}, "labels: has the shape [1, 7]"),
        ({"labels": ROW.float()}, "labels: torch.float32"),
        ({"position_ids": torch.arange(7)}, "position_ids: has the shape [7]"),
        ({"position_ids": torch.arange(8).repeat(2, 1)}, "position_ids: has the shape [2, 8]"),
        ({"attention_mask": torch.ones(1, 1, 8, 8)}, "attention_mask: has the shape [1, 1, 8, 8]"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_inputs_of_another_shape_or_kind(model, inputs, named):
    with pytest.raises(SettingError) as error:
        model(**{"input_ids": ROW, "labels": ROW} | inputs)
    assert one_line(error).startswith(named)


# masks


@pytest.mark.parametrize("mask", [[1, 1, 0, 1, 1, 1, 1, 1], [0, 1, 1, 1, 0, 0, 1, 0], [1, 0, 1, 0, 1, 0, 1, 0]])
@pytest.mark.parametrize("positions", [None, "by index", "by mask"])
def test_a_hole_in_the_mask_is_refused(model, mask, positions):
    mask = torch.tensor([[1] * 8, mask])
    given = {None: None, "by index": torch.arange(8)[None], "by mask": mask.cumsum(-1) - 1}[positions]
    rows = ROW.repeat(2, 1)
    with pytest.raises(SettingError, match=r"^attention_mask: row 1 has a 0 behind token"):
        model(rows, attention_mask=mask, position_ids=given, labels=rows)


def test_padding_between_documents_is_no_hole(model):
    """Which positions that start again set apart."""
    mask = torch.tensor([[1, 1, 1, 0, 1, 1, 1, 0]])
    positions = torch.tensor([[0, 1, 2, 0, 0, 1, 2, 0]])
    output = model(ROW, attention_mask=mask, position_ids=positions, labels=ROW.masked_fill(positions == 0, IGNORED))
    apart = [model(ROW[:, part], labels=ROW[:, part]).log_probs for part in (slice(0, 3), slice(4, 7))]
    torch.testing.assert_close(output.log_probs[0, [0, 1, 4, 5]], torch.cat(apart, 1)[0])


# outputs


def test_an_output_is_a_tuple_too(model):
    output = model(ROW, labels=ROW)
    loss, log_probs, *_ = model(ROW, labels=ROW, return_dict=False)
    assert output[0] is output.loss is output["loss"] is output.to_tuple()[0] and len(output[:2]) == 2
    assert torch.equal(loss, output.loss) and torch.equal(log_probs, output.log_probs)
    output["loss"] = output.loss * 2
    assert output.loss == 2 * loss
    output.loss = loss
    assert output["loss"] is loss and list(output) == ["loss", "log_probs", "entropy", "is_top1", "label_mask"]
    model.eval()
    (logits,) = model(ROW, return_dict=False)
    assert torch.equal(logits, model(ROW)[0]) and torch.equal(logits, model(ROW, return_dict=True).logits)
    assert torch.equal(logits, model(ROW, logits_to_keep=0, use_cache=False).logits)
    with pytest.raises(SettingError, match="^logits_to_keep: "):
        model(ROW, logits_to_keep=1)
    with pytest.raises(KeyError):
        output["logits"]
    with pytest.raises(IndexError):
        output[5]


def test_logits_beside_a_loss(model):
    """They are there without a gradient, and are computed when they are looked at."""
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        expected = model.eval()(ROW).logits
        patch.setattr(type(model), "logits", lambda *_: pytest.fail("nobody asked for them"))
        output = model(ROW, labels=ROW)
        assert output.logits.shape == (1, 8, model.shape.vocab) and output.logits.dtype == expected.dtype
        untouched = model(ROW, labels=ROW)
    assert torch.equal(output.logits.argmax(-1), expected.argmax(-1))
    assert torch.equal(output.logits.detach(), expected) and type(output.logits.detach()) is torch.Tensor
    assert np.array_equal(untouched.logits.numpy(), expected.numpy())
    assert torch.equal(torch.cat([output.logits, expected]), expected.repeat(2, 1, 1))
    assert torch.equal(output.logits[0, -1], expected[0, -1]) and torch.equal(output.logits.mT, expected.mT)


def rows():
    texts = [IDS, IDS[::-1], IDS[:5]]
    return [{"input_ids": ids, "labels": [IGNORED, *ids[1:]]} for ids in texts]


@pytest.mark.parametrize("by", ["compute_metrics", "preprocess_logits_for_metrics", "predict"])
def test_transformers_trainer_receives_logits(small, tmp_path, by):
    seen = {}

    def compute(predictions):
        seen["logits"], seen["labels"] = predictions.predictions, predictions.label_ids
        return {"of": 1.0}

    def first(logits, labels):
        assert isinstance(logits, torch.Tensor)
        return logits.argmax(-1)

    args = TrainingArguments(
        output_dir=str(tmp_path), per_device_eval_batch_size=1, report_to="none", use_cpu=True, disable_tqdm=True
    )
    trainer = Trainer(
        model=small, args=args, eval_dataset=rows(), compute_metrics=None if by == "predict" else compute,
        preprocess_logits_for_metrics=first if by.startswith("preprocess") else None,
    )  # fmt: skip
    if by == "predict":
        found = trainer.predict(rows())
        seen["logits"], seen["labels"] = found.predictions, found.label_ids
    else:
        assert trainer.evaluate()["eval_of"] == 1.0
    small.eval()
    with torch.no_grad():
        expected = [small(torch.tensor([row["input_ids"]])).logits[0] for row in rows()]
    for logits, own in zip(seen["logits"], expected, strict=True):
        own = own.argmax(-1) if by.startswith("preprocess") else own
        np.testing.assert_allclose(logits[: len(own)], own.numpy(), atol=1e-6)
    assert seen["labels"].shape == (3, 8)


def test_a_trainer_that_wants_the_loss_alone(small, tmp_path, monkeypatch):
    args = TrainingArguments(output_dir=str(tmp_path), per_device_eval_batch_size=1, report_to="none", use_cpu=True)
    trainer = Trainer(model=small, args=args, eval_dataset=rows())
    monkeypatch.setattr(type(small), "logits", lambda *_: pytest.fail("nobody asked for them"))
    assert trainer.evaluate()["eval_loss"] > 0
