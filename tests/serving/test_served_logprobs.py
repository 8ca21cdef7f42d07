"""What vLLM serves equals transformers and PEFT in fp32: base and adapters, prompts and generated tokens, alone and mixed."""

import asyncio
import shutil

import pytest
from conftest import BEYOND, PROJECTIONS, largest_gap, random_prompt, write_adapter
from safetensors.torch import load_file, save_file

TOLERANCE = 1e-3
WEIGHTS = "adapter_model.safetensors"


@pytest.mark.parametrize("length", [2, 63, 200, 500])
def test_base_prompts(ask, reference, length):
    ids = random_prompt(length, length)
    assert largest_gap(ask(lambda client: client.prompt_logprobs("base", ids)), reference(None, ids)) < TOLERANCE


def test_adapter_prompts(ask, reference, adapters):
    ids = random_prompt(1, 200)
    plain = reference(None, ids)
    for name, directory in adapters.items():
        expected = reference(directory, ids)
        assert largest_gap(expected, plain) > 100 * TOLERANCE, "an adapter without effect would prove nothing"
        assert largest_gap(ask(lambda client: client.prompt_logprobs(name, ids)), expected) < TOLERANCE


def test_modules_beyond_the_seven_projections(server, ask, reference, checkpoint, tmp_path):
    """LAuReL's and the per-layer embeddings' own, each of which must count."""
    ids = random_prompt(2, 60)
    every = rf".*layers\.\d+\..*\b({'|'.join([*PROJECTIONS, *BEYOND])})"
    directory = write_adapter(tmp_path / "wide", checkpoint, seed=61, targets=every, deviation=0.06)
    expected = reference(directory, ids)
    for module in BEYOND:
        without = shutil.copytree(directory, tmp_path / module)
        tensors = load_file(without / WEIGHTS)
        save_file({n: t * (0 if f"{module}.lora_B" in n else 1) for n, t in tensors.items()}, without / WEIGHTS)
        assert largest_gap(reference(without, ids), expected) > 10 * TOLERANCE, module
    server.load_adapter("adapter_wide", directory)
    assert largest_gap(ask(lambda client: client.prompt_logprobs("adapter_wide", ids)), expected) < TOLERANCE


def test_generated_tokens_of_base_and_adapters_in_one_batch(ask, reference, adapters):
    """Tokens without an adapter stay without one beside others, and every adapter gets its own tokens."""
    names = {"base": None, **adapters}
    jobs = [
        (name, random_prompt(10 * number + index, 20 + 7 * index))
        for index in range(4)
        for number, name in enumerate(names)
    ]

    async def question(client):
        return await asyncio.gather(
            *(client.complete(name, ids, max_tokens=40, seed=index) for index, (name, ids) in enumerate(jobs))
        )

    for (name, ids), completion in zip(jobs, ask(question), strict=True):
        expected = reference(names[name], [*ids, *completion.token_ids])[len(ids) - 1 :]
        assert largest_gap(completion.logprobs, expected) < TOLERANCE, name


def test_logprobs_are_raw_and_stop_tokens_are_included(ask, reference):
    ids = random_prompt(5, 30)

    async def question(client):
        free = await client.complete("base", ids, max_tokens=20, temperature=0.7, top_p=0.9, seed=3)
        # The third produced token as a stop token: the same draws end there.
        stopped = await client.complete(
            "base", ids, max_tokens=20, temperature=0.7, top_p=0.9, seed=3, stop_token_ids=[free.token_ids[2]]
        )
        return free, stopped

    free, stopped = ask(question)
    assert largest_gap(free.logprobs, reference(None, [*ids, *free.token_ids])[len(ids) - 1 :]) < TOLERANCE
    first = free.token_ids.index(free.token_ids[2])
    assert stopped.token_ids == free.token_ids[: first + 1]
    assert stopped.finish_reason == "stop"
    assert len(stopped.logprobs) == len(stopped.token_ids)


def test_same_seed_same_tokens(ask, adapters):
    ids = random_prompt(6, 30)

    async def question(client):
        return await asyncio.gather(
            *(client.complete("adapter_0", ids, max_tokens=30, seed=seed) for seed in (1, 1, 2))
        )

    first, again, other = ask(question)
    assert first.token_ids == again.token_ids
    assert first.token_ids != other.token_ids
