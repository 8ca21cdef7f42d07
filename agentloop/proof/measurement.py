"""The parts of a proof but for its campaign, in order: training, serving, and an adapter swapped in."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from agentloop import canary_reference, card
from agentloop.campaign import prepare, quantize
from agentloop.campaign.campaign import Campaign
from agentloop.campaign.canary import inspect
from agentloop.model_directory.configuration import read_architecture
from agentloop.proof import compiled, epoch, rates, swap, workload
from agentloop.proof.proof import Proof
from agentloop.proof.sizes import Sizes
from agentloop.proof.workload import Workload
from agentloop.serving.policy_server import PolicyServer

RANDOM_WEIGHTS = 0.5
"""A model whose answers are more uncertain than this share of a uniform guess has random weights."""


def measure(
    campaign: Campaign, proof: Proof, sizes: Sizes, *, trajectories: Path, say: Callable[[str], None] = print
) -> None:
    """Measure what is missing. `campaign`: on the proof's own data root; `trajectories`: the user's, which is only read.

    Raises what the steps of a campaign raise.
    """
    quantize.settle(campaign)
    _Measurement(campaign, proof, sizes, trajectories, say).run()


class _Measurement:
    def __init__(
        self, campaign: Campaign, proof: Proof, sizes: Sizes, trajectories: Path, say: Callable[[str], None]
    ) -> None:
        self._campaign, self._proof, self._sizes = campaign, proof, sizes
        self._trajectories, self._say = trajectories, say

    def run(self) -> None:
        training = self._part("training", "one epoch, from the trainer's start to the saved adapter", self._train)
        adapter = training["adapter"]
        campaign = _with_policy(self._campaign, "restart")
        started = time.perf_counter()
        served = prepare.prepare(campaign)
        made = time.perf_counter() - started if campaign.serves_dequantised else None
        with PolicyServer(campaign.settings, served, base=campaign.base) as server:
            self._part("serving", "vLLM's start, its rate, the canary", lambda: self._serve(server, adapter, made))
            self._part(
                "restart", "an adapter swapped in, vLLM started again", lambda: self._swap(server, adapter, number=1)
            )
        if card.present():
            self._part("sleep", "an adapter swapped in, vLLM asleep meanwhile", lambda: self._sleep(adapter))

    def _part(self, name: str, about: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        if not self._proof.has(name):
            self._say(f"{name}: {about}")
        return self._proof.part(name, measure)

    @cached_property
    def _workload(self) -> Workload:
        return workload.load(self._campaign, self._trajectories, batches=self._sizes.epoch_batches)

    def _train(self) -> dict[str, Any]:
        return epoch.measure(self._campaign, self._workload)

    def _serve(self, server: PolicyServer, adapter: str, dequantised: float | None) -> dict[str, Any]:
        campaign = self._campaign
        cold = compiled.clear(campaign.settings, compiled.VLLMS)
        start = swap.start(server)
        nats, uniform = rates.uncertainty(campaign, server), math.log(read_architecture(campaign.model).vocab)
        with campaign.worlds:
            found = {
                name: rates.measure(campaign, server, policy, rounds=self._sizes.rounds)
                for name, policy in (("base", None), ("adapter", adapter))
            }
        return {
            "from_empty_caches": cold,
            "dequantised_seconds": dequantised,
            "start_seconds": start,
            "rate": found,
            "answers_nats_per_token": nats,
            "uniform_nats_per_token": uniform,
            "random_weights": nats > RANDOM_WEIGHTS * uniform,
            "canary": self._canary(server, adapter),
        }

    def _swap(
        self, server: PolicyServer, parent: str, *, number: int, free_before: int | None = None
    ) -> dict[str, Any]:
        """The adapter is the epoch's, trained a little further, so that its effect is one that a canary can see."""
        campaign = self._campaign
        swap.start(server)
        few = self._workload.first(campaign, self._sizes.swap_batches)
        run = few.planned(campaign, parent=parent, seed=campaign.settings.seed + number)
        epoch.forget(run)
        measured = swap.measure(campaign, server, run, free_before=free_before)
        return {**measured, "canary": self._canary(server, run.adapter.id)}

    def _sleep(self, parent: str) -> dict[str, Any]:
        free = sum(card.free_bytes())
        with prepare.policies(_with_policy(self._campaign, "sleep")) as server:
            return self._swap(server, parent, number=2, free_before=free)

    def _canary(self, server: PolicyServer, adapter: str) -> dict[str, Any]:
        settings = self._campaign.settings
        base = server.serve(None)
        server.serve(adapter)
        stored = canary_reference.read(settings.paths.adapters / adapter)
        report = inspect(server.endpoints[0], settings.serving, stored, base=base, adapter=adapter)
        return {"passed": report.passed, **asdict(report)}


def _with_policy(campaign: Campaign, policy: str) -> Campaign:
    serving = campaign.settings.serving.model_copy(update={"policy": policy})
    return replace(campaign, settings=campaign.settings.model_copy(update={"serving": serving}))
