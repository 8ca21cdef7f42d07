"""Housekeeping by the owner of the data root."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from agentloop import space
from agentloop.campaign.lock import owned
from agentloop.housekeeping import removal
from agentloop.housekeeping.rules import ShardChoice
from agentloop.settings import Settings


def prune(
    settings: Settings,
    *,
    shards: ShardChoice | None = None,
    flow_run: str | None = None,
    wait: bool = True,
    tell: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Remove what the policy in `settings.retention` says, and return JSON values:
    `{kinds: [{kind, rule, entries, files, bytes}], entries, files, bytes, free}`, sizes in bytes.

    Waits for the end of a run that is at work, and says so by `tell`; without `wait` it raises StoreError. A second call goes
    on where one was killed. Raises StoreError, SettingError, DiskError.
    """
    with owned(settings.paths.data, flow_run=flow_run, wait=wait, tell=tell):
        removed = removal.carry_out(settings, shards=shards)
    sums = {name: sum(getattr(each, name) for each in removed) for name in ("entries", "files", "bytes")}
    return {"kinds": [asdict(each) for each in removed], **sums, "free": space.free(settings.paths.data)}
