"""The pretrained model, taught a little: GGUF, training, GGUF, and llama.cpp answers as transformers does."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from agentloop.engine import FastLanguageModel
from agentloop.engine.batch import join
from agentloop.engine.optimizer import FlatAdamW
from agentloop.exports import llama, prompts
from agentloop.gguf.exporting import write_gguf
from agentloop.gguf.importing import imported

pytestmark = [pytest.mark.real, pytest.mark.slow]
LESSON = (
    "The river had frozen, and the ice sang: seven apples, said the miller, and twelve pears for the ferryman's dog."
)
MOST_STEPS = 30


@pytest.fixture(scope="module")
def taught(gemma, tmp_path_factory):
    """From a GGUF of the pretrained model, with an adapter that has learnt one sentence."""
    folder = tmp_path_factory.mktemp("taught")
    write_gguf(gemma, folder / "base.gguf", "bf16")
    directory = imported(folder / "base.gguf", folder / "models", cache=folder / "cache")
    (folder / "base.gguf").unlink()
    model, tokenizer = FastLanguageModel.from_pretrained(
        directory, load_in_4bit=False, device="cpu", cache_directory=folder / "cache"
    )
    model = FastLanguageModel.get_peft_model(model, r=8, use_rslora=True)
    ids = tokenizer(LESSON).input_ids
    batch, optimizer = join([(ids, [False] + [True] * (len(ids) - 1))]), FlatAdamW(model.lora)
    losses = [float("inf")]
    # no further: a model that knows one sentence and nothing else is one that 4 bits do not hold
    while len(losses) < MOST_STEPS and (len(losses) < 2 or losses[-1] > losses[1] / 2):
        losses.append(model.loss_and_gradients(batch, weight=1 / len(ids)).mean)
        optimizer.step(learning_rate=1e-4, max_grad_norm=1.0)
    assert losses[-1] < losses[1] / 2
    return model, tokenizer


def test_round_trip_with_the_same_greedy_answers(taught, tmp_path):
    if reason := llama.missing():
        pytest.skip(reason)
    model, tokenizer = taught
    figures = model.save_pretrained_gguf(tmp_path / "gguf", quantization_method=["f16", "q8_0", "q4_k_m"])
    for each in figures:
        assert each.program == "llama.cpp" and each.effect > 0.05 and each.mean < each.bound, str(each)
    model.save_pretrained_merged(tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    asked = [tokenizer(text).input_ids for text in (LESSON[:24], "SELECT name FROM", "The capital of France is")]
    (file,) = (tmp_path / "gguf").glob("*-f16.gguf")
    answers = llama.ask(file, prompts=asked, new_tokens=16).greedy
    for ids, answer in zip(asked, answers, strict=True):
        with torch.no_grad():
            expected = merged.generate(torch.tensor([ids]), max_new_tokens=16, do_sample=False)[0, len(ids) :].tolist()
        assert answer == expected[: len(answer)] and len(answer) > 3
    again = imported(file, tmp_path / "models", cache=tmp_path / "cache")
    assert json.loads((again / "config.json").read_text())["num_hidden_layers"] == 18


def test_the_adapter_alone(taught, tmp_path):
    if reason := llama.missing():
        pytest.skip(reason)
    model, tokenizer = taught
    (figures,) = model.save_pretrained_gguf(tmp_path / "gguf", quantization_method="bf16", save_method="lora")
    assert 0.9 < figures.share < 1.1
    assert len(prompts.prompts(tokenizer).texts) == 5
