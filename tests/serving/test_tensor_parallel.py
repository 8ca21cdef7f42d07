"""Two ranks serve what one serves: sharded projections, adapters on all of them, sparsity over rows that no rank has whole."""

import asyncio

import pytest
from conftest import BEYOND, PROJECTIONS, largest_gap, random_prompt, serving_settings, write_adapter

from agentloop.serving.client import CompletionClient
from agentloop.serving.command import LORA_TARGETS
from agentloop.serving.server import ModelServer


@pytest.mark.slow
def test_two_ranks(checkpoint, reference, tmp_path):
    words = ("--tensor-parallel-size", "2", "--distributed-executor-backend", "mp")
    words += ("--lora-target-modules", *LORA_TARGETS, *BEYOND)
    settings = serving_settings(tmp_path, extra_arguments=words)
    every = rf".*layers\.\d+\..*\b({'|'.join([*PROJECTIONS, *BEYOND])})"
    directory = write_adapter(tmp_path / "wide", checkpoint, seed=81, targets=every)
    ids = random_prompt(81, 150)

    async def served(server: ModelServer) -> list[list[float]]:
        async with CompletionClient([server.endpoint], settings.serving) as client:
            return [await client.prompt_logprobs(name, ids) for name in ("base", "adapter_wide")]

    with ModelServer(settings, checkpoint) as server:
        server.load_adapter("adapter_wide", directory)
        for found, adapter in zip(asyncio.run(served(server)), (None, directory), strict=True):
            assert largest_gap(found, reference(adapter, ids)) < 1e-3
