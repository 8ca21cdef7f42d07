"""TRL's SFTTrainer on the engine's model, beside the same trainer on transformers and PEFT."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import Gemma3nForCausalLM
from trl import SFTConfig, SFTTrainer

from agentloop.engine import FastLanguageModel
from agentloop.engine.lora.buffer import TARGETS
from agentloop.engine.lora.projection import write_weight
from agentloop.environments.arithmetic import Arithmetic
from agentloop.errors import ModelError

LOGGED = ("loss", "grad_norm", "entropy", "mean_token_accuracy", "num_tokens")


@pytest.fixture
def model(checkpoint, cache):
    loaded, _ = FastLanguageModel.from_pretrained(checkpoint, cache_directory=cache)
    return FastLanguageModel.get_peft_model(loaded, r=8, lora_alpha=16)


@pytest.fixture
def tokenizer(checkpoint, cache):
    return FastLanguageModel.from_pretrained(checkpoint, cache_directory=cache)[1]


@pytest.fixture(scope="module")
def texts() -> Dataset:
    """Word problems of different lengths; each is prompt and completion."""
    tasks = Arithmetic().tasks("train", 10, seed=0)
    return Dataset.from_list(
        [
            {"prompt": task.question * (1 + i % 2), "completion": f" Answer: {task.answer}"}
            for i, task in enumerate(tasks)
        ]
    )


def arguments(tmp_path, **changes) -> SFTConfig:
    settings = dict(
        output_dir=str(tmp_path / "out"),
        max_length=160,
        packing=True,
        completion_only_loss=False,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=2,
        max_steps=2,
        learning_rate=1e-2,
        logging_steps=1,
        save_strategy="no",
        report_to="tensorboard",
        bf16=False,
        use_cpu=True,
        disable_tqdm=True,
    )
    return SFTConfig(**settings | changes)


def train(model, tokenizer, texts, args, **options) -> list[dict[str, float]]:
    """What was logged at each step."""
    trainer = SFTTrainer(model=model, processing_class=tokenizer, train_dataset=texts, args=args)
    trainer.train(**options)
    return [{name: row[name] for name in LOGGED} for row in trainer.state.log_history if "loss" in row]


@dataclass
class Peer:
    """transformers in fp32 on the dequantised weights, with PEFT."""

    base: Gemma3nForCausalLM

    def adapted(self, model) -> torch.nn.Module:
        """With the adapter that `model` has now."""
        targets = rf".*\.({'|'.join(TARGETS)})"
        peft = get_peft_model(self.base, LoraConfig(r=8, lora_alpha=16, target_modules=targets))
        views = model.lora.named()
        for name, parameter in peft.named_parameters():
            if "lora_" in name:
                parameter.data = views[name[name.index("layers.") :].replace(".default", "")].clone()
        return peft


@pytest.fixture
def peer(checkpoint, model) -> Peer:
    base = Gemma3nForCausalLM.from_pretrained(checkpoint, dtype=torch.float32, attn_implementation="eager")
    modules = dict(base.model.named_modules())
    for layer in model.weights.layers:
        for group in layer.groups:
            for name, weight in group.parts:
                write_weight(weight, modules[name].weight.data)
    return Peer(base)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"packing": False, "per_device_train_batch_size": 3, "completion_only_loss": True, "max_steps": 1},
        {"loss_type": "dft", "max_steps": 1},
    ],
    ids=["packed", "padded", "dft"],
)
def test_trains_as_peft_does(model, peer, tokenizer, texts, tmp_path, changes):
    other = peer.adapted(model)
    theirs = train(other, tokenizer, texts, arguments(tmp_path, gradient_checkpointing=False, **changes))
    ours = train(model, tokenizer, texts, arguments(tmp_path, **changes))
    assert len(ours) == changes.get("max_steps", 2)
    for row, expected in zip(ours, theirs, strict=True):
        assert row == pytest.approx(expected, rel=1e-3)
    assert list(tmp_path.rglob("events.out.tfevents*"))

    model.save_pretrained(tmp_path / "adapter")
    ids = torch.tensor([[3, 50, 7, 8, 90, 12, 44, 5]])
    loaded = PeftModel.from_pretrained(other.unload(), tmp_path / "adapter").eval()
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, loaded(input_ids=ids).logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("optim", ["adamw_8bit", "paged_adamw_8bit"])
def test_8_bit_optimizers(model, tokenizer, texts, tmp_path, optim):
    """bitsandbytes' own, on the CPU as on CUDA. bf16 is TRL's default and must not reach the engine."""
    args = arguments(tmp_path, optim=optim, bf16=True, max_steps=3)
    trainer = SFTTrainer(model=model, processing_class=tokenizer, train_dataset=texts, args=args)
    trainer.train()
    state = trainer.optimizer.state[model.adapter]
    assert state["state1"].dtype == torch.uint8
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses[-1] < losses[0]


def test_resumes_and_evaluates(model, tokenizer, texts, tmp_path):
    args = arguments(tmp_path, save_strategy="steps", save_steps=1)
    whole = train(model, tokenizer, texts, args)
    expected = model.lora.parameters.clone()
    fresh = FastLanguageModel.get_peft_model(model.unload(), r=8, lora_alpha=16)
    trainer = SFTTrainer(
        model=fresh, processing_class=tokenizer, train_dataset=texts, eval_dataset=texts.select(range(4)), args=args
    )
    trainer.train(resume_from_checkpoint=f"{tmp_path}/out/checkpoint-1")
    torch.testing.assert_close(fresh.lora.parameters, expected, rtol=0, atol=1e-6)
    trainer.save_model(tmp_path / "saved")
    with pytest.raises(ModelError, match=r"model\.save_pretrained"):
        FastLanguageModel.from_pretrained(tmp_path / "saved")
    measured = trainer.evaluate()
    assert measured["eval_loss"] == pytest.approx(whole[-1]["loss"], rel=0.2)
    assert measured["eval_entropy"] > 0


def test_same_gradients_as_the_own_loop(model, tokenizer, texts, fill_adapter):
    """Rows padded left and right, or laid end to end with positions that start again: one packed batch for the engine."""
    from agentloop.engine.batch import join

    fill_adapter(model)
    rows = [tokenizer(row["prompt"]).input_ids for row in texts.select(range(3))]
    model.loss_and_gradients(join([(ids, [True] * len(ids)) for ids in rows]))
    expected = model.lora.gradients.clone()
    model.lora.gradients.zero_()

    width = max(map(len, rows))
    padded = torch.zeros(3, width, dtype=torch.int64)
    mask = torch.zeros(3, width, dtype=torch.int64)
    for i, ids in enumerate(rows):
        place = slice(width - len(ids), width) if i == 1 else slice(len(ids))
        padded[i, place], mask[i, place] = torch.tensor(ids), 1
    labels = padded.masked_fill(mask == 0, -100)
    flat = torch.tensor([sum(rows, [])])
    positions = torch.tensor([[i for ids in rows for i in range(len(ids))]])
    end_to_end = dict(input_ids=flat, position_ids=positions, labels=flat.masked_fill(positions == 0, -100))
    for inputs in (dict(input_ids=padded, attention_mask=mask, labels=labels), end_to_end):
        model.adapter.grad = None
        output = model(**inputs)
        assert output.label_mask.sum() == sum(map(len, rows)) - 3
        (4 * output.loss).backward()
        torch.testing.assert_close(model.adapter.grad, 4 * expected, rtol=1e-4, atol=1e-6)
        with torch.no_grad():
            torch.testing.assert_close(model(**inputs).log_probs, output.log_probs.detach(), rtol=0, atol=1e-5)


def test_generates_as_transformers_does(model, peer, tokenizer, fill_adapter):
    fill_adapter(model)
    FastLanguageModel.for_inference(model)
    inputs = tokenizer(["How many apples are left?", "Compute"], return_tensors="pt", padding=True, padding_side="left")
    options = dict(max_new_tokens=6, do_sample=False, use_cache=True)
    theirs = peer.adapted(model).eval().generate(**inputs, **options)
    assert torch.equal(model.generate(**inputs, **options), theirs)
    torch.manual_seed(0)
    sampled = model.generate(**inputs, max_new_tokens=6, do_sample=True, temperature=0.5, top_k=1, top_p=0.9)
    assert torch.equal(sampled, theirs)  # of one candidate
