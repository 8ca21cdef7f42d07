"""What each layer keeps from its forward pass for its backward pass, and what a step's process will need at its peak.

Keeping costs memory, recomputing costs time. FLOPs saved per byte kept decide the order: down_proj's output first by far,
then the attention side, then gate and up, the highest layers first because what they keep is soon free again. Where not
even streams and down_proj's outputs fit, those wait in host memory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from functools import lru_cache

from agentloop.model_directory.architecture import Architecture

GIB = 2**30


class Keep(IntEnum):
    """Each level keeps what the one before it keeps, and more."""

    STREAMS = 0
    """The residual streams that enter the layer."""
    DOWN = 1
    """And down_proj's output."""
    ATTENTION = 2
    """And the raw q, k, v, attention's output and its log-sum-exp, o_proj's output."""
    ALL = 3
    """And gate and up: nothing but elementwise work is done again."""


HELD: dict[Keep, tuple[str, ...]] = {
    Keep.STREAMS: ("statistics", "streams"),
    Keep.DOWN: ("down_tail", "down_out"),
    Keep.ATTENTION: ("raw", "attended", "lse", "attention_out"),
    Keep.ALL: ("gate_up",),
}
"""Level -> the fields of `Activations` that it keeps and the level before it does not."""
ON_HOST = ("streams", "down_out")
"""Those that wait in host memory where a plan says so."""


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


OUTSIDE = int(0.77 * GIB)
"""Of a card's memory that a process holds beside torch's: CUDA's context (0.60 GiB on an H200), loaded kernels, graphs."""
IDLE_SHARE = 0.015
"""What lies idle between tensors at the peak, relative to them, and half as much as the largest of them, the logits; where
torch's segments are expandable. Measured 0.07 to 1.1 GiB: kernels/benchmarks/results/train_step_process_*.json."""
CUBLAS = 2 * 32 * 2**20
"""cuBLAS' workspaces: one for launched kernels, one for CUDA graphs (32 MiB each on Hopper, 8 on cards before)."""
MIB = 2**20


@dataclass(frozen=True)
class StepSize:
    """The numbers of a step that memory depends on."""

    tokens: int
    upper: int
    """Tokens that go through the layers above the boundary."""
    supervised: int
    itemsize: int
    """Bytes of an element that GEMMs read or write."""
    stream_itemsize: int
    """Bytes of an element of the residual streams."""
    rank: int
    """Columns of a LoRA tail, padding included."""
    matrices: int
    """Bytes of dequantised matrices in use."""


def block(size: int) -> int:
    """Bytes that torch's caching allocator takes for `size`: large blocks come in 2 MiB, and what is left over of one is
    split off only where it exceeds 1 MiB."""
    if size < 10 * MIB:
        return -(-size // 512) * 512
    whole = -(-size // (2 * MIB)) * 2 * MIB
    return whole if whole - size <= MIB else size


class Widths:
    """Bytes that one token takes in each tensor of a layer."""

    def __init__(self, shape: Architecture, layer: int, size: StepSize) -> None:
        spec, e, wide = shape.layer_specs[layer], size.itemsize, size.stream_itemsize
        query, keys = shape.heads * shape.head_dim, 2 * shape.kv_heads * shape.head_dim
        self.streams = shape.streams * shape.hidden * wide
        self.residual = shape.hidden * wide
        self.row = shape.hidden * e
        self.tail = size.rank * e
        self.raw = spec.outputs("query") * e
        self.query = query * e
        self.keys = keys * e
        # What torch's FlashAttention takes in its backward pass, which a soft-cap excludes: fp32 sums of dq, out once more, dk
        # and dv for every head.
        self.flash = query * 4 + 3 * self.query if shape.attention_softcap is None else 0
        self.gate_up = spec.outputs("gate_up") * e + self.tail
        self.inner = shape.intermediate[layer] * e
        self.ple = shape.ple * e
        self.held = {
            "statistics": 8 * (shape.sparsity[layer] > 0),
            "streams": self.streams,
            "down_tail": self.tail,
            "down_out": self.row,
            "raw": self.raw,
            "attended": self.query + self.tail,
            "lse": 4 * shape.heads,
            "attention_out": self.row,
            "gate_up": self.gate_up,
        }
        altup = "ple_projection" in spec.groups
        # AltUp's prediction, gradient of the per-layer input's branch and its gate; LAuReL's output and dfirst; dsum, which is
        # the stream's own gradient where there is one stream.
        self.predicted = self.residual + self.row + self.ple if altup else 0
        self.branches = self.row + self.residual if altup else 0
        self.dsum = self.residual if altup else 0
        self.own_keys = self.keys if layer < shape.boundary and not altup else 0

    def kept(self, keep: Keep, offload: bool) -> list[int]:
        """Return the bytes of the tensors that stay on the device between the forward and the backward pass."""
        names = (name for level, names in HELD.items() if level <= keep for name in names)
        return [self.held[name] for name in names if not (offload and name in ON_HOST)]

    def fullest(self, keep: Keep, offload: bool, tokens: int, chunk: int) -> int:
        """Bytes at the fullest moment of the layer's backward pass, beyond what is kept for it and those below: either
        in the feed-forward, which works on a chunk, or in attention, which works on everything."""
        fetched = 2 * self.streams + self.row if offload else 0
        freed = self.row if keep >= Keep.DOWN and not offload else 0
        always = self.streams + fetched - freed + self.row + self.tail + self.predicted
        again = self.raw + self.query + self.tail if keep < Keep.ATTENTION else 0
        # What was predicted and normed is in `always`; here feedforward_in, merged, ddown and dx.
        feedforward = 3 * self.row + self.residual + 2 * self.tail + self.branches
        feedforward += again + (self.query + self.row if keep < Keep.ATTENTION else 0)
        inner = self.inner if keep is Keep.ALL else self.gate_up + self.inner
        # dsum, ddown, dnormed, dattention, draw; q, dO, dq, dk and dv.
        attention = self.dsum + 3 * self.row + 2 * self.tail + self.raw + self.tail + self.own_keys
        attention += again + 3 * self.query + self.keys + self.flash
        attention -= self.row if keep >= Keep.ATTENTION else 0
        attention -= self.gate_up if keep is Keep.ALL else 0
        part = min(tokens, chunk)
        return tokens * always + max(tokens * feedforward + part * inner, tokens * attention)


@lru_cache(maxsize=16)
def _widths(shape: Architecture, size: StepSize) -> tuple[Widths, ...]:
    return tuple(Widths(shape, layer, size) for layer in range(shape.layers))


def peak_bytes(shape: Architecture, plan: StepPlan, size: StepSize, fixed: int) -> int:
    """Predicted peak of what tensors take. `fixed`: weights, adapter and optimizer."""
    rows = [size.tokens if layer < shape.boundary else size.upper for layer in range(shape.layers)]
    widths = _widths(shape, size)
    sources = {shape.kv_source(layer) for layer in range(shape.boundary, shape.layers)}
    keys = 2 * shape.kv_heads * shape.head_dim * size.tokens * len(sources)
    common = keys * size.itemsize + size.tokens * shape.layers * shape.ple * size.itemsize + size.matrices
    if size.upper < size.tokens:
        common += size.tokens * widths[0].streams
    below, backward = 0, 0
    for layer, (width, tokens) in enumerate(zip(widths, rows, strict=True)):
        below += sum(block(tokens * each) for each in width.kept(plan.keep[layer], plan.offload))
        backward = max(backward, below + width.fullest(plan.keep[layer], plan.offload, tokens, plan.chunk))
    # At the head all layers' activations are there, and what it computes with: streams, their projections, the input.
    top = widths[-1]
    leaving = (top.streams + top.row) * size.upper if plan.offload else 0
    logits = _logits(shape, plan, size)
    head = below + leaving + size.supervised * 2 * top.streams + max(logits, size.supervised * top.streams)
    return fixed + CUBLAS + common + max(head, backward + keys * 4)


def process_bytes(shape: Architecture, plan: StepPlan, size: StepSize, fixed: int) -> int:
    """Predicted peak of what the process holds of the card, as nvidia-smi shows it."""
    tensors = peak_bytes(shape, plan, size, fixed)
    return int(OUTSIDE + tensors * (1 + IDLE_SHARE) + _logits(shape, plan, size) / 2)


def _logits(shape: Architecture, plan: StepPlan, size: StepSize) -> int:
    return min(size.supervised, plan.head_rows) * shape.vocab * size.itemsize


LEAN = ((2048, 1024), (2048, 512), (1024, 512), (1024, 256), (512, 256))
"""(chunk, head_rows), from the fastest to the leanest."""


@lru_cache(maxsize=256)
def choose(shape: Architecture, size: StepSize, fixed: int, budget: int) -> StepPlan:
    """The plan that recomputes least and with which the process is predicted to hold at most `budget` bytes; the leanest
    where none does.

    Of two that recompute the same the one that leaves the host alone wins.
    """
    candidates = [
        plan for offload in (False, True) if (plan := _fill(shape, size, fixed, budget, StepPlan((), offload)))
    ]
    if candidates:
        return min(candidates, key=lambda plan: (_recomputed(shape, plan), plan.offload))
    lean = [StepPlan((Keep.DOWN,) * shape.layers, True, chunk, rows) for chunk, rows in LEAN]
    return next((plan for plan in lean if process_bytes(shape, plan, size, fixed) <= budget), leanest(shape))


def leanest(shape: Architecture) -> StepPlan:
    """The plan that needs least memory."""
    return StepPlan((Keep.DOWN,) * shape.layers, True, *LEAN[-1])


def _fill(shape: Architecture, size: StepSize, fixed: int, budget: int, start: StepPlan) -> StepPlan | None:
    """Raise levels while they fit; None where not even all of DOWN does."""
    keep = [Keep.DOWN] * shape.layers
    plan = replace(start, keep=tuple(keep))
    if process_bytes(shape, plan, size, fixed) > budget:
        return None
    for level in (Keep.ATTENTION, Keep.ALL):
        for layer in reversed(range(shape.layers)):
            keep[layer] = level
            higher = replace(start, keep=tuple(keep))
            if process_bytes(shape, higher, size, fixed) > budget:
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
