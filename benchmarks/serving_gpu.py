"""What serving is worth on a GPU: error, rates, hand-over to the trainer and back. One command, prints JSON.

    python benchmarks/serving_gpu.py CHECKPOINT [--work DIRECTORY] [--only accuracy,agent,generate,sleep,restart]
        [--json OUT]

CHECKPOINT: a text-only Gemma with Gemma's turn tokens; random weights do. Its dequantised NF4 is what is served.
DIRECTORY keeps that and the compile caches, so that a second run shows the warm start; it takes as much disk as the
checkpoint. Parts:

- accuracy: log probabilities of random prompts, vLLM in bf16 (compiled, CUDA graphs) and transformers in bf16, each against
  transformers in fp32; base and a random adapter.
- agent: output tokens per second with an adapter, 128 episodes at once through this project's agent and client. Random
  weights never end a turn: its length is drawn here, uniformly from 32 to 224 tokens, and once more it is always 128, where
  all episodes wait for their next turn at the same time.
- generate: the same requests through vLLM's LLM.generate, after `agent` in the same DIRECTORY.
- sleep, restart: the lifecycle with that serving.policy: seconds from the trainer's last step to the first token of its
  adapter, memory in use meanwhile, and the canary's report.

Runs on the CPU as well, with a tiny checkpoint, to see that it runs: without the sleep policy. Not a test: it asserts nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from plain_policy import PlainPolicy
from random_inputs import random_prompts, vocabulary_of, write_adapters

from agentloop import canary_reference, card
from agentloop import settings as configuration
from agentloop.campaign.campaign import Campaign
from agentloop.campaign.canary import inspect
from agentloop.campaign.prepare import policies, prepare
from agentloop.proof import rates, swap
from agentloop.records import NF4
from agentloop.rollout.collection import plan
from agentloop.serving import installation
from agentloop.serving.canary import ask
from agentloop.serving.client import CompletionClient
from agentloop.serving.command import LORA_TARGETS, environment
from agentloop.serving.server import ModelServer
from agentloop.settings import Settings
from agentloop.training import rows
from agentloop.training.run import TrainingRun

RANK = 16
PROMPTS, PROMPT_TOKENS = 8, 256
CONCURRENT, WARM_UP = 128, 64
TURNS, TURN_TOKENS = 4, 128
SPREADS = {"varied": 96, "equal": 0}
"""Turns are TURN_TOKENS long, give or take so many."""
TRAINING_ROWS, TRAINING_TOKENS = 32, 512


def settings_for(checkpoint: Path, work: Path, **sections: dict[str, Any]) -> Settings:
    dtype = "bfloat16" if card.present() else "float32"
    serving = {"dtype": dtype, "max_model_len": 2560, "max_num_seqs": CONCURRENT}
    agent = {"max_turns": TURNS, "max_turn_tokens": 2 * TURN_TOKENS, "max_tokens": 2048}
    training = {"rank": RANK, "alpha": 2 * RANK, "epochs": 1, "batch_tokens": 4096}
    return configuration.load(
        {
            "model": str(checkpoint),
            "environment": "database",
            "paths": {"data": str(work / "data"), "cache": str(work / "cache")},
            "agent": agent,
            "serving": serving | sections.get("serving", {}),
            "training": training,
            "collect": {"episode_seconds": 600.0},
            "seed": sections.get("seed", 0),
        }
    )


# accuracy


@torch.no_grad()
def transformers_logprobs(
    checkpoint: Path, adapter: Path, dtype: torch.dtype, prompts: list[list[int]]
) -> dict[str, Any]:
    """{"base": rows, "adapter": rows} by transformers and PEFT with eager attention."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    device = "cuda" if card.present() else "cpu"
    base = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=dtype, attn_implementation="eager").to(device)
    model = PeftModel.from_pretrained(base, adapter, autocast_adapter_dtype=False).eval()
    for name, parameter in model.named_parameters():
        if "lora_" in name:  # and nothing else: rotary frequencies stay in fp32
            parameter.data = parameter.data.to(dtype)

    def rows_of() -> list[list[float]]:
        found = []
        for prompt in prompts:
            ids = torch.tensor([prompt], device=device)
            logprobs = model(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
            found.append(logprobs.gather(1, ids[0, 1:, None])[:, 0].tolist())
        return found

    with model.disable_adapter():
        without = rows_of()
    return {"base": without, "adapter": rows_of()}


def reference_stage(checkpoint: Path, work: Path) -> None:
    """In a process of its own, so that its memory is free again before vLLM starts."""
    prompts = random_prompts(vocabulary_of(checkpoint), PROMPTS, PROMPT_TOKENS)
    found = {
        str(dtype): transformers_logprobs(checkpoint, work / "adapter", dtype, prompts)
        for dtype in (torch.float32, torch.bfloat16)
    }
    (work / "reference.json").write_text(json.dumps({"prompts": prompts, "found": found}))


def accuracy(campaign: Campaign, server: ModelServer, work: Path) -> dict[str, Any]:
    stored = json.loads((work / "reference.json").read_text())

    async def served() -> dict[str, Any]:
        async with CompletionClient([server.endpoint], campaign.settings.serving) as client:
            names = {"base": server.model_name, "adapter": "adapter"}
            return {which: await ask(client, name, stored["prompts"]) for which, name in names.items()}

    found = {"vllm": asyncio.run(served()), "transformers": stored["found"]["torch.bfloat16"]}
    exact = stored["found"]["torch.float32"]
    result: dict[str, Any] = {"tokens": PROMPTS * (PROMPT_TOKENS - 1)}
    for which in ("base", "adapter"):
        errors = {by: np.abs(np.concatenate(rows[which]) - np.concatenate(exact[which])) for by, rows in found.items()}
        result[which] = {f"{by}_mean_error": float(error.mean()) for by, error in errors.items()}
        result[which] |= {f"{by}_median_error": float(np.median(error)) for by, error in errors.items()}
        result[which]["ratio"] = float(errors["vllm"].mean() / errors["transformers"].mean())
    effect = np.abs(np.concatenate(exact["adapter"]) - np.concatenate(exact["base"]))
    return result | {"adapter_effect": float(effect.mean())}


# rates


def run_episodes(
    campaign: Campaign, server: ModelServer, count: int, *, first: int, spread: int
) -> tuple[list[rates.Request], float]:
    """(requests, seconds). A turn that was cut off counts as ended."""
    tasks = campaign.environment.tasks("train", count, 0, skip=first)
    [shard] = plan(tasks, 1, policy="random", sampling=campaign.sampling(1.0), seed=0, shard_episodes=count)

    @asynccontextmanager
    async def policy() -> AsyncIterator[PlainPolicy]:
        async with CompletionClient([server.endpoint], campaign.settings.serving) as client:
            yield PlainPolicy(partial(client.complete, "adapter", stop_token_ids=campaign.prompt.stop_token_ids))

    lengths = range(TURN_TOKENS - spread, TURN_TOKENS + spread + 1)
    with campaign.worlds:
        return rates.run_episodes(campaign, shard, policy, lengths, concurrency=CONCURRENT)


def agent_rates(campaign: Campaign, server: ModelServer, work: Path, episodes: int) -> dict[str, Any]:
    warm_up, _ = run_episodes(campaign, server, WARM_UP, first=0, spread=0)
    recorded, results = {"warm_up": warm_up}, {"episodes": episodes, "concurrent": CONCURRENT}
    for number, (name, spread) in enumerate(SPREADS.items()):
        # Other tasks each time: what is in the prefix cache of the first would make the second faster.
        first = WARM_UP + number * episodes
        requests, seconds = run_episodes(campaign, server, episodes, first=first, spread=spread)
        recorded[name] = requests
        tokens = sum(request.tokens for request in requests)
        results[name] = {
            "requests": len(requests),
            "mean_prompt_tokens": statistics.mean(len(request.prompt) for request in requests),
            "output_tokens": tokens,
            "tokens_per_second": tokens / seconds,
        }
    requests = {name: list(map(dataclasses.asdict, each)) for name, each in recorded.items()}
    (work / "requests.json").write_text(json.dumps({"requests": requests, "results": results}))
    return results


def generate_stage(checkpoint: Path, work: Path) -> None:
    """The recorded requests through LLM.generate, with the engine that the server had."""
    settings = settings_for(checkpoint, work)
    settings.export()
    os.environ.update(environment(settings, installation.find(Path(sys.executable)), api_key="none"))
    from vllm import LLM, SamplingParams
    from vllm.inputs import TokensPrompt
    from vllm.lora.request import LoRARequest

    serving = settings.serving
    device = (
        {"gpu_memory_utilization": serving.gpu_memory_utilization}
        if card.present()
        else {"kv_cache_memory_bytes": 1 << 30, "enable_chunked_prefill": False, "max_num_batched_tokens": 4096}
    )
    llm = LLM(
        str(checkpoint),
        dtype=serving.dtype,
        max_model_len=serving.max_model_len,
        max_num_seqs=serving.max_num_seqs,
        generation_config="vllm",
        enable_lora=True,
        max_loras=4,
        max_lora_rank=RANK,
        lora_target_modules=list(LORA_TARGETS),
        **device,
    )
    adapter = LoRARequest("adapter", 1, str(work / "adapter"))
    stored = json.loads((work / "requests.json").read_text())
    found = {}
    for name, requests in stored["requests"].items():
        sampling = [
            SamplingParams(temperature=1.0, seed=each["seed"], max_tokens=each["tokens"], ignore_eos=True, logprobs=0)
            for each in requests
        ]
        prompts = [TokensPrompt(prompt_token_ids=each["prompt"]) for each in requests]
        started = time.perf_counter()
        answers = llm.generate(prompts, sampling, lora_request=adapter, use_tqdm=False)
        seconds = time.perf_counter() - started
        if name in SPREADS:
            rate = sum(len(answer.outputs[0].token_ids) for answer in answers) / seconds
            agent_of_this = stored["results"][name]["tokens_per_second"] / rate
            found[name] = {"tokens_per_second": rate, "agent_of_this": agent_of_this}
    (work / "generate.json").write_text(json.dumps(found))


# lifecycle


def lifecycle(checkpoint: Path, work: Path, policy: str) -> dict[str, Any]:
    """One turn-taking with a real training run of random rows. The adapter is another for every policy and every call."""
    seed = (time.time_ns() // 10**9) % 2**31
    settings = settings_for(checkpoint, work, serving={"policy": policy}, seed=seed)
    campaign = Campaign.open(settings)
    run = random_run(campaign)
    before = sum(card.free_bytes()) if card.present() else None
    with policies(campaign) as server:
        ready = swap.start(server)
        measured = swap.measure(campaign, server, run, free_before=before)
        stored = canary_reference.read(run.output)
        base = server.serve(None)
        report = inspect(server.endpoints[0], settings.serving, stored, base=base, adapter=run.adapter.id)
    return {"start_seconds": ready, **measured, "canary": dataclasses.asdict(report)}


def random_run(campaign: Campaign) -> TrainingRun:
    """A run on random rows, planned; its adapter's name depends on the seed."""
    draw = np.random.default_rng(0)
    path = campaign.settings.paths.data / "random-rows.safetensors"
    sequence = partial(draw.integers, 6, vocabulary_of(campaign.model), TRAINING_TOKENS)
    rows.write(path, [(sequence(), np.ones(TRAINING_TOKENS, bool)) for _ in range(TRAINING_ROWS)])
    settings = campaign.settings
    return TrainingRun.plan(
        base=campaign.base,
        dataset="data_random",
        rows=path,
        model=campaign.model,
        training=settings.training,
        quantization=NF4,
        seed=settings.seed,
        paths=settings.paths,
    )


def stage(name: str, checkpoint: Path, work: Path) -> None:
    subprocess.run([sys.executable, __file__, str(checkpoint), "--work", str(work), "--stage", name], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--work", type=Path, default=Path("/tmp/agentloop-serving-benchmark"))
    parser.add_argument("--only", default="accuracy,agent,generate,sleep,restart")
    parser.add_argument("--episodes", type=int, default=512, help="of the agent's measurement")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--stage", choices=("adapter", "reference", "generate"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    checkpoint, work = arguments.checkpoint.resolve(), arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    if arguments.stage == "adapter":
        return write_adapters(checkpoint, [work / "adapter"], rank=RANK, cache=work / "cache")
    if arguments.stage:
        return {"reference": reference_stage, "generate": generate_stage}[arguments.stage](checkpoint, work)

    parts = arguments.only.split(",")
    results: dict[str, Any] = {
        "machine": {
            "gpu": torch.cuda.get_device_name() if card.present() else None,
            "torch": torch.__version__,
            "vllm": installation.find(Path(sys.executable)).version,
            "python": platform.python_version(),
        },
        "checkpoint": json.loads((checkpoint / "config.json").read_text()),
    }

    def report(name: str, value: dict[str, Any]) -> None:
        """Written at once: what was measured stays, whatever the next part does."""
        results[name] = value
        print(json.dumps({name: value}, indent=1), flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(results, indent=1) + "\n")

    campaign = Campaign.open(settings_for(checkpoint, work))
    served = prepare(campaign)  # dequantised NF4, made once, before anything is timed
    if {"accuracy", "agent"} & set(parts):
        stage("adapter", checkpoint, work)
        if "accuracy" in parts:
            stage("reference", served, work)
        started = time.perf_counter()
        with ModelServer(campaign.settings, served, base=campaign.base) as server:
            results["start_seconds"] = time.perf_counter() - started
            server.load_adapter("adapter", work / "adapter")
            if "accuracy" in parts:
                report("accuracy", accuracy(campaign, server, work))
            if "agent" in parts:
                report("agent", agent_rates(campaign, server, work, arguments.episodes))
    if "generate" in parts:
        stage("generate", served, work)
        report("generate", json.loads((work / "generate.json").read_text()))
    for policy in ("sleep", "restart"):
        if policy in parts and (card.present() or policy == "restart"):
            report(policy, lifecycle(checkpoint, work, policy))


if __name__ == "__main__":
    main()
