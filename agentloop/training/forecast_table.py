"""`agentloop doctor --train`: the memory that a training step is predicted to need, and what it would keep, card by card."""

from __future__ import annotations

from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from agentloop.engine.memory.plans import GIB
from agentloop.engine.meta.forecast import DESKTOP, Forecast, StepForecast
from agentloop.engine.step.model import AUTO_SHARE
from agentloop.records import NF4, NONE
from agentloop.settings import Settings
from agentloop.training.memory import forecast

BASES = ("none", "nf4")
"""As training.quantization calls them."""
CARDS = (8, 24, 80)
"""GiB."""


def report(settings: Settings, tokens: int, supervised: float, budget: float | None, console: Console) -> None:
    """Print it. Raises ModelError or SettingError, in one line, where the model or a number cannot be used."""
    training = settings.training
    bases = _bases(settings, tokens, supervised)
    step = _looked_at(settings, bases)
    rows = _rows(settings, step, budget)
    console.print(
        f"{settings.model_directory()}: one step of {tokens} tokens, {supervised:.0%} supervised, rank {training.rank}, "
        f"AdamW in {training.optimizer_bits} bits"
    )
    always = ", ".join(f"{name} {_size(gib)}" for name, gib in step.resident.items())
    console.print(f"in use whatever the batch: {always}")
    if step.host_table:
        console.print(f"in host memory: per-layer embeddings {_size(step.host_table)}")
    _print_bases(bases, training.quantization, console)
    console.print()
    table = Table(
        "where", "budget", "process", "", "layers × what they keep for the backward pass", "longest step", box=None
    )
    for where, predicted in rows:
        table.add_row(where, *_cells(predicted))
    console.print(table)
    console.print(
        "\nGiB of the card that the trainer's process holds at its peak, as nvidia-smi shows them: tensors, what torch keeps "
        f"between them, CUDA's context. A card's budget is {AUTO_SHARE:.0%} of what a desktop leaves ({DESKTOP} GiB taken)."
    )
    if not torch.cuda.is_available():
        console.print("This machine has no CUDA card: training here runs on the CPU and keeps everything.")


def as_json(settings: Settings, tokens: int, supervised: float, budget: float | None) -> dict[str, Any]:
    """The same for programs, in GiB. Raises as `report` does."""
    bases = _bases(settings, tokens, supervised)
    step = _looked_at(settings, bases)
    return {
        "model": settings.model_directory(),
        "tokens": tokens,
        "supervised": supervised,
        "rank": settings.training.rank,
        "optimizer_bits": settings.training.optimizer_bits,
        "quantization": settings.training.quantization,
        "resident": step.resident,
        "host_table": step.host_table,
        "bases": {name: {"weights": each.resident["weights"], "least": each.least} for name, each in bases.items()},
        "budgets": [
            {
                "where": where,
                "budget": each.budget,
                "process": each.peak,
                "fits": each.fits,
                "keeps": each.keeps,
                "longest": each.longest,
            }
            for where, each in _rows(settings, step, budget)
        ],
    }


def _bases(settings: Settings, tokens: int, supervised: float) -> dict[str, StepForecast]:
    """By what training.quantization calls them."""
    return {
        name: forecast(settings, quantization, tokens=tokens, supervised=supervised)
        for name, quantization in zip(BASES, (NONE, NF4))
    }


def _looked_at(settings: Settings, bases: dict[str, StepForecast]) -> StepForecast:
    return bases["none" if settings.training.quantization == "none" else "nf4"]


def _rows(settings: Settings, step: StepForecast, budget: float | None) -> list[tuple[str, Forecast]]:
    """What fits where: under the budgets that are named, on usual cards, on this machine's."""
    training = settings.training
    rows = [("--budget", step.under(budget))] if budget is not None else []
    if training.memory_budget != "auto":
        rows.append(("training.memory_budget", step.under(training.memory_budget)))
    rows += [(f"a card of {memory} GiB", step.on_card(memory)) for memory in CARDS]
    if torch.cuda.is_available():
        total = torch.cuda.mem_get_info()[1] / GIB
        rows.append((f"this card, {total:.0f} GiB", step.on_card(total)))
    return rows


def _print_bases(bases: dict[str, StepForecast], chosen: str, console: Console) -> None:
    """What the base takes in 16 bit and in NF4, and the least that training on it takes."""
    none, nf4 = (f"{_size(bases[name].resident['weights'])} (least {bases[name].least:.2f} GiB)" for name in BASES)
    looked_at = "the base in 16 bit" if chosen == "none" else "the base in NF4"
    console.print(
        f"training.quantization = {chosen}: weights in 16 bit {none}, in NF4 {nf4}, dynamic between them; "
        f"below: {looked_at}"
    )


def _size(gib: float) -> str:
    return f"{gib:.2f} GiB" if gib >= 0.1 else f"{gib * 1024:.1f} MiB"


def _cells(forecast: Forecast) -> tuple[str | Text, ...]:
    verdict = Text("fits", style="green") if forecast.fits else Text("too large", style="red")
    return f"{forecast.budget:.2f}", f"{forecast.peak:.2f}", verdict, forecast.keeps, f"{forecast.longest:,} tokens"
