"""The gate: champion against challenger on the same tasks and seeds; nothing is promoted without evidence."""

from __future__ import annotations

from agentloop.records import Evaluation, Verdict
from agentloop.settings import Gate


def judge(champion: Evaluation, challenger: Evaluation, gate: Gate, *, seed: int = 0) -> Verdict:
    """Promote where the exact McNemar test is significant at `gate.alpha`, in the challenger's favour, and the lower end of
    the clustered bootstrap interval of the difference exceeds `gate.min_gain`; otherwise keep or ask for more data.

    Raises ValueError where the two were not measured on the same tasks, samples and seed.
    """
    raise NotImplementedError
