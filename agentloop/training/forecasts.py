"""What a training step will take of the card, asked of a process of its own: only it imports the engine."""

from __future__ import annotations

from collections.abc import Sequence

from agentloop import job
from agentloop.naming import content_id
from agentloop.records import Quantization
from agentloop.settings import Settings

_ANSWERS: dict[str, list[float]] = {}


def least_memory(settings: Settings, quantizations: Sequence[Quantization]) -> list[float]:
    """GiB that the leanest step takes with the base held in each of these ways; last, the share of a card that is planned with.

    Asked once in a process's life, for it takes seconds. Raises ModelError with the child's own line, TrainerError where it
    died.
    """
    request = {
        "settings": settings.model_dump(mode="json"),
        "quantizations": [quantization.settings() for quantization in quantizations],
    }
    asked = content_id("forecast", request)
    if asked not in _ANSWERS:
        worker = "agentloop.training.forecasts_worker"
        _ANSWERS[asked] = job.run(worker, request, settings, name="forecast", what="the forecast of a training step")
    return _ANSWERS[asked]
