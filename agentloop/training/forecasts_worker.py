"""The process that forecasts training steps. Its request is written by forecasts.py."""

from __future__ import annotations

from typing import Any

from agentloop import job
from agentloop.engine.step.model import AUTO_SHARE
from agentloop.records import Quantization
from agentloop.settings import load
from agentloop.training.memory import forecast


def least_memory(request: dict[str, Any]) -> list[float]:
    """Return what forecasts.least_memory returns."""
    settings = load(request["settings"])
    held = map(Quantization.of, request["quantizations"])
    return [*(forecast(settings, each).least for each in held), AUTO_SHARE]


if __name__ == "__main__":
    job.main(least_memory)
