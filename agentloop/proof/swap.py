"""Taking turns: vLLM makes room, an adapter is trained, and vLLM answers with it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from agentloop import canary_reference, card
from agentloop.campaign.campaign import Campaign
from agentloop.serving.policy_server import PolicyServer
from agentloop.training.launch import launch
from agentloop.training.run import TrainingRun

_PROMPT = (2, 7, 8, 9)


def start(server: PolicyServer) -> float:
    """Seconds until the base answers, from nothing."""
    started = time.perf_counter()
    first_token(server, server.serve(None))
    return time.perf_counter() - started


def first_token(server: PolicyServer, name: str) -> None:
    """Ask for one token of the policy with this name. Raises ServerError."""

    async def question() -> None:
        async with server.client() as client:
            await client.complete(name, _PROMPT, max_tokens=1)

    asyncio.run(question())


def measure(
    campaign: Campaign, server: PolicyServer, run: TrainingRun, *, free_before: int | None = None
) -> dict[str, Any]:
    """Train `run` while vLLM, which runs, has made room, and time what happens until its adapter answers.

    `free_before`: bytes free on the cards before vLLM was started, to tell what it keeps meanwhile. Raises ServerError,
    ModelError, TrainerError, AdapterError.
    """
    marks: dict[str, float] = {}

    def on_step(metrics: dict[str, Any]) -> None:
        marks.setdefault("first_step", time.time())
        marks["last_step"] = time.time()

    started = time.time()
    server.make_room()
    made_room = time.time()
    held = free_before - sum(card.free_bytes()) if free_before is not None and card.present() else None
    launch(run, campaign.settings, on_step=on_step)
    first_step = marks.pop("first_step")
    marks |= {
        "adapter_written": (run.output / "adapter_model.safetensors").stat().st_mtime,
        "reference_written": (run.output / canary_reference.FILE).stat().st_mtime,
        "trainer_ended": time.time(),
    }
    server.serve(None)
    marks["served_again"] = time.time()
    name = server.serve(run.adapter.id)
    marks["adapter_loaded"] = time.time()
    first_token(server, name)
    marks["first_token"] = time.time()
    last_step = marks.pop("last_step")
    return {
        "make_room_seconds": made_room - started,
        "held_while_training_gib": None if held is None else held / card.GIB,
        "seconds_to_first_step": first_step - made_room,
        "seconds_from_last_step_to": {name: mark - last_step for name, mark in marks.items()},
    }
