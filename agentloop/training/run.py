"""A training run: everything that determines an adapter, as one JSON file that the trainer's process is given."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from agentloop.naming import content
from agentloop.records import Adapter, Quantization
from agentloop.settings import Paths, Sft, Training
from agentloop.training import CODE_VERSION

OBJECTIVES = ("sft", "grpo", "dpo", "kto")
"""Sections of the settings, of which only the chosen objective's is part of an adapter's name."""

NOT_LEARNT = (
    "bounds",
    "checkpoint_steps",
    "continue_adapter",
    "devices",
    "max_quantization_loss",
    "memory_budget",
    "quantization",
    "quantization_tolerance",
    "stall_seconds",
)
"""Settings that do not change what is learnt from a batch, and so are no part of an adapter's name: how often it is saved, how
many devices share the work, what is computed again for want of memory, how long a hung trainer is waited for, where a run is
given up. What it continues, the adapter's parent says; what became of the base, its quantization."""


@dataclass(frozen=True)
class TrainingRun:
    adapter: Adapter
    model: Path
    """The base model's directory."""
    rows: Path
    """The dataset's token ids and masks, see agentloop/training/rows.py."""
    adapters: Path
    checkpoints: Path
    cache: Path
    bounds: dict[str, float | None] = field(default_factory=dict)
    """Settings of `training.bounds`, with which the run is given up; none by default."""

    @classmethod
    def plan(
        cls,
        *,
        base: str,
        dataset: str,
        rows: Path,
        model: Path,
        training: Training,
        quantization: Quantization,
        seed: int,
        paths: Paths,
        parent: str | None = None,
    ) -> TrainingRun:
        settings = {name: value for name, value in content(training).items() if name not in (*NOT_LEARNT, *OBJECTIVES)}
        # a name must not change its meaning when a default changes
        if training.objective != "sft" or training.sft != Sft():
            settings |= {training.objective: content(getattr(training, training.objective))}
        settings |= quantization.settings()
        adapter = Adapter(base=base, dataset=dataset, training=settings, seed=seed, code=CODE_VERSION, parent=parent)
        bounds = training.bounds.model_dump(exclude_none=True)
        return cls(adapter, model, rows, paths.adapters, paths.checkpoints, paths.cache, bounds)

    @property
    def settings(self) -> Training:
        own = Quantization.of(self.adapter.training).settings()
        return Training(**{name: value for name, value in self.adapter.training.items() if name not in own})

    @property
    def quantization(self) -> Quantization:
        return Quantization.of(self.adapter.training)

    @property
    def output(self) -> Path:
        return self.adapters / self.adapter.id

    @property
    def checkpoint(self) -> Path:
        return self.checkpoints / f"{self.adapter.id}.safetensors"

    @property
    def metrics(self) -> Path:
        """One JSON object for each optimizer step."""
        return self.checkpoints / f"{self.adapter.id}.metrics.jsonl"

    def to_json(self) -> dict[str, Any]:
        return json.loads(json.dumps(asdict(self), default=str))

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> TrainingRun:
        paths = {name: Path(each) for name, each in value.items() if name not in ("adapter", "bounds")}
        return cls(adapter=Adapter(**value["adapter"]), bounds=value.get("bounds", {}), **paths)
