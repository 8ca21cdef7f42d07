"""Flows that keep a project in order between its nights: scores made again, disks cleared, dead runs ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

from prefect import flow
from prefect.states import Completed

from agentloop.campaign import lock
from agentloop.campaign import prune as housekeeping
from agentloop.campaign import rescore as scoring
from agentloop.card import GIB
from agentloop.store.database import Database
from agentloop_flows import parameters, presence, reconcile
from agentloop_flows.parameters import Described, Overrides, Profile


@flow(name="rescore", flow_run_name="rescore", log_prints=True)
def rescore(
    profile: Profile = None,
    campaign: Annotated[
        str | None, Described("Only what this campaign has collected. Default: all stored trajectories.")
    ] = None,
    scorers: Annotated[
        Sequence[str], Described("success, the name of a scorer or verifier, a .sql or .py file. Default: all.")
    ] = (),
    ask_again: Annotated[bool, Described("Ask models that score anew. Default: their stored replies count.")] = False,
    overrides: Overrides = None,
) -> list[dict[str, Any]]:
    """Score stored trajectories again, without any inference, as `agentloop rescore` does."""
    settings = parameters.load(profile, overrides)
    flow_run = presence.announce(settings)
    with (
        lock.owned(settings.paths.data, campaign=campaign, flow_run=flow_run.id),
        Database.open(settings.paths.database) as database,
    ):
        done = scoring.rescore(database, settings, scorers, campaign=campaign, ask_again=ask_again)
    changed = sum(each.changed for each in done)
    sentence = f"{sum(each.scored for each in done)} scores made, {changed} of them changed"
    return Completed(name="Rescored", message=sentence, data=[asdict(each) for each in done])  # type: ignore[return-value]


@flow(name="prune", flow_run_name="prune", log_prints=True)
def prune(profile: Profile = None, overrides: Overrides = None) -> dict[str, Any]:
    """Remove what the policy in `retention` says, as `agentloop prune --yes` does; shards stay."""
    settings = parameters.load(profile, overrides)
    removed = housekeeping.prune(settings, flow_run=presence.announce(settings).id)
    for each in removed["kinds"]:
        print(f"{each['kind']}: {each['entries']} removed, {each['bytes'] / GIB:.2f} GiB ({each['rule']})")
    sentence = f"{removed['bytes'] / GIB:.2f} GiB removed, {removed['free'] / GIB:.1f} GiB are free"
    return Completed(name="Pruned", message=sentence, data=removed)  # type: ignore[return-value]


@flow(name="reconcile", flow_run_name="reconcile", log_prints=True)
def end_dead_runs() -> list[str]:
    """End every run whose process is gone, as `agentloop reconcile` and the server itself do."""
    import asyncio

    lines = asyncio.run(reconcile.reconcile())
    for line in lines:
        print(line)
    return Completed(name="Reconciled", message=f"{len(lines)} runs ended", data=lines)  # type: ignore[return-value]
