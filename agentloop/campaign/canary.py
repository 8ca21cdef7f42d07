"""The canary step: ask vLLM for the logprobs that the trainer stored beside the adapter."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

from agentloop.campaign.campaign import Campaign
from agentloop.campaign.policies import PolicyServer
from agentloop.errors import CanaryError
from agentloop.serving.canary import CanaryReport, compare
from agentloop.store import canaries
from agentloop.training import reference
from agentloop.training.run import TrainingRun

TOLERANCE = {"float32": 1e-3, "float16": 0.03, "bfloat16": 0.1, "auto": 0.1}
"""Mean nats per token, by serving dtype: well above what the arithmetic of each explains, well below a missing module."""


def check(campaign: Campaign, iteration: int, server: PolicyServer, run: TrainingRun) -> dict[str, Any]:
    """Compare once for each adapter; recorded. Raises CanaryError where what is served is not what was trained."""
    tolerance = TOLERANCE[campaign.settings.serving.dtype]

    def work() -> dict[str, Any]:
        references = reference.read(run.output)
        names = (server.serve(None), server.serve(run.adapter.id))

        async def served() -> list[list[list[float]]]:
            async with server.client() as client:
                return [[await client.prompt_logprobs(name, row.token_ids) for row in references] for name in names]

        served_base, served_adapter = asyncio.run(served())
        try:
            report = compare(
                served_base=served_base,
                served_adapter=served_adapter,
                base=[row.base for row in references],
                adapter=[row.adapted for row in references],
                tolerance=tolerance,
            )
        except CanaryError as error:
            raise CanaryError(f"{run.adapter.id}: {error}") from None
        _record(campaign, iteration, run, report)
        return asdict(report)

    return campaign.step("canary", iteration, [run.adapter.id, tolerance], work)


def _record(campaign: Campaign, iteration: int, run: TrainingRun, report: CanaryReport) -> None:
    with campaign.database() as database:
        for adapter, mean, largest in (
            (None, report.base_mean, report.base_max),
            (run.adapter.id, report.adapter_mean, report.adapter_max),
        ):
            canaries.save(
                database,
                campaign=campaign.name,
                iteration=iteration,
                policy=campaign.policy(adapter).id,
                passed=True,
                tokens=report.tokens,
                mean_difference=mean,
                max_difference=largest,
                tolerance=report.tolerance,
            )
