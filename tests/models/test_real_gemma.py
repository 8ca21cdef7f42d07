"""The engine on pretrained weights, against transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from agentloop.engine import FastLanguageModel
from agentloop.settings import load

pytestmark = pytest.mark.real
TEXTS = [
    "The river had frozen before anyone in the village remembered to bring in the boats. For three days the children "
    "walked across it to school, and on the fourth the ice began to sing. Their grandfather said that it sang every "
    "year, shortly before it broke.",
    "SELECT c.name, COUNT(o.id) AS orders FROM customers c JOIN orders o ON o.customer_id = c.id "
    "WHERE o.created_at >= '2024-01-01' GROUP BY c.name ORDER BY orders DESC LIMIT 10;",
]


@pytest.fixture(scope="module")
def directory() -> Path:
    directory = load().paths.models / "gemma-3-270m"
    if not directory.is_dir():
        pytest.skip(f"{directory} is not there: agentloop fetch gemma-3-270m")
    return directory


@pytest.fixture(scope="module")
def engine(directory, tmp_path_factory):
    model, tokenizer = FastLanguageModel.from_pretrained(
        directory,
        load_in_4bit=False,
        dtype=torch.float32,
        device="cpu",
        cache_directory=tmp_path_factory.mktemp("cache"),
    )
    return FastLanguageModel.get_peft_model(model, r=8), tokenizer


@pytest.fixture(scope="module")
def other(directory):
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


@pytest.mark.parametrize("text", TEXTS)
def test_loss(engine, other, text):
    model, tokenizer = engine
    ids = torch.tensor([tokenizer(text).input_ids])
    with torch.no_grad():
        expected = other(input_ids=ids, labels=ids).loss.item()
    assert model(input_ids=ids, labels=ids).loss.item() == pytest.approx(expected, rel=1e-5)


def test_without_bos_it_is_much_worse(engine, other):
    _, tokenizer = engine
    ids = torch.tensor([tokenizer(TEXTS[0]).input_ids])
    assert ids[0, 0] == tokenizer.bos_token_id
    with torch.no_grad():
        whole = other(input_ids=ids, labels=ids.clone().index_fill_(1, torch.tensor([0, 1]), -100)).loss
        without = other(input_ids=ids[:, 1:], labels=ids[:, 1:].clone().index_fill_(1, torch.tensor([0]), -100)).loss
    assert without > whole + 0.5
