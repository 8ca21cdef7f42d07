"""The canary: served logprobs against the trainer's own, for the base and for the adapter, on the same token ids.

A model that is served wrongly still answers fluently. The only way to see it is to compare numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agentloop.errors import CanaryError

Logprobs = Sequence[Sequence[float]]
"""One row a prompt: log p of each token given its prefix."""


@dataclass(frozen=True)
class CanaryReport:
    """Absolute differences in nats per token."""

    tokens: int
    base_mean: float
    base_max: float
    adapter_mean: float
    adapter_max: float
    effect: float
    """Mean difference that the adapter makes in the trainer: what a served adapter that does nothing would be off by."""
    tolerance: float


def compare(*, served_base: Logprobs, served_adapter: Logprobs, base: Logprobs, adapter: Logprobs, tolerance: float) -> CanaryReport:
    """Compare what vLLM serves with the trainer's reference. `tolerance`: largest mean difference that passes.

    Raises CanaryError, in one line that says what it looks like: another base, an adapter that is not applied, applied in
    part, or stale.
    """
    served_base, served_adapter, base, adapter = (np.concatenate([np.asarray(row) for row in rows])
                                                  for rows in (served_base, served_adapter, base, adapter))
    base_error, adapter_error = np.abs(served_base - base), np.abs(served_adapter - adapter)
    report = CanaryReport(
        tokens=len(base), base_mean=float(base_error.mean()), base_max=float(base_error.max()),
        adapter_mean=float(adapter_error.mean()), adapter_max=float(adapter_error.max()),
        effect=float(np.abs(adapter - base).mean()), tolerance=tolerance)
    if report.base_mean > tolerance:
        raise CanaryError(f"the served base differs from the trainer's by {report.base_mean:.2g} nats per token (at most "
                          f"{tolerance:.2g}): another base model, or one that vLLM serves wrongly")
    if report.adapter_mean > tolerance:
        raise CanaryError(f"the served adapter differs from the trainer's by {report.adapter_mean:.2g} nats per token (at most "
                          f"{tolerance:.2g}): {_fault(served_adapter - base, adapter - base)}")
    return report


def _fault(served: np.ndarray, wanted: np.ndarray) -> str:
    """What kind of fault the adapter's served effect looks like, both as differences from the base."""
    if np.abs(served).mean() < 0.02 * np.abs(wanted).mean():
        return "it is not applied"
    likeness = float(served @ wanted / np.sqrt((served @ served) * (wanted @ wanted)))
    return "it is applied in part" if likeness > 0.5 else "it looks like another adapter, a stale one perhaps"
