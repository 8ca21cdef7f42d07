"""What a verifier says of an answer, whoever wrote it: a number from 0 to 1, or one line about what went wrong."""

from __future__ import annotations

import math
from collections.abc import Callable

from agentloop.errors import StoreError
from agentloop.records import Task
from agentloop.text import one_line, one_line_of

_SHOWN = 80
"""Characters of an answer in an error."""

Verify = Callable[[Task, str], float]
"""(task, answer as parsed) -> 1.0 for right, 0.0 for wrong, between for partly right. Pure."""


def verified(verify: Verify, task: Task, answer: str, *, who: str) -> float:
    """Return what a verifier says of an answer, 0 to 1. Raises StoreError, in one line that names `who` and the task, where it
    fails or says anything else.
    """
    about = f"{answer[:_SHOWN]!r} to {task.id}"
    try:
        value = verify(task, answer)
    except (Exception, SystemExit) as error:
        raise StoreError(f"{who}: {one_line(error)} at {about}") from error
    try:
        number = math.nan if isinstance(value, str | bytes | bytearray) else float(value)
    except Exception:  # an object of somebody else's, a tensor of two numbers for one
        number = math.nan
    if not 0 <= number <= 1:
        raise StoreError(f"{who}: says {one_line_of(value)} of {about}, which is no number from 0 to 1")
    return number
