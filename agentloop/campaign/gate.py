"""Judgement: what a policy achieves on held-out tasks, and whether a challenger becomes champion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from agentloop.campaign import contest
from agentloop.campaign.campaign import Campaign
from agentloop.campaign.suites import HELDOUT, Suite
from agentloop.evaluation import guard
from agentloop.evaluation.looks import Look
from agentloop.evaluation.statistics import clustered_interval
from agentloop.evaluation.verdict import judge
from agentloop.records import Entry, Evaluation, GuardResult, Verdict
from agentloop.store import champions, evaluations, verdicts
from agentloop.store.database import Database
from agentloop.store.evaluations import Role


def measure(campaign: Campaign, adapter: str | None, suite: Suite, *, iteration: int, role: Role) -> dict[str, Any]:
    """Evaluate the ingested rollouts of a policy on a suite: `{evaluation, success: {estimate, low, high}}`."""
    evaluate = campaign.settings.evaluate
    policy = campaign.policy(adapter).id
    seed = campaign.settings.seed if suite.seed is None else suite.seed
    about: list[Any] = [policy, role, evaluate, suite.name, len(suite.tasks), suite.samples]
    if (
        suite.block > 1 or suite.seed is not None
    ):  # no part of the name at first, so that it is none of the first block's
        about.append({"block": suite.block, "seed": seed})

    def work() -> dict[str, Any]:
        with campaign.database() as database:
            evaluation = evaluations.measure(
                database,
                policy=policy,
                tasks=[task.id for task in suite.tasks],
                samples=suite.samples,
                seed=seed,
                sampling=campaign.sampling(evaluate.temperature),
            )
            evaluations.save(
                database, evaluation, campaign=campaign.name, iteration=iteration, role=role, suite=suite.name
            )
        return {"evaluation": evaluation.id, "success": asdict(clustered_interval(evaluation.successes))}

    return campaign.step("measure", iteration, about, work)


def would_promote(
    campaign: Campaign,
    look: Look,
    entry: Entry,
    measured: Mapping[str, tuple[str, str]],
    *,
    adapter: str,
    iteration: int,
) -> bool:
    """Return True where only the guards are left to ask. `measured`: as for `decide`, without guards."""
    with campaign.database() as database:
        if earlier := verdicts.before_evidence(database, campaign.name, iteration, adapter, look.number):
            return bool(earlier[1].guards)
        pair = evaluations.pair(*(evaluations.load(database, each) for each in measured[HELDOUT]))
    return judge(*pair, campaign.settings.gate, look=look, entry=entry).decision == "promote"


def decide(
    campaign: Campaign, measured: Mapping[str, tuple[str, str]], look: Look, *, adapter: str, iteration: int
) -> dict[str, Any]:
    """Compare champion and challenger and move the champion pointer where the evidence suffices. Returns the verdict.

    `measured`: their evaluation ids by suite, the campaign's own and those of the guards that were asked. A verdict from
    before the gate went by e-values stands.
    """
    gate, evaluate = campaign.settings.gate, campaign.settings.evaluate
    entry = contest.begin(campaign, iteration, adapter)
    with campaign.database() as database:
        if earlier := verdicts.before_evidence(database, campaign.name, iteration, adapter, look.number):
            return _told(*earlier)

    def work() -> dict[str, Any]:
        with campaign.database() as database:
            with database.transaction():
                pairs = {
                    suite: _paired(campaign, database, each, suite=suite, iteration=iteration)
                    for suite, each in measured.items()
                }
                guards = _guards(campaign, database, pairs, entry)
                verdict = judge(*pairs[HELDOUT], gate, look=look, entry=entry, guards=guards)
                left_out = evaluate.tasks * look.scale - len(pairs[HELDOUT][0].tasks)
                if left_out:
                    verdict = replace(
                        verdict, reason=f"{verdict.reason} {left_out} tasks are left out: episodes failed."
                    )
                verdict_id = verdicts.save(
                    database, verdict, campaign=campaign.name, iteration=iteration, adapter=adapter
                )
                if verdict.decision == "promote":
                    champions.promote(database, campaign.name, adapter, iteration=iteration, verdict=verdict_id)
        return _told(verdict_id, verdict)

    inputs = [sorted(measured.items()), adapter, gate, look, entry]
    return campaign.step("decide", iteration, inputs, work)


def _told(verdict_id: str, verdict: Verdict) -> dict[str, Any]:
    return {"verdict": verdict_id, **asdict(verdict), "guards": [asdict(each) for each in verdict.guards]}


def _paired(
    campaign: Campaign, database: Database, pair: tuple[str, str], *, suite: str, iteration: int
) -> tuple[Evaluation, Evaluation]:
    """Two evaluations on the tasks that both have: episodes that failed are held against nobody. What is new is stored."""
    whole = [evaluations.load(database, evaluation) for evaluation in pair]
    shared = evaluations.pair(*whole)
    roles: tuple[Role, Role] = ("champion", "challenger")
    for role, before, after in zip(roles, whole, shared, strict=True):
        if after is not before:
            evaluations.save(database, after, campaign=campaign.name, iteration=iteration, role=role, suite=suite)
    return shared


def _guards(
    campaign: Campaign, database: Database, pairs: Mapping[str, tuple[Evaluation, Evaluation]], entry: Entry
) -> list[GuardResult]:
    gate = campaign.settings.gate
    return [
        guard.examine(
            name,
            *pairs[name],
            gate.guards[name],
            entry=contest.guard_entry(campaign, database, name, entry),
            resamples=gate.resamples,
        )
        for name in gate.guards
        if name in pairs
    ]
