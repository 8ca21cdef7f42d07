"""Dynamic quantisation: which linears stay in 16 bit, because NF4 costs most there for each byte that it saves.

A unit is what servers fuse into one matrix (q, k and v; gate and up), so that one of them is never held in two ways. Each unit
is measured by itself; in the order of KL per byte units are left in 16 bit, as many as are needed for the joint KL to be
below the tolerance, or as many as there are bytes for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt

Unit = tuple[str, ...]
"""Names of linears that are packed together or not at all."""

_FUSED = (("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), ("mlp.gate_proj", "mlp.up_proj"))


@dataclass(frozen=True)
class Cost:
    """Cost and saving of a unit that is held in NF4."""

    unit: Unit
    kl: float
    """In nats per token, of the base with this unit alone in NF4."""
    saved: int
    """Bytes."""


def most_lost(episode_kl: float) -> float:
    """The most by which success can differ, as a share, where episodes differ by so many nats: Pinsker's inequality.

    KL divergence of episodes is the sum of that of their tokens, for the tools' answers follow from what the model wrote.
    """
    return min(1.0, sqrt(episode_kl / 2))


def units(linears: Sequence[str]) -> list[Unit]:
    """The linears (`layers.N.self_attn.q_proj` and the like) as units, in their order."""
    found: dict[tuple[str, str], list[str]] = {}
    for name in linears:
        _, layer, module = name.split(".", 2)
        fused = next((group[0] for group in _FUSED if module in group), module)
        found.setdefault((layer, fused), []).append(name)
    return [tuple(names) for names in found.values()]


def choose(
    costs: Sequence[Cost], joint: Callable[[Sequence[str]], float], *, tolerance: float, most_bytes: int | None = None
) -> tuple[str, ...]:
    """Names of the linears that stay in 16 bit, sorted.

    `joint` gives the KL of the base with these linears in 16 bit and all others in NF4. `most_bytes`: what may be taken beyond
    NF4; where that does not reach the tolerance, it is spent.
    """
    order, spent = [], 0
    for cost in sorted(costs, key=lambda cost: (-cost.kl / cost.saved, cost.unit)):
        if most_bytes is None or spent + cost.saved <= most_bytes:
            order.append(cost.unit)
            spent += cost.saved

    def names(count: int) -> list[str]:
        return sorted(name for unit in order[:count] for name in unit)

    low, high = 0, len(order)
    while low < high:  # the fewest units whose joint KL is low enough
        middle = (low + high) // 2
        if joint(names(middle)) <= tolerance:
            high = middle
        else:
            low = middle + 1
    return tuple(names(low))
