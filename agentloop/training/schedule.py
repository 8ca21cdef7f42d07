"""The learning rate over a run: linear warm-up, then a cosine to zero."""

from __future__ import annotations

import math


def learning_rate(step: int, steps: int, *, peak: float, warmup_fraction: float) -> float:
    """Rate of optimizer step `step` (from 0) of `steps`."""
    warmup = max(1, round(steps * warmup_fraction))
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
