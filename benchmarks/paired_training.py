"""Does training with the engine end where transformers and PEFT end? Paired runs of a small model on real trajectories.

    agentloop run --profile demo campaign=paired iterations=1 collect.tasks=768 training.epochs=1 evaluate.tasks=20 \\
        evaluate.samples=1 gate.max_tasks=20 gate.control=false paths.data=/tmp/paired/data
    python benchmarks/paired_training.py /tmp/paired/data/datasets/data_*.safetensors [--seeds 0,1,2,3] [--json OUT]

The first collects through vLLM and selects, in minutes on two cores; any campaign's file in datasets/ will do. Of its
questions (whatever stands before the first supervised token) every fifth is held out.

A seed decides the LoRA's initial values and the order of the rows. Both trainers get the same batches, rates, clipping and
AdamW, and the same NF4 weights: the engine packs them and computes by hand, transformers reads them dequantised, pads,
and leaves the rest to autograd and torch.optim.AdamW. transformers in fp32 is the reference; where the engine computes in
16 bit (by default on CUDA) transformers does so too, beside it. The verdict: is the largest difference between the two
final losses of a seed within the spread of the reference's final losses over the seeds?

AdamW takes a constant factor out of a gradient, so losses would hardly show one: gradient norms are compared as well.
OUT is written after every seed; seeds that are in it already stay and are not run again. Not a test: it asserts nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import platform
import random
import shlex
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import peft
import torch
import transformers
from torch import Tensor

from agentloop.engine import FastLanguageModel
from agentloop.engine.batch import IGNORED, join
from agentloop.engine.io.dequantised import dequantised_checkpoint
from agentloop.engine.lora.buffer import TARGETS
from agentloop.engine.optimizer import FlatAdamW
from agentloop.errors import AgentloopError
from agentloop.training import rows as stored
from agentloop.training.schedule import learning_rate

ROOT = Path(__file__).resolve().parents[1]
HELD_OUT = 5
"""One question in so many."""
EVERY = 10
"""Steps that make one point of a curve."""
REFERENCE = "transformers float32"

Row = tuple[Sequence[int], Sequence[bool]]
"""(token_ids, mask): mask is True at the tokens that are trained on."""


@dataclass(frozen=True)
class Recipe:
    """The demo's, with weight decay and with a clip that takes effect, so that they are compared too."""

    steps: int = 200
    rows: int = 16
    """In one optimizer step."""
    rank: int = 16
    alpha: int = 32
    learning_rate: float = 5e-4
    warmup_fraction: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.01
    max_grad_norm: float = 0.1

    def rate(self, step: int) -> float:
        return learning_rate(step, self.steps, peak=self.learning_rate, warmup_fraction=self.warmup_fraction)


def hold_out(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """(rows to train on, rows to measure on). No question is in both."""
    questions: dict[tuple[int, ...], int] = {}
    sides: tuple[list[Row], list[Row]] = ([], [])
    for ids, mask in rows:
        number = questions.setdefault(tuple(ids[: list(mask).index(True)]), len(questions))
        sides[number % HELD_OUT == HELD_OUT - 1].append((ids, mask))
    return sides


def plan(rows: Sequence[Row], recipe: Recipe, seed: int) -> list[list[Row]]:
    """The rows of every step: one shuffle of them all after another, cut into equal batches."""
    order: list[Row] = []
    while len(order) < recipe.steps * recipe.rows:
        order += random.Random(f"{seed}/{len(order)}").sample(rows, len(rows))
    return [order[step * recipe.rows : (step + 1) * recipe.rows] for step in range(recipe.steps)]


def supervised(rows: Sequence[Row]) -> int:
    """Labels: a first token has nothing before it that could predict it."""
    return sum(sum(mask[1:]) for _, mask in rows)


# the two trainers


class Trainer(Protocol):
    recipe: Recipe

    def step(self, rows: Sequence[Row], rate: float) -> tuple[float, float]:
        """One optimizer step: (mean loss before it in nats per supervised token, gradient norm before clipping)."""

    def loss(self, rows: Sequence[Row]) -> float:
        """Mean loss in nats per supervised token."""

    def adapter(self) -> dict[str, Tensor]:
        """A copy on the CPU in fp32: `layers.N.….lora_A.weight` [rank, in], `lora_B` [out, rank]."""


class EngineTrainer:
    def __init__(self, model: Path, recipe: Recipe, *, seed: int, dtype: torch.dtype, cache: Path) -> None:
        self.recipe = recipe
        self.model, _ = FastLanguageModel.from_pretrained(model, dtype=dtype, cache_directory=cache)
        FastLanguageModel.get_peft_model(self.model, r=recipe.rank, lora_alpha=recipe.alpha, random_state=seed)
        self.optimizer = FlatAdamW(
            self.model.lora, betas=recipe.betas, eps=recipe.eps, weight_decay=recipe.weight_decay
        )

    def step(self, rows: Sequence[Row], rate: float) -> tuple[float, float]:
        loss = self.model.loss_and_gradients(join(rows))
        norm = self.optimizer.step(learning_rate=rate, max_grad_norm=self.recipe.max_grad_norm)
        return loss.mean, float(norm)

    def loss(self, rows: Sequence[Row]) -> float:
        parts = [self.model.token_results(join(part)).losses for part in batches(rows, self.recipe.rows)]
        return float(torch.cat(parts).double().mean())

    def adapter(self) -> dict[str, Tensor]:
        return {name: view.detach().float().cpu().clone() for name, view in self.model.lora.named().items()}


class TransformersTrainer:
    """`model` holds the dequantised weights. The adapter's master weights are fp32 in every dtype, as PEFT has it."""

    def __init__(self, model: Path, recipe: Recipe, *, initial: Mapping[str, Tensor], dtype: torch.dtype) -> None:
        self.recipe = recipe
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        base = transformers.Gemma3nForCausalLM.from_pretrained(model, dtype=dtype, attn_implementation="eager")
        config = peft.LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, target_modules=rf".*\.({'|'.join(TARGETS)})")
        self.model = peft.get_peft_model(base.to(self.device), config)
        self.parameters = {plain(name): p for name, p in self.model.named_parameters() if p.requires_grad}
        if self.parameters.keys() != initial.keys():
            raise AgentloopError(f"{model}: PEFT and the engine adapt other modules")
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(initial[name])
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), betas=recipe.betas, eps=recipe.eps, weight_decay=recipe.weight_decay
        )

    def step(self, rows: Sequence[Row], rate: float) -> tuple[float, float]:
        self.optimizer.param_groups[0]["lr"] = rate
        loss = self._mean(rows)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.recipe.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(loss.detach()), float(norm)

    @torch.no_grad()
    def loss(self, rows: Sequence[Row]) -> float:
        parts = batches(rows, self.recipe.rows)
        return sum(float(self._mean(part)) * supervised(part) for part in parts) / supervised(rows)

    def adapter(self) -> dict[str, Tensor]:
        return {name: parameter.detach().float().cpu().clone() for name, parameter in self.parameters.items()}

    def _mean(self, rows: Sequence[Row]) -> Tensor:
        """transformers' own loss of the rows, padded on the right."""
        ids = torch.zeros(len(rows), max(len(tokens) for tokens, _ in rows), dtype=torch.long)
        labels, attention = torch.full_like(ids, IGNORED), torch.zeros_like(ids)
        for row, (tokens, mask) in enumerate(rows):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            attention[row, : len(tokens)] = 1
            labels[row, : len(tokens)] = torch.where(torch.tensor(mask), torch.tensor(tokens), IGNORED)
        inputs = {"input_ids": ids, "attention_mask": attention, "labels": labels}
        return self.model(**{name: tensor.to(self.device) for name, tensor in inputs.items()}, use_cache=False).loss


def plain(name: str) -> str:
    """`base_model.model.model.layers.….lora_A.default.weight` -> `layers.….lora_A.weight`."""
    return name[name.index("layers.") :].replace(".default", "")


def batches(rows: Sequence[Row], size: int) -> list[Sequence[Row]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


# runs and their comparison


@dataclass(frozen=True)
class Run:
    losses: list[float]
    """Of each step's batch before the step."""
    norms: list[float]
    clipped: int
    """Steps whose gradient was clipped."""
    before: float
    final: float
    """On the held-out rows."""
    adapter: dict[str, Tensor]
    seconds: float

    def figures(self) -> dict[str, Any]:
        return {
            "final_loss": self.final,
            "loss_before": self.before,
            "clipped_steps": self.clipped,
            f"training_loss_by_{EVERY}": [round(statistics.fmean(part), 6) for part in batches(self.losses, EVERY)],
            "seconds": round(self.seconds, 1),
        }


def train(trainer: Trainer, steps: Sequence[Sequence[Row]], measured: Sequence[Row]) -> Run:
    started = time.perf_counter()
    before = trainer.loss(measured)
    trace = [trainer.step(rows, trainer.recipe.rate(step)) for step, rows in enumerate(steps)]
    losses, norms = map(list, zip(*trace))
    clipped = sum(norm > trainer.recipe.max_grad_norm for norm in norms)
    return Run(losses, norms, clipped, before, trainer.loss(measured), trainer.adapter(), time.perf_counter() - started)


def compare(run: Run, reference: Run) -> dict[str, float]:
    """How far `run` is from `reference`; losses in nats per supervised token."""
    norms = zip(run.norms, reference.norms, strict=True)
    return {
        "final_loss": run.final - reference.final,
        "training_loss_at_most": max(abs(a - b) for a, b in zip(run.losses, reference.losses, strict=True)),
        "gradient_norm_at_most": max(abs(a / b - 1) for a, b in norms),
        "adapter_distance": distance(run.adapter, reference.adapter),
    }


def distance(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    """‖ΔW - ΔW'‖ / ‖ΔW'‖ over all projections together, ΔW = B A."""
    difference = total = 0.0
    for name in (name for name in theirs if "lora_A" in name):
        products = [tensors[name.replace("lora_A", "lora_B")] @ tensors[name] for tensors in (ours, theirs)]
        difference += float((products[0] - products[1]).square().sum())
        total += float(products[1].square().sum())
    return math.sqrt(difference / total)


def run_seed(
    model: Path, cache: Path, rows: tuple[list[Row], list[Row]], recipe: Recipe, seed: int, dtype: torch.dtype
) -> dict[str, Any]:
    trained, measured = rows
    steps = plan(trained, recipe, seed)
    engine = EngineTrainer(model, recipe, seed=seed, dtype=dtype, cache=cache)
    initial = engine.adapter()
    runs = {f"engine {name(dtype)}": train(engine, steps, measured)}
    for kind in dict.fromkeys((torch.float32, dtype)):
        other = TransformersTrainer(dequantised_checkpoint(model, cache), recipe, initial=initial, dtype=kind)
        runs[f"transformers {name(kind)}"] = train(other, steps, measured)
    reference = runs[REFERENCE]
    return {key: run.figures() for key, run in runs.items()} | {
        "against the reference": {key: compare(run, reference) for key, run in runs.items() if run is not reference}
    }


def verdict(seeds: Mapping[str, Any]) -> dict[str, Any]:
    """Of two seeds or more."""
    finals = [seed[REFERENCE]["final_loss"] for seed in seeds.values()]
    spread = statistics.stdev(finals)
    result: dict[str, Any] = {
        "reference_final_loss": finals,
        "spread_standard_deviation": spread,
        "spread_range": max(finals) - min(finals),
    }
    for key in next(iter(seeds.values()))["against the reference"]:
        found = [seed["against the reference"][key] for seed in seeds.values()]
        largest = max(abs(each["final_loss"]) for each in found)
        result[key] = {
            "largest_paired_difference": largest,
            "within_spread": largest <= spread,
            "training_loss_at_most": max(each["training_loss_at_most"] for each in found),
            "gradient_norm_at_most": max(each["gradient_norm_at_most"] for each in found),
            "adapter_distance_at_most": max(each["adapter_distance"] for each in found),
        }
    return result


def name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def machine() -> dict[str, Any]:
    return {
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cpu": platform.machine(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "tiny")
    parser.add_argument("--cache", type=Path, default=Path("/tmp/agentloop-cache"))
    parser.add_argument("--seeds", default="0,1,2,3")
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), default="bfloat16" if torch.cuda.is_available() else "float32"
    )  # fmt: skip
    parser.add_argument("--origin", help="how the rows were made; kept with the results")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    recipe = Recipe(steps=arguments.steps)
    try:
        rows = hold_out(stored.read(arguments.rows))
    except AgentloopError as error:
        parser.error(str(error))
    results: dict[str, Any] = {
        "rows": {
            "file": arguments.rows.name,
            "sha256": hashlib.sha256(arguments.rows.read_bytes()).hexdigest(),
            "trained_on": len(rows[0]),
            "held_out": len(rows[1]),
            "held_out_supervised_tokens": supervised(rows[1]),
        },
        "recipe": json.loads(json.dumps(asdict(recipe))),
        "dtype": arguments.dtype,
        "machine": machine(),
        "seeds": {},
    }
    if arguments.json and arguments.json.is_file():
        earlier = json.loads(arguments.json.read_text())
        if other := [key for key in results if key != "seeds" and earlier[key] != results[key]]:
            parser.error(f"--json: {arguments.json} has results of another {other[0]}")
        results = earlier
    results |= {"command": shlex.join(["python", *sys.argv]), "origin": arguments.origin or results.get("origin")}
    for seed in arguments.seeds.split(","):
        if seed not in results["seeds"]:
            results["seeds"][seed] = run_seed(
                arguments.model, arguments.cache, rows, recipe, int(seed), getattr(torch, arguments.dtype)
            )
            print(json.dumps({seed: results["seeds"][seed]}, indent=1), flush=True)
        if len(results["seeds"]) > 1:
            results["verdict"] = verdict(results["seeds"])
        if arguments.json:
            temporary = arguments.json.with_suffix(f".{os.getpid()}")
            temporary.write_text(json.dumps(results, indent=1) + "\n")
            temporary.replace(arguments.json)
    if "verdict" in results:
        print(json.dumps(results["verdict"], indent=1))


if __name__ == "__main__":
    main()
