"""The base as the trainer sees it, written as a checkpoint by a process of its own."""

from __future__ import annotations

from pathlib import Path

from agentloop import job
from agentloop.records import Quantization
from agentloop.settings import Settings


def dequantised(settings: Settings, model: Path, quantization: Quantization) -> Path:
    """The directory, under settings.paths.cache, of `model` as this quantisation leaves it; made where it is missing.

    Raises ModelError with the process's own line, RoomError where it ran out of memory, TrainerError where it died.
    """
    request = {"model": str(model), "cache": str(settings.paths.cache), "quantization": quantization.settings()}
    worker = "agentloop.quantization.dequantised_worker"
    return Path(job.run(worker, request, settings, name="dequantised", what="dequantising the base"))
