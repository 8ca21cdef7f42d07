"""What each layer keeps from its forward pass for its backward pass, and what a step will need at its peak.

Keeping costs memory, recomputing costs time. FLOPs saved per byte kept decide the order: down_proj's output first by far,
then the attention side, then gate and up, the highest layers first because what they keep is soon free again.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from agentloop.engine.architecture import Architecture

GIB = 2**30


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


@dataclass(frozen=True)
class StepSize:
    """The numbers of a step that memory depends on."""

    tokens: int
    upper: int
    """Tokens that go through the layers above the boundary."""
    supervised: int
    itemsize: int
    rank: int
    """Columns of a LoRA tail for one projection's group, roughly: padding included."""
    chunk: int
    """Tokens that pass the feed-forward together."""
    head_rows: int


def kept_bytes(shape: Architecture, layer: int, keep: Keep, size: StepSize) -> int:
    """Bytes that `layer` holds between its forward and its backward pass."""
    elements = shape.streams * shape.hidden
    raw = shape.heads * shape.head_dim + shape.laurel_rank
    if layer < shape.boundary:
        raw += 2 * shape.kv_heads * shape.head_dim
    if keep >= Keep.DOWN:
        elements += shape.hidden + size.rank
    if keep >= Keep.ATTENTION:
        elements += raw + shape.heads * shape.head_dim + size.rank + shape.hidden
    if keep >= Keep.ALL:
        elements += 2 * shape.intermediate[layer] + size.rank
    extra = 4 * shape.heads * (keep >= Keep.ATTENTION) + 8 * (shape.sparsity[layer] > 0)
    return (size.tokens if layer < shape.boundary else size.upper) * (elements * size.itemsize + extra)


def peak_bytes(shape: Architecture, keep: tuple[Keep, ...], size: StepSize, fixed: int) -> int:
    """Predicted peak of allocated device memory. `fixed`: weights, adapter, optimizer and dequantised matrices."""
    kept = sum(kept_bytes(shape, layer, level, size) for layer, level in enumerate(keep))
    skipping = size.upper < size.tokens
    sources = {shape.kv_source(layer) for layer in range(shape.boundary, shape.layers)}
    kv = 2 * shape.kv_heads * shape.head_dim * size.tokens
    common = kv * len(sources) * size.itemsize + size.tokens * shape.layers * shape.ple * size.itemsize
    if skipping:
        common += size.tokens * shape.streams * shape.hidden * size.itemsize
    dkeys = kv * len(sources) * 4
    streams = shape.streams * shape.hidden * size.itemsize
    head = size.supervised * 3 * streams + min(size.supervised, size.head_rows) * shape.vocab * size.itemsize
    # The fullest moment of a layer's backward pass is its feed-forward: what was recomputed around it, and a chunk of
    # gate, up and hidden. Counted from the top layer (everything is still kept) and from the last full one.
    layers = []
    for layer in {shape.layers - 1, shape.boundary - 1} - {-1}:
        tokens = size.upper if layer >= shape.boundary else size.tokens
        below = sum(kept_bytes(shape, i, keep[i], size) for i in range(layer + 1))
        width = 9 * shape.hidden + 2 * shape.heads * shape.head_dim + shape.streams * shape.hidden + 4 * size.rank
        chunk = min(tokens, size.chunk)
        inner = shape.intermediate[layer] * (1 if keep[layer] is Keep.ALL else 3)
        layers.append(below + tokens * width * size.itemsize + chunk * inner * size.itemsize + dkeys)
    return fixed + common + max(kept + head, *layers)


def fill(shape: Architecture, size: StepSize, fixed: int, budget: int) -> tuple[Keep, ...]:
    """The levels that keep most of value within `budget` bytes; all STREAMS where even that does not fit."""
    keep = [Keep.STREAMS] * shape.layers
    for level in (Keep.DOWN, Keep.ATTENTION, Keep.ALL):
        for layer in reversed(range(shape.layers)):
            before, keep[layer] = keep[layer], level
            if peak_bytes(shape, tuple(keep), size, fixed) > budget:
                keep[layer] = before
                return tuple(keep)
    return tuple(keep)
