"""Bounds that end a run which is breaking the model, before its adapter is served and measured."""

from __future__ import annotations

from agentloop.errors import ModelError
from agentloop.settings import Bounds
from agentloop.training.journal import StepMetrics


def check(metrics: StepMetrics, bounds: Bounds) -> None:
    """Raise ModelError, naming the bound, where a step's figures are beyond it."""
    nll = metrics.loss if metrics.nll is None and metrics.kl is None else metrics.nll
    far = None if metrics.clipped is None else metrics.clipped + (metrics.truncated or 0.0)
    _at_most("max_nll", "cross-entropy of successes", nll, bounds.max_nll, metrics)
    _at_most("max_kl", "divergence from the policy that sampled", metrics.kl, bounds.max_kl, metrics)
    _at_most("max_clipped", "share of clipped and truncated tokens", far, bounds.max_clipped, metrics)
    least, entropy = bounds.min_entropy, metrics.entropy
    if least is not None and entropy is not None and entropy < least:
        raise _beyond("min_entropy", "entropy", entropy, f"below {least:g}", metrics)


def _at_most(name: str, what: str, value: float | None, most: float | None, metrics: StepMetrics) -> None:
    if most is not None and value is not None and value > most:
        raise _beyond(name, what, value, f"above {most:g}", metrics)


def _beyond(name: str, what: str, value: float, where: str, metrics: StepMetrics) -> ModelError:
    return ModelError(
        f"training.bounds.{name}: {what} is {value:.4g} in step {metrics.step} of {metrics.steps}, {where}; the adapter is "
        "given up and not measured. A lower training.learning_rate or fewer training.epochs change the model less"
    )
