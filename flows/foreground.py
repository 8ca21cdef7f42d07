"""Flows in this process, visible in the local Prefect server's UI like any other run."""

from __future__ import annotations

from typing import Any

from agentloop.settings import Settings, parse_overrides
from flows import services


def _connect(settings: Settings) -> None:
    """Start the server where it is not up, and point Prefect at it before it is imported."""
    print(*services.up_server(settings), sep="\n")
    services.connect(settings)


def self_improve(settings: Settings, profile: str | None, overrides: list[str] | None) -> dict[str, Any]:
    _connect(settings)
    from flows.self_improve import self_improve as flow

    return flow(profile=profile, overrides=parse_overrides(overrides or []))


def evaluate(settings: Settings, profile: str | None, overrides: list[str] | None, *, unseen: bool) -> dict[str, Any]:
    _connect(settings)
    from flows.evaluate import evaluate as flow

    return flow(profile=profile, overrides=parse_overrides(overrides or []), unseen=unseen)
