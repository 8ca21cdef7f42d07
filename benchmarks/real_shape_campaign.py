"""A whole campaign with Gemma 3n E4B's real shape and random weights, vLLM and trainer within a small card's memory.

    python benchmarks/real_shape_campaign.py OUT [--memory 23.4] [--size e4b|small] [SECTION.NAME=VALUE …]

The weights are random but for the rows of the tokenizer's own tokens, which are moved so that the model says words and ends its
turns; it passes a toy environment now and then, in which any answer of few words is right. `agentloop run` plays two
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
from pathlib import Path
from typing import Any

import torch

from agentloop.campaign import results
from agentloop.environments import Environment, Question
from agentloop.records import Task
from agentloop.settings import load, parse_overrides
from agentloop.store.database import Database
from agentloop.tools import Tool
from agentloop.tools.calculator import Calculator

MODEL = "random-gemma-3n"
CAMPAIGN = "real-shape"
FEW = 12
"""Characters of an answer that is right."""
WORDS_OVER_REST, END_OVER_REST = 4.0, -1.5
"""Log odds, on average: of any of the tokenizer's words over all others, of the end of the turn over anything else."""
SIZES = {
    "e4b": {},
    "small": {
        **{
            "vocab_size": 4096,
            "vocab_size_per_layer_input": 4096,
            "hidden_size": 128,
            "hidden_size_per_layer_input": 32,
        },
        **{"intermediate_size": 384, "num_hidden_layers": 5, "num_kv_shared_layers": 2, "head_dim": 32},
        **{"layer_types": ["sliding_attention"] * 2 + ["full_attention", "sliding_attention", "full_attention"]},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "altup_num_inputs": 2, "laurel_rank": 16},
        "activation_sparsity_pattern": [0.95, 0.0, 0.0, 0.0, 0.0],
    },
}


class FewWords(Environment):
    """Any answer of at most twelve characters is right."""

    name = "few_words"

    def questions(self, rng: random.Random) -> Iterator[Question]:
        while True:
            yield Question("few", f"Say anything, but in few words, for number {rng.randrange(10**6)}.", "", {})

    def tools(self, task: Task) -> dict[str, Tool]:
        return {Calculator.name: Calculator()}

    def verify(self, task: Task, answer: str | None) -> float:
        return float(answer is not None and len(answer) <= FEW)


def make(directory: Path, size: str) -> None:
    """Write the model, in bf16."""
    from transformers import Gemma3nForCausalLM, Gemma3nTextConfig
    from transformers.initialization import no_init_weights

    from agentloop.tiny.architecture import WORDS
    from agentloop.tiny.tokenizer import build_tokenizer, special_ids

    tokenizer = build_tokenizer(WORDS)
    config = Gemma3nTextConfig(**SIZES[size], **special_ids(tokenizer), architectures=["Gemma3nForCausalLM"])
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
        talkative(model, tokenizer)
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(directory, max_shard_size="4GB")
    tokenizer.save_pretrained(directory)


def talkative(model: torch.nn.Module, tokenizer: Any) -> None:
    """Move the rows of the tokenizer's tokens towards what the random model computes on average: it says text, and ends it."""
    end = tokenizer.convert_tokens_to_ids("<end_of_turn>")
    text = torch.arange(len(tokenizer), device=model.device)
    text = text[(text != end) & ~torch.isin(text, torch.tensor(tokenizer.all_special_ids, device=model.device))]
    table = model.get_input_embeddings().weight
    prompts = text[torch.randint(len(text), (16, 64), device=model.device)]
    for tokens, wanted in ((text, WORDS_OVER_REST), (end, END_OVER_REST)):
        hidden = model.model(prompts).last_hidden_state.float().flatten(0, 1)
        logits = hidden @ table.float().T
        mean = hidden.mean(0)
        mine = logits[:, tokens].logsumexp(-1) if tokens is text else logits[:, end].clone()
        logits[:, tokens] = -torch.inf
        missing = (logits.logsumexp(-1) - mine).mean() + wanted
        table[tokens] += (missing / mean.square().sum() * mean).to(table.dtype)


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
        make(model, options.size)
    words = [
        *(f"campaign={CAMPAIGN}", f"model={MODEL}", f"environment={Path(__file__).resolve()}", "iterations=2"),
        *(f"paths.models={output / 'models'}", f"paths.data={output / 'data'}", f"paths.cache={output / 'cache'}"),
        *("prefect_port=4320", "training.quantization=nf4", "gate.guards={}"),
    ]
    profile = "demo"
    if torch.cuda.is_available():
        profile = "rtx3090"
        share = options.memory * 2**30 / torch.cuda.mem_get_info()[1]
        words += [f"training.memory_budget={options.memory}", f"serving.gpu_memory_utilization={share:.3f}"]
    words += options.overrides
    started = time.monotonic()
    command = [sys.executable, "-m", "agentloop", "run", "--profile", profile, *words]
    subprocess.run(command, check=True)
    seconds = time.monotonic() - started
    settings = load(parse_overrides(words), profile=profile)
    phases = (
        "SELECT iteration, phase, epoch(finished) - epoch(started), peak_bytes / 2^30 FROM gpu_phases ORDER BY started"
    )
    with Database.open_snapshot(settings.paths.database) as database:
        told = {
            "machine": {"card": torch.cuda.get_device_name() if torch.cuda.is_available() else None},
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
