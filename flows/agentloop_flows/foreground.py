"""Flows in this process, visible in the local Prefect server's UI like any other run."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import httpx

from agentloop.errors import ServerError
from agentloop.settings import Settings, parse_overrides
from agentloop_flows import connection, reconcile, services


@contextmanager
def _server(settings: Settings) -> Iterator[None]:
    """Start the server where it is not up, and point Prefect at it before it is imported.

    Raises ServerError where it goes away and a flow cannot begin or end without it.
    """
    print(*services.up_server(settings), *reconcile.run(settings), sep="\n")
    connection.connect(settings)
    try:
        yield
    except httpx.TransportError as error:
        raise ServerError(
            f"the Prefect server at {connection.address(settings)} is gone ({type(error).__name__}); what is done is kept, "
            "and the same command continues"
        ) from None


@contextmanager
def own_server(settings: Settings) -> Iterator[None]:
    """A Prefect server that runs only meanwhile. One that a killed process has left is ended first."""
    services.down(settings)
    try:
        yield
    finally:
        if "prefect" in sys.modules:
            from prefect.logging.handlers import APILogHandler

            APILogHandler().flush()  # what is on its way would find nobody
        services.down(settings)


def self_improve(
    settings: Settings, profile: str | None, overrides: Sequence[str] | Mapping[str, Any] | None, *, more: bool = False
) -> dict[str, Any]:
    """`overrides`: as words of the command line, or nested as configuration.load takes them. `more`: see the flow."""
    nested = overrides if isinstance(overrides, Mapping) else parse_overrides(overrides or [])
    with _server(settings):
        from agentloop_flows.self_improve import self_improve as flow

        return flow(profile=profile, overrides=dict(nested), more=more)


def evaluate(settings: Settings, profile: str | None, overrides: list[str] | None, *, unseen: bool) -> dict[str, Any]:
    with _server(settings):
        from agentloop_flows.evaluate import evaluate as flow

        return flow(profile=profile, overrides=parse_overrides(overrides or []), unseen=unseen)


def teach(
    settings: Settings,
    profile: str | None,
    overrides: list[str] | None,
    *,
    source: str,
    families: list[str],
    unverified: bool,
    name: str | None,
    measured: bool,
) -> dict[str, Any]:
    with _server(settings):
        from agentloop_flows.teach import teach as flow

        return flow(
            profile=profile,
            overrides=parse_overrides(overrides or []),
            source=source,
            families=families,
            unverified=unverified,
            name=name,
            measured=measured,
        )
