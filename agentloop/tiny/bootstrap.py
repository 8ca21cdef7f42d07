"""`agentloop bootstrap`: makes the tiny base model, the same one every time.

Initialise, teach on scripted demonstrations of which most show a bad habit, measure, write. The demonstrations' questions
are in neither the train nor the held-out split. What comes out solves about a third of the held-out arithmetic tasks at
temperature 1 and nearly all of them in eight tries: room for the loop to improve it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean

import torch
from transformers import Gemma3nForCausalLM, PreTrainedTokenizerFast

from agentloop import environments
from agentloop.naming import content_id
from agentloop.records import SOLVED, Sampling, Trajectory
from agentloop.tiny.architecture import initialise, save, tiny_config
from agentloop.tiny.demonstrations import act, teach_tokenizer, write
from agentloop.tiny.sampling import sample
from agentloop.tiny.tokenizer import VOCABULARY
from agentloop.tiny.warm_start import WarmStart, train

MEASURED_TASKS, MEASURED_SAMPLES = 200, 8


@dataclass(frozen=True)
class Recipe:
    """The ingredients of a tiny model."""

    environment: str
    """The environment that the model is taught, whose words its tokenizer knows."""
    demonstrations: int
    tasks: int | None = None
    """Tasks that the demonstrations are of; None: each is of another one."""
    vocabulary: int = VOCABULARY
    settings: WarmStart = WarmStart()
    sampling: Sampling = Sampling(temperature=1.0, max_turns=6, max_turn_tokens=48, max_tokens=256)
    measured: int = MEASURED_TASKS
    """Held-out tasks that the model is measured on."""


RECIPES: Mapping[str, Recipe] = {
    "tiny": Recipe("arithmetic", 20_000),
    "tiny-textworld": Recipe(
        "textworld:treasure_hunter,level=5,theme=basic,games=400",
        2_000,
        tasks=150,
        settings=WarmStart(steps=300, batch=16),
        sampling=Sampling(temperature=1.0, max_turns=6, max_turn_tokens=24, max_tokens=512),
        measured=70,
    ),
}
"""By the model's name. `tiny` comes with agentloop, others are made where they are first needed."""


@dataclass(frozen=True)
class Measured:
    """Held-out success at temperature 1."""

    environment: str
    tasks: int
    samples: int
    success: float
    """Share of all episodes."""
    solved: float
    """Share of tasks that at least one of the samples solves (pass@samples)."""


@dataclass(frozen=True)
class BootstrapReport:
    """The account of what was done and what came out; written beside the weights as recipe.json."""

    seed: int
    settings: WarmStart
    demonstrations: dict[str, int]
    config: str
    """Hash of the model's configuration and vocabulary."""
    weights: str
    """Hash of the weights."""
    first_loss: float
    """Mean of the first 25 steps (nats per supervised token)."""
    last_loss: float
    """Mean of the last 25 steps."""
    measured: tuple[Measured, ...]


def bootstrap(
    directory: Path,
    recipe: Recipe = RECIPES["tiny"],
    *,
    seed: int = 0,
    steps: int | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> BootstrapReport:
    """Write the tiny base model of a recipe to `directory`, which appears whole or not at all; one that is there is replaced.

    `steps`: fewer training steps, with as many demonstrations as they need, for tests. `progress(step, steps, loss)` is
    called after each step. The same seed and steps give the same weights on the same machine.
    """
    settings = recipe.settings if steps is None else replace(recipe.settings, steps=steps)
    environment = environments.get(recipe.environment)
    count = min(recipe.demonstrations, settings.steps * settings.batch)
    tokenizer = teach_tokenizer(environment, seed, tasks=recipe.tasks, vocabulary=recipe.vocabulary)
    trajectories = act(write(environment, count, seed, tasks=recipe.tasks), environment, tokenizer)
    model = initialise(tiny_config(tokenizer), seed)
    losses = train(
        model,
        trajectories,
        settings,
        seed=seed,
        progress=lambda step, loss: progress(step, settings.steps, loss) if progress else None,
    )
    report = BootstrapReport(
        seed=seed,
        settings=settings,
        demonstrations={recipe.environment: count},
        config=_config_hash(model, tokenizer),
        weights=weights_hash(model),
        first_loss=fmean(losses[:25]),
        last_loss=fmean(losses[-25:]),
        measured=(_measure(model, tokenizer, environment, recipe, settings.steps * settings.batch),),
    )
    _write(directory, model, tokenizer, report, recipe)
    return report


def weights_hash(model: torch.nn.Module) -> str:
    """Hash of every parameter's name, shape and fp32 bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().to(torch.float32).contiguous().numpy().tobytes())
    return f"weights_{digest.hexdigest()[:16]}"


def _config_hash(model: Gemma3nForCausalLM, tokenizer: PreTrainedTokenizerFast) -> str:
    config = {name: value for name, value in model.config.to_dict().items() if name != "transformers_version"}
    return content_id("config", [config, sorted(tokenizer.get_vocab().items())])


def _measure(
    model: Gemma3nForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    environment: environments.Environment,
    recipe: Recipe,
    limit: int,
) -> Measured:
    tasks = environment.tasks("heldout", min(recipe.measured, MEASURED_TASKS, limit), seed=0)
    groups = [
        [_solved(environment, trajectory) for trajectory in group]
        for group in sample(model, tokenizer, environment, tasks, MEASURED_SAMPLES, recipe.sampling)
    ]
    return Measured(
        environment=environment.name,
        tasks=len(tasks),
        samples=MEASURED_SAMPLES,
        success=sum(map(sum, groups)) / (len(tasks) * MEASURED_SAMPLES),
        solved=sum(map(any, groups)) / len(tasks),
    )


def _solved(environment: environments.Environment, trajectory: Trajectory) -> bool:
    return environment.score(trajectory.task, trajectory.answer, trajectory.outcome)["success"] >= SOLVED


def _write(
    directory: Path,
    model: Gemma3nForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    report: BootstrapReport,
    recipe: Recipe,
) -> None:
    directory.parent.mkdir(parents=True, exist_ok=True)
    partial = directory.with_name(f".{directory.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    save(model, tokenizer, partial)
    (partial / "recipe.json").write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")
    (partial / "README.md").write_text(_readme(report, recipe), encoding="utf-8")
    replaced = directory.with_name(f".{directory.name}.{os.getpid()}.replaced")
    if directory.exists():
        os.replace(directory, replaced)
    os.replace(partial, directory)
    shutil.rmtree(replaced, ignore_errors=True)


def _readme(report: BootstrapReport, recipe: Recipe) -> str:
    name = next((name for name, known in RECIPES.items() if known == recipe), "tiny")
    chosen = "" if name == "tiny" else f" --model {name}"
    rows = "\n".join(
        f"| {measured.environment} | {measured.success:.1%} | {measured.solved:.1%} |" for measured in report.measured
    )
    return f"""# {name}

A Gemma 3n of about a million parameters, made by `agentloop bootstrap{chosen} --seed {report.seed}` (docs/tiny-model.md):
{report.settings.steps} steps of {report.settings.batch} scripted demonstrations, most of which show a bad habit.
Weights `{report.weights}`.

| environment | held-out success at temperature 1 | solved in {MEASURED_SAMPLES} tries |
|---|---|---|
{rows}
"""
