"""Flows in this process: against the local Prefect server where it is up, else with a temporary one."""

from __future__ import annotations

import os
from typing import Any

from agentloop.settings import Settings, parse_overrides
from flows import services


def _connect(settings: Settings) -> None:
    """Point Prefect at the server before it is imported."""
    if services.is_up(settings):
        os.environ.update(services.environment(settings))
    else:
        os.environ.update({"PREFECT_API_URL": "", "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true"})


def self_improve(settings: Settings, profile: str | None, overrides: list[str] | None) -> dict[str, Any]:
    _connect(settings)
    from flows.self_improve import self_improve as flow

    return flow(profile=profile, overrides=parse_overrides(overrides or []))


def evaluate(settings: Settings, profile: str | None, overrides: list[str] | None) -> dict[str, Any]:
    _connect(settings)
    from flows.evaluate import evaluate as flow

    return flow(profile=profile, overrides=parse_overrides(overrides or []))
