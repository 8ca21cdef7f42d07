"""How long to wait before something is tried again."""

from __future__ import annotations

import random


def pause(attempt: int, *, first: float, longest: float) -> float:
    """Seconds to wait after failed attempt number `attempt` (from 0): twice as long each time, and not all at once."""
    doublings = min(attempt, 16)  # of thousands no float can be made
    return min(first * 2**doublings, longest) * random.uniform(0.5, 1.0)
