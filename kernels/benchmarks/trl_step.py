"""A step of TRL's SFTTrainer on the engine's model beside one of the project's own loop, the same tokens in both.

    python kernels/benchmarks/trl_step.py CHECKPOINT [--segments 4] [--tokens 2048] [--steps 10] [--json OUT]

Random ids, all supervised; TRL packs them into padding-free batches, with `adamw_8bit` as its optimizer.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
import trl
from datasets import Dataset
from train_step import make_batch, measure
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from agentloop.engine import FastLanguageModel
from agentloop.engine.optimizer import FlatAdamW

WARM_UP = 3


class Watch(TrainerCallback):
    """Seconds of every step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *_, **__) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._began = time.perf_counter()

    def on_step_end(self, *_, **__) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self._began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--segments", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--cache", type=Path, default=Path("/tmp/agentloop-cache"))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    model, tokenizer = FastLanguageModel.from_pretrained(
        arguments.checkpoint, max_seq_length=arguments.tokens, cache_directory=arguments.cache
    )
    model = FastLanguageModel.get_peft_model(model)
    vocabulary = model.shape.ple_vocab or model.shape.vocab
    case = f"{arguments.segments}x{arguments.tokens}"
    batches = [make_batch(case, 1.0, seed, vocabulary) for seed in range(arguments.steps)]
    sequences = [ids.tolist() for batch in batches for ids in batch.token_ids.split(arguments.tokens)]
    on_gpu = torch.cuda.is_available()
    with tempfile.TemporaryDirectory() as directory:
        settings = SFTConfig(
            output_dir=directory,
            max_length=arguments.tokens,
            packing=True,
            per_device_train_batch_size=arguments.segments,
            max_steps=arguments.steps,
            optim="adamw_8bit" if on_gpu else "adamw_torch",
            learning_rate=1e-4,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=not on_gpu,
        )
        watch = Watch()
        rows = Dataset.from_dict({"input_ids": sequences})
        trainer = SFTTrainer(model, settings, train_dataset=rows, processing_class=tokenizer, callbacks=[watch])
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        trainer.train()
    step = statistics.median(watch.seconds[WARM_UP:])
    results = {
        "case": case,
        "trl": {
            "step_ms": 1e3 * step,
            "tokens_per_second": arguments.segments * arguments.tokens / step,
            "first_step_s": watch.seconds[0],
            "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if on_gpu else None,
            "losses": [row["loss"] for row in trainer.state.log_history if "loss" in row],
        },
    }
    print(f"RES {json.dumps(results)}", flush=True)
    if on_gpu:
        del trainer
        optimizer = FlatAdamW(model.lora, bits=8)
        results["own_loop"] = measure(model, optimizer, batches, WARM_UP)
        results["trl_of_own"] = results["trl"]["tokens_per_second"] / results["own_loop"]["tokens_per_second"]
        machine = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "trl": trl.__version__}
        print(f"RES {json.dumps(results)}")
        if arguments.json:
            arguments.json.write_text(
                json.dumps({"machine": machine, "results": results}, indent=1) + "\n", encoding="utf-8"
            )


if __name__ == "__main__":
    main()
