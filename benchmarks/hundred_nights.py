"""How long everything but the card's work takes in a night, from the first night to the hundredth.

    python benchmarks/hundred_nights.py DIRECTORY [--nights 100] [--tasks 256] [--output FILE]

A campaign of the real size (256 tasks × 8 episodes a night, 200 held-out tasks × 4 for champion and challenger, with the recipe
`fresh`) goes through its own steps night after night: plans, shards, ingestion, scores, near copies of held-out tasks,
selection, measuring, gate, report. Only the episodes are made up, and nothing is trained. Prints a row for each tenth night:
seconds of wall clock of each step, and the size of the database. Not a test: it asserts nothing.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from agentloop import environments, settings
from agentloop.campaign import collect, contest, gate, meeting, nights, report, select
from agentloop.campaign.campaign import Campaign
from agentloop.campaign.suites import HELDOUT
from agentloop.records import Adapter, Task, Trajectory, Turn
from agentloop.rollout.collection import ShardPlan
from agentloop.store import adapters, champions, runs
from agentloop.store.shards import Purpose, write_shard

WORDS = (
    "selection.recipe=fresh",
    "selection.rows=1024",
    "selection.max_success_rate=1",
    "collect.samples=8",
    "evaluate.tasks=200",
    "evaluate.samples=4",
    "gate.max_tasks=200",
)
TOKENS = 300
"""Of an episode: six turns of fifty."""


@dataclass
class Night:
    number: int
    seconds: dict[str, float] = field(default_factory=dict)
    megabytes: float = 0.0

    def timed(self, name: str, work: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        result = work()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began
        return result


def episode(shard: ShardPlan, task: Task, sample: int, skill: float) -> Trajectory:
    """An episode with two calls, right as often as `skill` says."""
    rng = random.Random(f"{shard.policy}/{task.id}/{sample}")
    right = rng.random() < skill
    # as many different ways to an answer as a policy has
    texts = [
        task.question,
        f"step {rng.randrange(5)}",
        "4",
        f"then {rng.randrange(5)}",
        "2",
        task.answer if right else "0",
    ]
    span = TOKENS // len(texts)
    turns = [
        Turn(
            ("user", "model", "tool")[0 if place == 0 else 1 + (place + 1) % 2],
            text,
            place * span,
            (place + 1) * span,
            **({"tool": "calculate", "arguments": json.dumps({"expression": text})} if place in (1, 3) else {}),
        )
        for place, text in enumerate(texts)
    ]
    mask = [turn.role == "model" for turn in turns for _ in range(span)]
    return Trajectory(
        shard.policy,
        task,
        sample,
        shard.sampling,
        shard.seed,
        "answered",
        texts[-1],
        tuple(rng.choices(range(4096), k=TOKENS)),
        tuple(mask),
        tuple(-rng.random() if own else 0.0 for own in mask),
        tuple(turns),
        2.0,
    )


def play(
    campaign: Campaign, planned: Sequence[ShardPlan], iteration: int, purpose: Purpose, skill: float
) -> list[ShardPlan]:
    missing = collect.missing(campaign, planned, iteration=iteration, purpose=purpose)
    for shard in missing:
        episodes = [episode(shard, task, sample, skill) for task, sample in shard.episodes]
        path = shard.path(campaign.settings.paths.shards)
        write_shard(path, episodes, purpose=purpose, campaign=campaign.name, iteration=iteration)
    return missing


def live(campaign: Campaign, writer: report.Writer, night: Night) -> None:
    """One night of the campaign; every tenth challenger is better."""
    iteration = night.number
    with campaign.database() as database:
        run = runs.begin(database, campaign.name, None)
    night.timed("plan", lambda: (nights.work(campaign), meeting.due(campaign, iteration)))
    champion = night.timed("plan", lambda: campaign.begin(iteration))
    skill = 0.3 + 0.05 * (iteration // 10)

    def take_in(planned: list[ShardPlan], adapter: str | None, purpose: Purpose, skill: float) -> None:
        play(campaign, planned, iteration, purpose, skill)
        about: dict[str, Any] = {"adapter": adapter, "iteration": iteration, "purpose": purpose}
        night.timed("ingest", lambda: collect.ingest_shards(campaign, planned, **about))

    planned = night.timed("plan", lambda: collect.plan_collection(campaign, iteration, champion))
    take_in(planned, champion, "collect", min(0.9, skill))
    night.timed("make known", lambda: contest.make_known(campaign, iteration))
    chosen = night.timed("select", lambda: select.select(campaign, iteration))
    adapter = Adapter(campaign.base, chosen["dataset"], {}, iteration, "1")
    with campaign.database() as database:
        path = campaign.settings.paths.adapters / adapter.id
        adapters.save(database, adapter, campaign=campaign.name, iteration=iteration, path=path)
    entry = night.timed("gate", lambda: contest.begin(campaign, iteration, adapter.id))
    suite = night.timed("plan", lambda: campaign.heldout(campaign.looks[0], entry.block))
    names = []
    for each, role, gain in ((champion, "champion", 0.0), (adapter.id, "challenger", 0.3 * (iteration % 10 == 0))):
        shards = night.timed("plan", lambda each=each: collect.plan_evaluation(campaign, each, suite))
        take_in(shards, each, "evaluate", min(0.9, skill + gain))
        about = {"iteration": iteration, "role": role}
        names.append(night.timed("gate", lambda each=each, about=about: gate.measure(campaign, each, suite, **about)))
    pair = {HELDOUT: tuple(each["evaluation"] for each in names)}
    night.timed("gate", lambda: gate.decide(campaign, pair, campaign.looks[0], adapter=adapter.id, iteration=iteration))
    campaign.finish(iteration)
    with campaign.database() as database:
        runs.end(database, run, error=None)
    night.timed("report", lambda: (writer.write(), report.tell(campaign.settings)))
    night.megabytes = campaign.settings.paths.database.stat().st_size / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--nights", type=int, default=100)
    parser.add_argument("--tasks", type=int, default=256, help="training tasks a night")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    root = options.directory.resolve()
    paths = (f"paths.data={root}", f"paths.cache={root / 'cache'}", f"collect.tasks={options.tasks}")
    loaded = settings.load([*WORDS, *paths, f"iterations={options.nights}"], profile="demo")
    campaign = Campaign(loaded, environments.get(loaded.environment), loaded.model_directory(), "base_1")
    from agentloop.store import campaigns

    with campaign.database() as database:
        campaigns.register(database, loaded)
        begun = champions.champion(database, campaign.name)
    assert begun is None, f"{root}: there is a campaign already"
    writer, found = report.Writer(loaded), []
    for number in range(1, options.nights + 1):
        night = Night(number)
        live(campaign, writer, night)
        found.append(night)
        if number in (1, 2, 3) or number % 10 == 0:
            told = ", ".join(f"{name} {seconds:.2f}" for name, seconds in night.seconds.items())
            print(f"night {number}: {sum(night.seconds.values()):.2f} s ({told}), {night.megabytes:.0f} MB", flush=True)
    if options.output:
        options.output.write_text(json.dumps([vars(each) for each in found], indent=1) + "\n", encoding="utf-8")
    early, late = (median(sum(night.seconds.values()) for night in part) for part in (found[1:6], found[-5:]))
    print(f"nights 2 to 6: {early:.2f} s in the median; the last five: {late:.2f} s")


if __name__ == "__main__":
    main()
