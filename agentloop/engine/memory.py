"""What each layer keeps from its forward pass for its backward pass.

Keeping costs memory, recomputing costs time; FLOPs saved per byte kept decide the order (down_proj's output first, by far).
"""

from __future__ import annotations

from enum import IntEnum


class Keep(IntEnum):
    """Each level keeps what the one before it keeps, and more."""

    STREAMS = 0
    """The AltUp streams that enter the layer."""
    DOWN = 1
    """And down_proj's output."""
    ATTENTION = 2
    """And the raw q, k, v, attention's output and its log-sum-exp, o_proj's output."""
    ALL = 3
    """And gate and up: nothing but elementwise work is done again."""
