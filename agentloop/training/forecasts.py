"""What a training step will take of the card, asked of a process of its own: only it imports the engine."""

from __future__ import annotations

from collections.abc import Sequence

from agentloop import job
from agentloop.records import Quantization
from agentloop.settings import Settings


def least_memory(settings: Settings, quantizations: Sequence[Quantization]) -> list[float]:
    """GiB that the leanest step takes with the base held in each of these ways; last, the share of a card that is planned with.

    Raises ModelError with the process's own line, TrainerError where it died.
    """
    request = {
        "settings": settings.model_dump(mode="json"),
        "quantizations": [quantization.settings() for quantization in quantizations],
    }
    worker = "agentloop.training.forecasts_worker"
    return job.run(worker, request, settings, name="forecast", what="the forecast of a training step")
