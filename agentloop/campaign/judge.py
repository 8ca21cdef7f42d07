"""The base, judged before anything is trained on it: what quantisation does to what it says, and to what it solves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from agentloop.campaign import collect as rollouts
from agentloop.campaign import material, prepare
from agentloop.campaign.campaign import Campaign
from agentloop.environments import model_judge
from agentloop.errors import RoomError, SettingError
from agentloop.evaluation.statistics import clustered_interval, lower_bound, paired_bootstrap
from agentloop.model_directory.configuration import is_packed
from agentloop.quantization.measuring import measure
from agentloop.records import NONE, SOLVED, Interval, Quantization
from agentloop.rollout.collection import ShardPlan
from agentloop.serving.policy_server import PolicyServer
from agentloop.store.shards import read_shard
from agentloop.verification import SUCCESS, scored

MEASURED = ("kl", "episode_kl", "same_choice", "tokens")
"""By the engine, beside bytes; see measuring_worker.py."""
ALPHA = 0.05
"""Chance of refusing a base that loses no more than is allowed."""


def judge(campaign: Campaign, server: PolicyServer) -> dict[str, Any] | None:
    """Judge the base that a campaign trains on against the same base in 16 bit, and print the judgement.

    Returns `{quantization, bytes, bytes_in_16bit, kl, episode_kl, same_choice, tokens, success}`.

    None where the base is in 16 bit or comes in 4 bit, or there is no memory to hold it in 16 bit for the comparison.
    `success` is None where the KL divergence is negligible or no loss would be too large. Once for each base and
    quantisation. Raises SettingError where too much of the base's success is surely lost.
    """
    held, training = campaign.quantization, campaign.settings.training
    if held == NONE:
        return None
    if is_packed(campaign.model):
        print("the base comes in 4 bit: there is no 16-bit original that it could be judged by")
        return None

    def work() -> dict[str, Any]:
        found = measure(campaign.settings, campaign.model, material.gather(campaign), in_16bit=held.in_16bit or None)
        own = {name: found[held.kind][name] for name in ("bytes", *MEASURED)}
        return {"quantization": held.kind, "bytes_in_16bit": found["none"]["bytes"], **own}

    try:
        judged = campaign.step("judge", 0, [campaign.base, held, MEASURED], work)
    except RoomError as error:
        print(f"the base is not judged, and trained on as it is: {error}")
        return None
    judged["success"] = None
    if judged["episode_kl"] > training.quantization_tolerance and training.max_quantization_loss < 1:
        judged["success"] = compare(campaign, server)
    print(line(judged))
    refuse(judged, training.max_quantization_loss)
    return judged


def line(judged: dict[str, Any]) -> str:
    """The judgement in one line."""
    size = f"{_size(judged['bytes'])} of {_size(judged['bytes_in_16bit'])}"
    said = f"KL {judged['kl']:.2g} nats per token, the same choice at {judged['same_choice']:.1%} of them"
    return f"base in {judged['quantization']}, {size}: {said}; {_solved(judged['success'])}"


def _solved(success: dict[str, Any] | None) -> str:
    if success is None:
        return "its success was not measured"
    before, after = success["original"]["estimate"], success["quantised"]["estimate"]
    return f"it solves {after:.1%} where 16 bit solves {before:.1%} ({success['tasks']} tasks × {success['samples']})"


def refuse(judged: dict[str, Any], most: float) -> None:
    """Raises SettingError where quantisation surely takes more than `most` of the base's success."""
    success = judged["success"]
    if success and success["surely_lost"] > most:
        others = "none or dynamic" if judged["quantization"] == "nf4" else "none"
        raise SettingError(
            f"training.quantization: {judged['quantization']} breaks this base: {_solved(success)}, surely more than "
            f"training.max_quantization_loss = {most:g} is lost; set training.quantization to {others}"
        )


def compare(campaign: Campaign, server: PolicyServer) -> dict[str, Any]:
    """Success of the base in 16 bit and as it is trained on, on the first training tasks, served by vLLM.

    `{original, quantised, difference, surely_lost, tasks, samples}`. What the quantised base plays here is what the first
    iteration collects with it, and is not played again.
    """

    def work() -> dict[str, Any]:
        original, quantised = (play(campaign, server, each) for each in (NONE, campaign.quantization))
        tasks = [task for task in original if task in quantised]
        if not tasks:
            raise SettingError("collect.max_failed: of the tasks that the base is judged on none was played to its end")
        before, after = ([each[task] for task in tasks] for each in (original, quantised))
        lost = lower_bound(after, before, alpha=ALPHA)
        difference: Interval = paired_bootstrap(before, after)
        return {
            "original": asdict(clustered_interval(before)),
            "quantised": asdict(clustered_interval(after)),
            "difference": asdict(difference),
            "surely_lost": lost,
            "tasks": len(tasks),
            "samples": len(before[0]),
        }

    collect = campaign.settings.collect
    about = [campaign.base, campaign.quantization, first_shard(campaign).id, collect.samples]
    return campaign.step("compare", 0, about, work)


def side_by_side(campaign: Campaign, *, success: bool, say: Callable[[str], None] = print) -> dict[str, dict[str, Any]]:
    """The base in 16 bit, dynamic and NF4: `{none, dynamic, nf4}`, each as measured (`bytes`, `kl` …), with `success`.

    `success` asks for what each solves of the first training tasks (an interval, with `tasks`), served by vLLM one after the
    other; nothing of it is recorded but the episodes. Raises ModelError, ServerError.
    """
    tolerance = campaign.settings.training.quantization_tolerance
    found = measure(campaign.settings, campaign.model, material.gather(campaign), tolerance=tolerance)
    told = {}
    for kind in ("none", "dynamic", "nf4"):
        measured = found[kind]
        told[kind] = {"in_16bit": [], "success": None, **measured}
        if success:
            say(f"playing the first training tasks with the base in {'16 bit' if kind == 'none' else kind}")
            solved = play(campaign, None, Quantization.of(measured))
            if solved:
                told[kind]["success"] = asdict(clustered_interval(list(solved.values()))) | {"tasks": len(solved)}
    return told


def play(campaign: Campaign, server: PolicyServer | None, held: Quantization) -> dict[str, list[bool]]:
    """Success of the base, held like this, in every sample of each of the first training tasks, by task id.

    `server` serves the campaign's own base, another one is started for any other.
    """
    own = campaign.on(held)
    shard = first_shard(own)

    def roll_out(on: PolicyServer) -> None:
        asyncio.run(rollouts.collect_shard(own, on, shard, adapter=None, iteration=1, purpose="collect"))

    if not rollouts.is_collected(own, shard):
        if server is not None and own.policy(None) == campaign.policy(None):
            roll_out(server)
        else:
            if server is not None:
                server.make_room()
            with prepare.policies(own) as another:
                roll_out(another)
                another.end()
    solved: dict[str, list[bool]] = {}
    with model_judge.kept_in(own.settings.paths.judgements):
        for episode in read_shard(shard.path(own.settings.paths.shards)):
            if episode.status != "failed":
                who = f"environment {episode.task.environment!r}: its verifier"
                scores = scored(own.environment, episode.task, episode.answer, episode.outcome, who=who)
                solved.setdefault(episode.task.id, []).append(scores[SUCCESS] >= SOLVED)
    samples = own.settings.collect.samples
    return {task: outcomes for task, outcomes in solved.items() if len(outcomes) == samples}


def first_shard(campaign: Campaign) -> ShardPlan:
    return rollouts.plan_collection(campaign, 1, None, whole=True)[0]


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**27 else f"{count / 2**20:.1f} MiB"
