"""Taking turns with the trainer: what sleep is, where it cannot be had, and what happens when something is wrong after it."""

import asyncio
import json
import shutil
import socket
from contextlib import nullcontext
from pathlib import Path

import httpx
import pytest
import torch
from conftest import (
    gone,
    largest_gap,
    processes_of,
    proof,
    random_prompt,
    running_requests,
    serving_settings,
    write_adapter,
)
from safetensors.torch import load_file, save_file

from agentloop import card
from agentloop import settings as configuration
from agentloop.campaign import canary
from agentloop.campaign.campaign import Campaign
from agentloop.campaign.prepare import policies
from agentloop.engine import FastLanguageModel
from agentloop.errors import CanaryError, SettingError
from agentloop.records import NONE
from agentloop.serving import installation
from agentloop.serving.command import arguments, graph_sizes
from agentloop.serving.policy_server import PolicyServer
from agentloop.training import reference as trainer
from agentloop.training.run import TrainingRun

WEIGHTS = "adapter_model.safetensors"


def test_requests_wait_while_the_server_sleeps(server, ask, adapters, reference):
    ids = random_prompt(70, 40)

    def sleeping() -> bool:
        return httpx.get(f"{server.url}/is_sleeping", headers=proof(server)).json()["is_sleeping"]

    async def question(client):
        running = asyncio.create_task(client.complete("adapter_1", ids, max_tokens=60, seed=1))
        while not running.done() and await running_requests(server) == 0:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(server.sleep)
        try:
            assert sleeping()
            finished = await running  # mode=wait finishes what runs: nobody has woken the server yet
            waiting = asyncio.create_task(client.complete("adapter_1", ids, max_tokens=10, seed=2))
            await asyncio.sleep(0.5)
            assert not waiting.done()
        finally:
            await asyncio.to_thread(server.wake)
        assert not sleeping()
        return finished, await waiting

    for completion in ask(question):
        expected = reference(adapters["adapter_1"], [*ids, *completion.token_ids])[len(ids) - 1 :]
        assert largest_gap(completion.logprobs, expected) < 1e-3


def test_sleep_without_a_gpu_is_one_line(checkpoint, tmp_path):
    settings = serving_settings(tmp_path, policy="sleep").model_copy(update={"model": str(checkpoint)})
    campaign = Campaign.open(settings)
    with nullcontext() if card.present() else pytest.raises(SettingError, match="serving.policy: sleep needs a GPU"):
        with policies(campaign):
            pass


def installed(root: Path, version: str, *, on_cpu: bool) -> installation.Installation:
    return installation.Installation(root, version, on_cpu, prefix=root, torch=root, headers=root, name="python3.11")


@pytest.mark.parametrize("policy", ["restart", "sleep"])
def test_what_vllm_is_told_for_each_policy(policy, tmp_path):
    settings = serving_settings(tmp_path, policy=policy)
    options = {"model": tmp_path, "port": 1, "max_lora_rank": 16, "max_loras": 1}
    cuda = installed(tmp_path, "0.26.0", on_cpu=False)
    words = arguments(settings, cuda, **options)
    assert ("--enable-sleep-mode" in words) == (policy == "sleep")
    assert "--language-model-only" in words
    cpu = installed(tmp_path, "0.32.0", on_cpu=True)
    with (
        pytest.raises(SettingError, match="serving.policy: vLLM cannot sleep on the CPU")
        if policy == "sleep"
        else nullcontext()
    ):
        assert "--enable-sleep-mode" not in arguments(settings, cpu, **options)


@pytest.mark.parametrize(("version", "by_request"), [("0.26.0", False), ("0.29.0+cu129", False), ("0.30.0", True)])
def test_the_endpoint_for_tokens_is_asked_for_where_vllm_wants_that(version, by_request, tmp_path):
    asked = installed(tmp_path, version, on_cpu=True)
    words = arguments(serving_settings(tmp_path), asked, model=tmp_path, port=1, max_lora_rank=16, max_loras=1)
    assert ("--enable-scale-out" in words) == by_request


def test_graphs_are_recorded_for_steps_that_decode_and_for_those_that_read_prompts_too():
    for sequences in (1, 3, 8, 100, 128, 256, 1500):
        sizes = graph_sizes(sequences)
        last = max(sequences, 1024)
        assert sequences in sizes and sizes[-1] == last and list(sizes) == sorted(set(sizes))
        padded = {count: min(size for size in sizes if size >= count) for count in range(1, last + 1)}
        assert all(size <= 2 * count for count, size in padded.items())


def with_unused_weights(checkpoint: Path, directory: Path) -> Path:
    """The checkpoint with what transformers 4 saved, keys, values and key norms of layers that never use them, and a head."""
    shutil.copytree(checkpoint, directory)
    tensors = load_file(directory / "model.safetensors")
    # Some tools write the tied head out as well, and say so.
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    for layer in (3, 4):
        for name in ("k_proj", "v_proj", "k_norm"):
            assert f"model.layers.{layer}.self_attn.{name}.weight" not in tensors
            tensors[f"model.layers.{layer}.self_attn.{name}.weight"] = (
                tensors[f"model.layers.2.self_attn.{name}.weight"] + 1
            )
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


@pytest.fixture
def campaign(checkpoint, tmp_path) -> Campaign:
    """On a checkpoint with weights that nobody uses, which must be served the same."""
    return Campaign.open(
        configuration.load(
            {
                "model": str(with_unused_weights(checkpoint, tmp_path / "tiny")),
                "paths": {"data": str(tmp_path / "data"), "cache": str(tmp_path / "cache")},
                "agent": {"max_tokens": 256},
                "serving": {"dtype": "float32", "max_model_len": 256},
                "training": {"quantization": "none"},
            }
        )
    )


@pytest.fixture
def run(campaign) -> TrainingRun:
    """A finished training run: a random adapter with the trainer's own log probabilities."""
    settings = campaign.settings
    planned = TrainingRun.plan(
        base=campaign.base,
        dataset="data_0",
        rows=settings.paths.data / "rows",
        model=campaign.model,
        training=settings.training,
        quantization=NONE,
        seed=0,
        paths=settings.paths,
    )
    model, _ = FastLanguageModel.from_pretrained(
        campaign.model, max_seq_length=64, load_in_4bit=False, cache_directory=settings.paths.cache
    )
    base = trainer.measure_base(model, [(random_prompt(71, 50), ())])
    FastLanguageModel.get_peft_model(model, r=16, lora_alpha=32)
    model.load_adapter(write_adapter(planned.output, campaign.model, seed=71))
    trainer.write(planned.output, model, base)
    return planned


def group_of(server: PolicyServer) -> int:
    return server._server.servers[0]._child.pid


@pytest.mark.slow
def test_a_server_that_suffered_in_its_sleep_is_started_anew(campaign, run, tmp_path):
    """Planted: vLLM holds other weights under the adapter's name than it was given."""
    adapter = run.adapter.id
    other = shutil.copytree(run.output, tmp_path / "other")
    tensors = load_file(other / WEIGHTS)
    save_file({name: torch.flip(tensor, [0]) for name, tensor in tensors.items()}, other / WEIGHTS)
    with pytest.raises(KeyError, match="an exception inside"), policies(campaign) as server:
        server.serve(adapter)
        first = group_of(server)
        for path, body in (("unload", {}), ("load", {"lora_path": str(other)})):
            httpx.post(
                f"{server.endpoints[0].url}/v1/{path}_lora_adapter",
                json={"lora_name": adapter, **body},
                headers={"Authorization": f"Bearer {server.endpoints[0].api_key}"},
            ).raise_for_status()
        with pytest.raises(CanaryError, match=f"{adapter}: stale adapter"):
            canary.check(campaign, 1, server, run)
        assert group_of(server) == first
        server.has_slept = True
        report = canary.check(campaign, 1, server, run)
        assert report["fault"] is None and gone(first, 0.5)
        second = group_of(server)
        port = int(server.endpoints[0].url.rpartition(":")[2])
        raise KeyError("an exception inside")
    assert not processes_of(second)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
    with campaign.database() as database:
        assert database.execute("SELECT passed FROM canaries ORDER BY checked") == [
            (False,),
            (False,),
            (True,),
            (True,),
        ]
