"""What each layer keeps from its forward pass for its backward pass, and what a step will need at its peak.

Keeping costs memory, recomputing costs time. FLOPs saved per byte kept decide the order: down_proj's output first by far,
then the attention side, then gate and up, the highest layers first because what they keep is soon free again. Where not
even streams and down_proj's outputs fit, those wait in host memory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from functools import lru_cache

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
class StepPlan:
    keep: tuple[Keep, ...]
    """For each layer."""
    offload: bool = False
    """Streams and down_proj's outputs wait in host memory."""
    chunk: int = 2048
    """Tokens that pass the feed-forward together."""
    head_rows: int = 1024
    """Rows whose logits exist at once."""

    def __str__(self) -> str:
        levels = "".join(str(int(level)) for level in self.keep)
        return f"{levels}{'+host' if self.offload else ''}/{self.chunk}/{self.head_rows}"


@dataclass(frozen=True)
class StepSize:
    """The numbers of a step that memory depends on."""

    tokens: int
    upper: int
    """Tokens that go through the layers above the boundary."""
    supervised: int
    itemsize: int
    rank: int
    """Columns of a LoRA tail, padding included."""
    matrices: int
    """Bytes of dequantised matrices in use."""


def kept_bytes(shape: Architecture, layer: int, plan: StepPlan, size: StepSize) -> int:
    """Bytes that `layer` holds on the device between its forward and its backward pass."""
    keep = plan.keep[layer]
    elements = 0 if plan.offload else shape.streams * shape.hidden
    raw = shape.heads * shape.head_dim + shape.laurel_rank
    if layer < shape.boundary:
        raw += 2 * shape.kv_heads * shape.head_dim
    if keep >= Keep.DOWN:
        elements += size.rank + (0 if plan.offload else shape.hidden)
    if keep >= Keep.ATTENTION:
        elements += raw + shape.heads * shape.head_dim + size.rank + shape.hidden
    if keep >= Keep.ALL:
        elements += 2 * shape.intermediate[layer] + size.rank
    extra = 4 * shape.heads * (keep >= Keep.ATTENTION) + 8 * (shape.sparsity[layer] > 0)
    return (size.tokens if layer < shape.boundary else size.upper) * (elements * size.itemsize + extra)


def peak_bytes(shape: Architecture, plan: StepPlan, size: StepSize, fixed: int) -> int:
    """Predicted peak of allocated device memory. `fixed`: weights, adapter and optimizer."""
    kept = sum(kept_bytes(shape, layer, plan, size) for layer in range(shape.layers))
    skipping = size.upper < size.tokens
    sources = {shape.kv_source(layer) for layer in range(shape.boundary, shape.layers)}
    kv = 2 * shape.kv_heads * shape.head_dim * size.tokens
    common = kv * len(sources) * size.itemsize + size.tokens * shape.layers * shape.ple * size.itemsize
    if skipping:
        common += size.tokens * shape.streams * shape.hidden * size.itemsize
    dkeys = kv * len(sources) * 4
    streams = shape.streams * shape.hidden * size.itemsize
    moving = (streams + shape.hidden * size.itemsize) * size.tokens if plan.offload else 0
    head = size.supervised * 3 * streams + min(size.supervised, plan.head_rows) * shape.vocab * size.itemsize
    head += size.matrices
    # The fullest moment of a layer's backward pass is its feed-forward: what was recomputed around it, and a chunk of
    # gate, up and hidden. Counted from the top layer (everything is still kept) and from the last full one.
    layers = []
    for layer in {shape.layers - 1, shape.boundary - 1} - {-1}:
        tokens = size.upper if layer >= shape.boundary else size.tokens
        below = sum(kept_bytes(shape, i, plan, size) for i in range(layer + 1))
        width = 9 * shape.hidden + 2 * shape.heads * shape.head_dim + shape.streams * shape.hidden + 4 * size.rank
        chunk = min(tokens, plan.chunk)
        inner = shape.intermediate[layer] * (1 if plan.keep[layer] is Keep.ALL else 3)
        layers.append(
            below + 2 * moving + tokens * width * size.itemsize + chunk * inner * size.itemsize + dkeys + size.matrices
        )
    return fixed + common + max(kept + moving + head, *layers)


LEAN = ((2048, 1024), (2048, 512), (1024, 512), (1024, 256), (512, 256))
"""(chunk, head_rows), from the fastest to the leanest."""


@lru_cache(maxsize=256)
def choose(shape: Architecture, size: StepSize, fixed: int, budget: int) -> StepPlan:
    """The plan that recomputes least and is predicted to stay within `budget` bytes; the leanest where none does.

    Of two that recompute the same the one that leaves the host alone wins.
    """
    candidates = [
        plan for offload in (False, True) if (plan := _fill(shape, size, fixed, budget, StepPlan((), offload)))
    ]
    if candidates:
        return min(candidates, key=lambda plan: (_recomputed(shape, plan), plan.offload))
    lean = [StepPlan((Keep.DOWN,) * shape.layers, True, chunk, rows) for chunk, rows in LEAN]
    return next((plan for plan in lean if peak_bytes(shape, plan, size, fixed) <= budget), lean[-1])


def _fill(shape: Architecture, size: StepSize, fixed: int, budget: int, start: StepPlan) -> StepPlan | None:
    """Raise levels while they fit; None where not even all of DOWN does."""
    keep = [Keep.DOWN] * shape.layers
    plan = replace(start, keep=tuple(keep))
    if peak_bytes(shape, plan, size, fixed) > budget:
        return None
    for level in (Keep.ATTENTION, Keep.ALL):
        for layer in reversed(range(shape.layers)):
            keep[layer] = level
            higher = replace(start, keep=tuple(keep))
            if peak_bytes(shape, higher, size, fixed) > budget:
                return plan
            plan = higher
    return plan


def _recomputed(shape: Architecture, plan: StepPlan) -> int:
    """Multiplications a token that the backward pass does again."""
    attention = shape.hidden * (2 * shape.heads + 2 * shape.kv_heads) * shape.head_dim
    return sum(
        2 * shape.hidden * shape.intermediate[layer] * (keep < Keep.ALL) + attention * (keep < Keep.ATTENTION)
        for layer, keep in enumerate(plan.keep)
    )
