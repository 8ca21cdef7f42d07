"""The canary's yardstick: 16-bit rounding, against models that were loaded in each dtype."""

import random

import pytest
import torch
from safetensors.torch import load_file, save_file

from agentloop.engine import FastLanguageModel
from agentloop.engine.lora import projection
from agentloop.tiny.architecture import random_checkpoint
from agentloop.training import reference

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Weights that are bf16's, so that a model loaded in fp32 has the same."""
    directory = tmp_path_factory.mktemp("base")
    random_checkpoint(directory)
    tensors = {name: tensor.bfloat16().float() for name, tensor in load_file(directory / WEIGHTS).items()}
    save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})
    return directory


@pytest.mark.parametrize("rows", [64, 1 << 15])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rounding_is_that_of_a_model_loaded_in_16_bit(checkpoint, monkeypatch, dtype, rows):
    monkeypatch.setattr(reference, "_HEAD_ROWS", rows)
    # the head of a model that is loaded in 16 bit sums in another order than `product` where the processor lacks units
    monkeypatch.setattr(projection, "_cpu_multiplies", lambda _: True)
    draw = random.Random(0)
    sequences = [([2, *(draw.randrange(6, 200) for _ in range(length))], ()) for length in (0, 1, 60, 300)]
    models = {
        each: FastLanguageModel.from_pretrained(checkpoint, max_seq_length=512, dtype=each)[0]
        for each in (torch.float32, torch.bfloat16)
    }
    found = reference.measure_base(models[dtype], sequences)
    for prompt, (ids, _) in zip(found.prompts, sequences, strict=True):
        assert list(prompt.token_ids) == ids[: reference.MAX_TOKENS]
        exact, half = (models[each].logprobs(prompt.token_ids).double() for each in (torch.float32, torch.bfloat16))
        torch.testing.assert_close(torch.tensor(prompt.base).double(), exact if dtype == torch.float32 else half)
        torch.testing.assert_close(torch.tensor(prompt.rounding).double(), half - exact, atol=1e-5, rtol=0)
