"""The canary step: ask vLLM for the log probabilities that the trainer stored beside the adapter."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agentloop import canary_reference
from agentloop.campaign.campaign import Campaign
from agentloop.canary_reference import Reference
from agentloop.errors import AdapterError, CanaryError, ServerError
from agentloop.quantization.dequantised import dequantised
from agentloop.serving import adapters as adapter_files
from agentloop.serving import models
from agentloop.serving.canary import CanaryReport, Expected, ask, compare
from agentloop.serving.client import CompletionClient, Endpoint
from agentloop.serving.policy_server import PolicyServer
from agentloop.serving.server import ModelServer
from agentloop.settings import Serving
from agentloop.store import canaries
from agentloop.training.run import TrainingRun


def check(campaign: Campaign, iteration: int, server: PolicyServer, run: TrainingRun) -> dict[str, Any]:
    """Compare once for each adapter, at every server; recorded, also where it fails: the server furthest off. A vLLM that
    has slept is started anew once.

    Raises CanaryError where what is served is not what was trained, ServerError where vLLM ends meanwhile.
    """
    serving = campaign.settings.serving
    adapter = run.adapter.id

    def look(stored: Reference) -> CanaryReport:
        base = server.serve(None)
        server.serve(adapter)
        others = server.adapters - {adapter}
        try:
            reports = [
                inspect(each, serving, stored, base=base, adapter=adapter, others=others) for each in server.endpoints
            ]
        except ServerError as error:
            raise ServerError(next(iter(server.failures().values()), str(error))) from None
        failed = [report for report in reports if not report.passed]
        return (failed or sorted(reports, key=lambda report: report.adapter_mean))[-1]

    def work() -> dict[str, Any]:
        stored = canary_reference.read(run.output)
        report = look(stored)
        if not report.passed and server.has_slept:
            server.restart()
            report = look(stored)
        _record(campaign, iteration, adapter, report)
        if not report.passed:
            hint = "; serving.base: it was trained on the dequantised base" if _mismatched(campaign, stored) else ""
            raise CanaryError(f"{adapter}: {report.fault}{hint}")
        return asdict(report)

    return campaign.step("canary", iteration, [adapter, serving.dtype, serving.base], work)


def inspect_bases(campaign: Campaign, name: str, directory: Path) -> Iterator[tuple[str, CanaryReport]]:
    """Start vLLM on each base that the adapter could be served on: ("dequantised" or "original", report).

    First the one that it was trained on. Raises AdapterError, ServerError.
    """
    stored = canary_reference.read(directory)
    rank = adapter_files.rank(directory)
    for kind in ("dequantised", "original") if stored.in_4bit else ("original",):
        serving = campaign.settings.serving.model_copy(update={"base": kind})
        settings = campaign.settings.model_copy(update={"serving": serving})
        model = dequantised(settings, campaign.model, stored.quantization) if kind == "dequantised" else campaign.model
        with ModelServer(settings, model, base=campaign.base, max_lora_rank=rank) as server:
            server.load_adapter(name, directory)
            yield kind, inspect(server.endpoint, serving, stored, base=server.model_name, adapter=name)


def inspect_running(serving: Serving, url: str, api_key: str, directory: Path) -> CanaryReport:
    """Ask a vLLM that somebody else started; it serves the adapter under its directory's name.

    Raises ServerError where it does not answer, AdapterError where it does not serve the adapter.
    """
    stored = canary_reference.read(directory)
    endpoint = Endpoint(url, api_key)
    base, adapters = models.served(endpoint)
    if directory.name not in adapters:
        raise AdapterError(
            f"{url}: does not serve {directory.name}, but {base} with {', '.join(adapters) or 'no adapter'}"
        )
    return inspect(endpoint, serving, stored, base=base, adapter=directory.name)


def inspect(
    endpoint: Endpoint, serving: Serving, stored: Reference, *, base: str, adapter: str, others: Collection[str] = ()
) -> CanaryReport:
    """Ask a vLLM that serves base and adapter under these names. `others`: adapters that it also serves."""
    expected = Expected(
        base=[prompt.base for prompt in stored.prompts],
        adapter=[prompt.adapted for prompt in stored.prompts],
        rounding=[prompt.rounding for prompt in stored.prompts],
        exact=stored.dtype == serving.dtype == "float32",
    )

    async def question() -> CanaryReport:
        async with CompletionClient([endpoint], serving) as client:
            served_base, served_adapter = [await ask(client, name, stored.token_ids) for name in (base, adapter)]
            report = compare(served_base=served_base, served_adapter=served_adapter, expected=expected)
            if report.passed or not others:
                return report
            found = {name: await ask(client, name, stored.token_ids) for name in others}
            return compare(served_base=served_base, served_adapter=served_adapter, expected=expected, others=found)

    return asyncio.run(question())


def _mismatched(campaign: Campaign, stored: Reference) -> bool:
    return stored.in_4bit and not campaign.serves_dequantised


def _record(campaign: Campaign, iteration: int, adapter: str, report: CanaryReport) -> None:
    with campaign.database() as database:
        for policy, mean, largest in (
            (None, report.base_mean, report.base_max),
            (adapter, report.adapter_mean, report.adapter_max),
        ):
            canaries.save(
                database,
                campaign=campaign.name,
                iteration=iteration,
                policy=campaign.policy(policy).id,
                passed=report.passed,
                tokens=report.tokens,
                mean_difference=mean,
                max_difference=largest,
                tolerance=report.tolerance,
            )
