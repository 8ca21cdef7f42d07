"""Numbers of bytes, for people."""

from __future__ import annotations

_UNITS = ("KiB", "MiB", "GiB", "TiB")
GIB = 1 << 30


def said(count: float) -> str:
    """Return a number of bytes as `17 bytes`, `3.2 GiB`."""
    if count < 1024:
        return f"{count:.0f} bytes"
    power = 1
    while count >= 1023.95 * 1024**power and power < len(_UNITS):
        power += 1
    return f"{count / 1024**power:.1f} {_UNITS[power - 1]}"
