"""Objectives: what is made of a dataset's rows in a training step, one file each (docs/objectives.md).

All have a gradient of one form: the sum, over the tokens that are trained on, of a coefficient times the gradient of the
token's negative log probability. An objective says what the coefficients are; the engine does the rest.
"""

from __future__ import annotations

from agentloop.settings import Training
from agentloop.training.objectives.dpo import Dpo
from agentloop.training.objectives.grpo import Grpo
from agentloop.training.objectives.kto import Kto
from agentloop.training.objectives.objective import Objective
from agentloop.training.objectives.sft import Sft


def chosen(settings: Training) -> Objective:
    """Return the objective that `training.objective` names."""
    if settings.objective == "grpo":
        return Grpo(settings.grpo)
    if settings.objective == "dpo":
        return Dpo(settings.dpo)
    return Kto(settings.kto) if settings.objective == "kto" else Sft(settings.sft)
