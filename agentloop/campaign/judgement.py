"""Judgement: what a policy achieves on held-out tasks, and whether a challenger becomes champion."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from agentloop.campaign.campaign import Campaign
from agentloop.evaluation.statistics import clustered_interval
from agentloop.evaluation.verdict import judge
from agentloop.store import champions, evaluations, verdicts


def measure(campaign: Campaign, adapter: str | None, *, iteration: int, role: str) -> dict[str, Any]:
    """Evaluate the ingested held-out rollouts of a policy: `{evaluation, success: {estimate, low, high}}`."""
    evaluate = campaign.settings.evaluate
    policy = campaign.policy(adapter).id

    def work() -> dict[str, Any]:
        with campaign.database() as database:
            evaluation = evaluations.measure(
                database,
                policy=policy,
                tasks=[task.id for task in campaign.heldout_tasks],
                samples=evaluate.samples,
                seed=campaign.settings.seed,
                sampling=campaign.sampling(evaluate.temperature),
            )
            evaluations.save(database, evaluation, campaign=campaign.name, iteration=iteration, role=role)
        return {"evaluation": evaluation.id, "success": asdict(clustered_interval(evaluation.successes))}

    return campaign.step("measure", iteration, [policy, role, evaluate.model_dump(mode="json")], work)


def decide(campaign: Campaign, *, champion: str, challenger: str, adapter: str, iteration: int) -> dict[str, Any]:
    """Compare two evaluations and move the champion pointer on a significant gain. Returns the verdict."""
    gate = campaign.settings.gate

    def work() -> dict[str, Any]:
        with campaign.database() as database:
            verdict = judge(evaluations.load(database, champion), evaluations.load(database, challenger), gate)
            with database.transaction():
                verdict_id = verdicts.save(
                    database, verdict, campaign=campaign.name, iteration=iteration, adapter=adapter
                )
                if verdict.decision == "promote":
                    champions.promote(database, campaign.name, adapter, iteration=iteration, verdict=verdict_id)
        return {"verdict": verdict_id, **asdict(verdict)}

    return campaign.step("decide", iteration, [champion, challenger, adapter, gate.model_dump(mode="json")], work)
