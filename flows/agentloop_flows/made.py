"""A record of what was made on the Prefect server: where the server has something else later, somebody has changed it there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentloop.files import atomic


def read(record: Path) -> dict[str, Any]:
    """Return what was written; empty where nothing was made yet, or the record cannot be read."""
    try:
        return json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def write(record: Path, content: Mapping[str, Any]) -> None:
    """Write the record anew. Raises DiskError."""
    record.parent.mkdir(parents=True, exist_ok=True)
    with atomic(record) as temporary:
        temporary.write_text(json.dumps(content, indent=1, sort_keys=True, default=str), encoding="utf-8")
