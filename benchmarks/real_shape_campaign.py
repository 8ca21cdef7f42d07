"""A whole campaign with Gemma 3n E4B's real shape and random weights, vLLM and trainer within a small card's memory.

    python benchmarks/real_shape_campaign.py OUT [--memory 23.4] [--size e4b|small] [SECTION.NAME=VALUE …]

Random weights say random tokens: so nearly all tokens of this model are answers, "Answer: 17" and the like, and the row of the
one that ends a turn is such that turns end. The environment of this file takes any even number. `agentloop run` plays two
iterations of it unattended, with `--memory` GiB of the card for either process. OUT/real_shape.json then holds seconds and
peak of each phase, as the report shows them. `small` is for trying the script on the CPU.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path

import torch
from real_gemma import machine

from agentloop import card
from agentloop.campaign import results
from agentloop.environments import Environment, Question
from agentloop.records import Task
from agentloop.settings import load, parse_overrides
from agentloop.store.database import Database
from agentloop.tools import Tool
from agentloop.tools.calculator import Calculator

MODEL = "random-gemma-3n"
CAMPAIGN = "real-shape"
BESIDE = 1.0
"""GiB that vLLM's process holds beyond serving.gpu_memory_utilization: its CUDA context, and what it takes while it answers."""
ENDS = 0.03
"""Share of the positions where a turn may end."""
SIZES = ("e4b", "small")
VOCABULARY = 4096
"""Tokens of the small one."""


class EvenNumbers(Environment):
    """Any even number is right."""

    name = "even_numbers"

    def questions(self, rng: random.Random) -> Iterator[Question]:
        while True:
            yield Question("even", f"Name an even number; this is number {rng.randrange(10**6)}.", "", {})

    def tools(self, task: Task) -> dict[str, Tool]:
        return {Calculator.name: Calculator()}

    def verify(self, task: Task, answer: str | None) -> float:
        return float(answer is not None and answer.isdigit() and int(answer) % 2 == 0)


def make(directory: Path, size: str) -> None:
    """Write the model, in bf16."""
    from tokenizers import Tokenizer
    from transformers import Gemma3nForCausalLM, Gemma3nTextConfig
    from transformers.initialization import no_init_weights

    from agentloop.tiny.architecture import WORDS, tiny_config
    from agentloop.tiny.tokenizer import build_tokenizer, special_ids

    tokenizer = build_tokenizer(WORDS)
    own = special_ids(tokenizer)
    if size == "small":
        config = tiny_config(tokenizer)
        config.vocab_size = config.vocab_size_per_layer_input = VOCABULARY
    else:
        config = Gemma3nTextConfig(**own, architectures=["Gemma3nForCausalLM"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device), no_init_weights():
        model = Gemma3nForCausalLM(config)
    model.tie_weights()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.fill_(1.0)
            else:
                parameter.normal_(0, 0.3 if "scale" in name else 0.1 if "coefs" in name else 0.02)
        let_turns_end(model, own["eos_token_id"][-1])
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(directory, max_shard_size="4GB")
    said = json.loads(tokenizer.backend_tokenizer.to_str())
    known = len(said["model"]["vocab"])
    # As the byte-level decoder spells a line feed and a space.
    said["model"]["vocab"] |= {f"\u010aAnswer:\u0120{index}": index for index in range(known, config.vocab_size)}
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(said))
    tokenizer.save_pretrained(directory)


def let_turns_end(model: torch.nn.Module, end: int) -> None:
    """Give the token `end` a row with which it is as likely as all others together at one position of thirty."""
    table = model.get_input_embeddings().weight
    prompts = torch.randint(model.config.vocab_size_per_layer_input, (16, 64), device=model.device)
    hidden = model.model(prompts).last_hidden_state.float().flatten(0, 1)
    others = (hidden @ table.float().T).logsumexp(-1).mean()
    towards = hidden.mean(0)
    table[end] = (others / (hidden @ towards).quantile(1 - ENDS) * towards).to(table.dtype)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--memory", type=float, default=23.4, help="GiB of the card for vLLM and for the trainer")
    parser.add_argument("--size", choices=SIZES, default="e4b")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_intermixed_args()
    output = options.output.resolve()
    model = output / "models" / MODEL
    if not (model / "config.json").exists():
        making = get_context("spawn").Process(
            target=make, args=(model, options.size)
        )  # else this one holds a CUDA context
        making.start()
        making.join()
        if making.exitcode:
            sys.exit(making.exitcode)
    words = [
        *(f"campaign={CAMPAIGN}", f"model={MODEL}", f"environment={Path(__file__).resolve()}", "iterations=2"),
        *(f"paths.models={output / 'models'}", f"paths.data={output / 'data'}", f"paths.cache={output / 'cache'}"),
        *("prefect_port=4320", "training.quantization=nf4", "gate.guards={}", "selection.max_success_rate=1"),
    ]
    profile = "demo"
    if torch.cuda.is_available():
        profile = "rtx3090"
        share = (options.memory - BESIDE) / card.cards()[0].memory_gib
        words += [f"training.memory_budget={options.memory}", f"serving.gpu_memory_utilization={share:.3f}"]
    words += options.overrides
    started = time.monotonic()
    agentloop = [sys.executable, "-m", "agentloop"]
    try:
        subprocess.run([*agentloop, "run", "--profile", profile, *words], check=True)
        seconds = time.monotonic() - started
    finally:
        subprocess.run([*agentloop, "down", *words], check=False)
    settings = load(parse_overrides(words), profile=profile)
    phases = (
        "SELECT iteration, phase, epoch(finished) - epoch(started), peak_bytes / 2^30 FROM gpu_phases ORDER BY started"
    )
    with Database.open_snapshot(settings.paths.database) as database:
        told = {
            "machine": machine(),
            "command": " ".join(["python", *sys.argv]),
            "memory_gib": options.memory,
            "seconds": seconds,
            "phases": [
                dict(zip(("iteration", "phase", "seconds", "peak_gib"), row, strict=True))
                for row in database.execute(phases)
            ],
            "iterations": [asdict(row) for row in results.iterations(database, settings.campaign)],
        }
    (output / "real_shape.json").write_text(json.dumps(told, indent=1, default=str), encoding="utf-8")
    print(json.dumps(told["phases"], indent=1))


if __name__ == "__main__":
    main()
