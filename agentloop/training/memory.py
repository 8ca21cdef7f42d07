"""The card's memory that the trainer's process holds: checked before anything is loaded, and told while it trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import torch

from agentloop import card
from agentloop.engine.api.language_model import default_dtype
from agentloop.engine.batch import PackedBatch
from agentloop.engine.batch.shapes import StepShape
from agentloop.engine.memory import nvml
from agentloop.engine.memory.plans import GIB, OUTSIDE
from agentloop.engine.meta.forecast import StepForecast, in_training
from agentloop.engine.step.model import LanguageModel
from agentloop.errors import SettingError
from agentloop.model_directory.configuration import read_architecture
from agentloop.records import Quantization
from agentloop.settings import Settings, Training
from agentloop.training.shortage import Shortage

_LOOK_STEPS = 16


def check(
    model: Path,
    batches: Sequence[PackedBatch],
    settings: Training,
    quantization: Quantization,
    *,
    dtype: torch.dtype | None,
    budget: float | Literal["auto"],
    device: int,
    free_bytes: Callable[[], tuple[int, ...]],
) -> None:
    """Refuse what cannot be trained on this card, before anything is loaded; config.json alone is read.

    `budget`: GiB of card `device` that the process may hold; what is free bounds it. `free_bytes`: tells that, as
    `card.free_bytes` does. Does nothing without a card. Raises SettingError, in one line with what is needed, where not even
    the leanest plan fits the fullest batch.
    """
    if not torch.cuda.device_count():
        return
    # Another process asks: this one would have a CUDA context then, and could not be copied any more.
    free = (free_bytes()[device] + card.CONTEXT) / GIB
    allowed = free if budget == "auto" else min(budget, free)
    planned = in_training(
        read_architecture(model),
        dtype=dtype or default_dtype(nvml.capability() or (8, 0)),
        max_seq_length=max(batch.max_seqlen for batch in batches),
        quantization=quantization,
        rank=settings.rank,
        targets=settings.targets,
        optimizer_bits=settings.optimizer_bits,
    )
    planned.expect(batches)
    # Of a run's many batches most are padded to the same size.
    of_each_size: dict[StepShape, PackedBatch] = {}
    for batch in batches:
        of_each_size.setdefault(planned.step_shape(batch), batch)
    need, fullest = max(
        ((planned.needed(batch) / GIB, batch) for batch in of_each_size.values()), key=lambda pair: pair[0]
    )
    if need > allowed:
        limit = f"the card has {free:.2f} GiB free" if allowed == free else f"training.memory_budget is {budget:g} GiB"
        raise SettingError(
            f"training.batch_tokens: a step of {fullest.tokens} tokens ({fullest.supervised} trained on) needs at least "
            f"{need:.2f} GiB of the card at rank {settings.rank}, {limit}"
        )


def forecast(
    settings: Settings, quantization: Quantization, *, tokens: int | None = None, supervised: float = 1.0
) -> StepForecast:
    """A training step with these settings, by default of a whole packed batch; config.json alone is read.

    Raises ModelError, or SettingError for a number that cannot be used.
    """
    training = settings.training
    return StepForecast(
        settings.model_directory(),
        training.batch_tokens if tokens is None else tokens,
        supervised=supervised,
        rank=training.rank,
        targets=training.targets,
        quantization=quantization,
        optimizer_bits=training.optimizer_bits,
        dtype=getattr(torch, "bfloat16" if training.dtype == "auto" else training.dtype),
    )


class CardMemory:
    """The memory that this process holds of its card while it trains; on the CPU nothing is counted."""

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self._on_card = model.device.type == "cuda"
        self.peak: float | None = None
        """GiB as nvidia-smi shows them, the most so far; None on the CPU."""
        self._looks = 0
        self._reserved = -1
        if self._on_card:
            torch.cuda.empty_cache()  # what loading has left lies where steps cannot use it

    def look(self) -> float | None:
        """Bring `peak` up to date. Asks the driver only when torch's own memory has changed, and now and then."""
        if self._on_card:
            reserved = torch.cuda.memory_reserved(self._model.device)
            if reserved != self._reserved or self._looks % _LOOK_STEPS == 0:
                held = self._held() + torch.cuda.max_memory_reserved(self._model.device) - reserved
                self.peak = max(self.peak or 0.0, held / GIB)
            self._reserved = reserved
            self._looks += 1
        return self.peak

    def shortage(self, batch: PackedBatch) -> Shortage:
        """After a step with `batch` ran out of memory."""
        free, _ = torch.cuda.mem_get_info(self._model.device)
        return Shortage(self._model.predicted_peak(batch) / GIB, (self._held() + free) / GIB)

    def _held(self) -> int:
        told = nvml.process_bytes(self._model.device)
        return OUTSIDE + torch.cuda.memory_reserved(self._model.device) if told is None else told
