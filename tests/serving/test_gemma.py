"""Gemma 1, 2 and 3, vLLM's own classes: served as transformers with PEFT computes it and as the engine does, and never in part."""

import asyncio

import pytest
import torch
from conftest import Reference, largest_gap, random_prompt, serving_settings
from safetensors.torch import load_file, save_file

from agentloop import canary_reference
from agentloop.campaign.canary import inspect
from agentloop.engine import FastLanguageModel
from agentloop.errors import AdapterError
from agentloop.serving.server import ModelServer
from agentloop.tiny.gemma import random_gemma_checkpoint
from agentloop.training import reference as trainer

TOLERANCE = 1e-3
ADAPTER = "adapter_of_the_engine"
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(
    scope="module",
    params=[pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow), 3],
    ids="gemma{}".format,
)
def checkpoint(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("gemma") / "tiny"
    random_gemma_checkpoint(directory, request.param)
    return directory


@pytest.fixture(scope="module")
def reference(checkpoint):
    return Reference(checkpoint)


@pytest.fixture(scope="module")
def trained(checkpoint, tmp_path_factory):
    """An adapter on all seven projections, random in B too, as the engine writes it, and the canary's yardstick beside it."""
    model, _ = FastLanguageModel.from_pretrained(
        checkpoint,
        max_seq_length=64,
        dtype=torch.float32,
        load_in_4bit=False,
        cache_directory=checkpoint.parent / "cache",
    )
    base = trainer.measure_base(model, [(random_prompt(seed, 60), ()) for seed in (31, 32, 33)])
    FastLanguageModel.get_peft_model(model, r=16, lora_alpha=32)
    model.lora.parameters.normal_(0, 0.05, generator=torch.Generator().manual_seed(0))
    model.lora.refresh()
    directory = tmp_path_factory.mktemp("adapters") / ADAPTER
    model.save_pretrained(directory)
    trainer.write(directory, model, base)
    return directory


@pytest.fixture(scope="module")
def server(checkpoint, trained, tmp_path_factory):
    with ModelServer(serving_settings(tmp_path_factory.mktemp("serving")), checkpoint) as started:
        started.load_adapter(ADAPTER, trained)
        yield started


@pytest.mark.parametrize("length", [2, 63, 500])
def test_prompts(ask, reference, trained, length):
    ids = random_prompt(length, length)
    plain, adapted = reference(None, ids), reference(trained, ids)
    assert largest_gap(adapted, plain) > 100 * TOLERANCE, "an adapter without effect would prove nothing"
    assert largest_gap(ask(lambda client: client.prompt_logprobs("base", ids)), plain) < TOLERANCE
    assert largest_gap(ask(lambda client: client.prompt_logprobs(ADAPTER, ids)), adapted) < TOLERANCE


def test_generated_tokens_of_base_and_adapter_in_one_batch(ask, reference, trained):
    """Long enough to slide: what is generated goes beyond the window of 64."""
    jobs = [(name, random_prompt(index, 20 + 15 * index)) for index in range(3) for name in ("base", ADAPTER)]

    async def question(client):
        return await asyncio.gather(
            *(client.complete(name, ids, max_tokens=60, seed=index) for index, (name, ids) in enumerate(jobs))
        )

    for (name, ids), completion in zip(jobs, ask(question), strict=True):
        adapter = None if name == "base" else trained
        expected = reference(adapter, [*ids, *completion.token_ids])[len(ids) - 1 :]
        assert largest_gap(completion.logprobs, expected) < TOLERANCE, name


def test_the_canary_finds_nothing(server, trained):
    stored = canary_reference.read(trained)
    report = inspect(server.endpoint, server.settings.serving, stored, base="base", adapter=ADAPTER, others=())
    assert report.passed and report.base_max < TOLERANCE and report.share == pytest.approx(1, abs=0.01)


def test_an_adapter_that_would_be_served_in_part_is_refused(server, trained, copied):
    tensors = load_file(trained / WEIGHTS)
    deep, small = copied(trained, "deep"), copied(trained, "small")
    save_file({name.replace("layers.3.", "layers.9."): tensor for name, tensor in tensors.items()}, deep / WEIGHTS)
    with pytest.raises(AdapterError, match=r"7 of 28 modules would be dropped: model\.layers\.9\.mlp\.down_proj"):
        server.load_adapter("adapter_deep", deep)
    narrow = {
        name: tensor[:, :100].contiguous() for name, tensor in tensors.items() if name.endswith("o_proj.lora_A.weight")
    }
    save_file(tensors | narrow, small / WEIGHTS)
    with pytest.raises(AdapterError, match=r"o_proj maps 100 to 128, the base 256 to 128"):
        server.load_adapter("adapter_small", small)
