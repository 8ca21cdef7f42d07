"""The present, as the database stores it."""

from __future__ import annotations

from datetime import UTC, datetime


def now() -> datetime:
    """The present in UTC, as the database stores it."""
    return datetime.now(UTC).replace(tzinfo=None)
