"""What `generate` costs beside transformers' own, on the same weights, in one process and in turns.

    python benchmarks/generate.py MODEL [MODEL ...] [--rows 1 8] [--prompt 32] [--new 128] [--rank 16] [--rounds 5] [--json OUT]

MODEL: a Gemma directory. Greedy, from random prompts, without an end of sequence; first the base, then with a random adapter of
`--rank` (0: without; transformers then runs PEFT). On the CPU both compute in fp32 with 16-bit weights made fp32, and with
as many threads as torch takes (OMP_NUM_THREADS); the tokens must then be the same, and the result says whether they are. On
CUDA both hold 4-bit weights (bitsandbytes' for transformers) and compute in bf16; the engine records its step as a CUDA graph.
A round runs either side once; the result holds the median seconds of each and the median, over the rounds, of how many times
faster the engine is. On the CPU these are seconds of CPU time, which other programs on the machine hardly change. Not a
test: it asserts nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from agentloop.engine import FastLanguageModel

KEPT = ["prediction_coefs", "correction_coefs", "modality_router", "altup_projections", "altup_unembed_projections"]
"""Of Gemma 3n, in 16 bit for both."""


def seconds(compute: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """Of the CPU, or of the clock where a CUDA device computes."""
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    started = clock()
    ids = compute()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - started, ids


def peer(directory: Path) -> torch.nn.Module:
    if not torch.cuda.is_available():
        return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    packed = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16, llm_int8_skip_modules=[*KEPT, "lm_head"],
    )  # fmt: skip
    return AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.bfloat16, quantization_config=packed, device_map="cuda"
    ).eval()


def measured(engine: Any, other: Any, rows: int, options: argparse.Namespace) -> dict[str, Any]:
    rng = random.Random(rows)
    ids = torch.tensor([[rng.randrange(4, engine.shape.vocab) for _ in range(options.prompt)] for _ in range(rows)])
    ids = ids.to(engine.device)
    asked = {"max_new_tokens": options.new, "do_sample": False, "eos_token_id": [], "pad_token_id": 0}
    sides = {
        "engine": lambda: engine.generate(input_ids=ids, **asked),
        "transformers": lambda: other.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **asked),
    }
    spent: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(options.rounds + 1):
        made = {name: seconds(side) for name, side in sides.items()}
        for name, (took, _) in made.items() if number else ():  # the first warms up
            spent[name].append(took)
    ratios = [theirs / ours for ours, theirs in zip(spent["engine"], spent["transformers"], strict=True)]
    return {
        "rows": rows,
        **{f"{name}_seconds": round(statistics.median(values), 4) for name, values in spent.items()},
        "times_faster": round(statistics.median(ratios), 3),
        "range": [round(min(ratios), 3), round(max(ratios), 3)],
        "same_tokens": torch.equal(made["engine"][1], made["transformers"][1]),
    }


def with_adapter(engine: Any, other: Any, rank: int) -> tuple[Any, Any]:
    engine = FastLanguageModel.get_peft_model(engine, r=rank)
    with torch.no_grad():
        for name, view in engine.lora.named().items():
            if ".lora_B." in name:
                view.normal_(0, 0.02, generator=torch.Generator(view.device).manual_seed(0))
    with tempfile.TemporaryDirectory() as folder:
        engine.save_pretrained(folder)
        return engine, PeftModel.from_pretrained(other, folder).eval()


def machine() -> dict[str, Any]:
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "machine": card or f"{platform.machine()}, {os.cpu_count()} CPU cores, {torch.get_num_threads()} used",
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "peft")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL")
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 8], help="prompts of a batch")
    parser.add_argument("--prompt", type=int, default=32, help="tokens of a prompt")
    parser.add_argument("--new", type=int, default=128, help="tokens to generate")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args()
    results = []
    for directory in options.models:
        engine, _ = FastLanguageModel.from_pretrained(directory, load_in_4bit=torch.cuda.is_available())
        engine, other = FastLanguageModel.for_inference(engine), peer(directory)
        for rank in (0, options.rank) if options.rank else (0,):
            if rank:
                engine, other = with_adapter(engine, other, rank)
            for rows in options.rows:
                result = {"model": directory.name, "rank": rank, **measured(engine, other, rows, options)}
                print(json.dumps(result), flush=True)
                results.append(result)
    if options.json:
        arguments = f"--prompt {options.prompt} --new {options.new} --rounds {options.rounds}"
        command = f"python benchmarks/generate.py {' '.join(str(each) for each in options.models)} {arguments}"
        whole = {**machine(), "command": command, "results": results}
        options.json.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
