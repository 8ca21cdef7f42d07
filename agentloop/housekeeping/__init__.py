"""Housekeeping: what may go from the disk by policy, what takes how much of it, and for how long it lasts.

`plan` reads and decides, `removal` removes. Evidence stays: shards, unless somebody asks for them, and every row of the
database. Whoever removes owns the data root meanwhile (campaign.prune).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from agentloop.errors import NoSpaceError, lacks_space
from agentloop.settings import Settings


@contextmanager
def remedied(settings: Settings) -> Iterator[None]:
    """A disk that is found full meanwhile is told with the command that makes room, and how much."""
    try:
        yield
    except (NoSpaceError, OSError) as error:
        if not lacks_space(error):
            raise
        from agentloop.housekeeping import plan  # reads the store; rarely needed

        if not isinstance(error, NoSpaceError):
            error = NoSpaceError(f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror))
        error.remedy = error.remedy or plan.remedy(settings)
        raise error from None
