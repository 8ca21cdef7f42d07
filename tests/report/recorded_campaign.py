"""A small campaign of scripted demonstrations: three iterations and a control, written through the store.

Everything after the episodes is what a run does: shards, ingest, scores, selection, evaluation, verdict, promotion.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from agentloop import environments
from agentloop.curation import scoring
from agentloop.curation.selection import select
from agentloop.evaluation.looks import Look
from agentloop.evaluation.verdict import judge
from agentloop.records import NF4, Adapter, Entry, Policy, Sampling, Task, Trajectory, Turn
from agentloop.rollout.grammar import GrammarError, ToolCall, parse
from agentloop.settings import Settings
from agentloop.store import (
    adapters,
    campaigns,
    canaries,
    champions,
    contests,
    evaluations,
    gpu_phases,
    policies,
    tasks,
    training_runs,
    verdicts,
)
from agentloop.store.database import Database
from agentloop.store.ingest import ingest
from agentloop.store.ledger import Ledger
from agentloop.store.shards import write_shard
from agentloop.tiny.tokenizer import build_tokenizer
from agentloop.tools import ToolError
from agentloop.training.run import OBJECTIVES

CAMPAIGN = "recorded"
SKILLS = (0.3, 0.48, 0.5, 0.75)
"""Share of right episodes of the base model and of each iteration's challenger."""
SEED, SAMPLES = 5, 4
SAMPLING = Sampling()
ARITHMETIC = environments.get("arithmetic")
HOSTILE = "</script><script>document.title='broken'</script>"
"""Something that a model may well write."""


@cache
def tokenizer():
    return build_tokenizer(task.question for task in ARITHMETIC.tasks("train", 40, SEED))


def decode(token: int) -> str:
    return tokenizer().decode([token])


@cache
def encode(text: str) -> tuple[int, ...]:
    return tuple(tokenizer().encode(text, add_special_tokens=False))


def scripted(policy: str, task: Task, sample: int, skill: float) -> Trajectory:
    """One episode that is right with probability `skill`, otherwise of the family's bad habit or noise."""
    rng = random.Random(f"{policy} {task.id} {sample}")
    right = rng.random() < skill
    while ((demonstration := ARITHMETIC.demonstration(task, rng)).kind == "right") != right:
        pass
    ids: list[int] = []
    logprobs: list[float] = []
    turns: list[Turn] = []

    def append(role: str, text: str, **about: str | None) -> None:
        new = encode(f"<start_of_turn>{role}\n{text}<end_of_turn>\n")
        turns.append(Turn(role, text, len(ids), len(ids) + len(new), **about))
        ids.extend(new)
        logprobs.extend(-(rng.expovariate(3) ** 2) if role == "model" else 0.0 for _ in new)

    append("user", task.question)
    answer = None
    said = list(demonstration.turns)
    if not right and rng.random() < 0.1:
        said[-1] = f"Answer: {HOSTILE}"
    for text in said:
        try:
            parsed = parse(text)
        except GrammarError as error:
            append("model", text)
            append("tool", str(error), error=str(error))
            continue
        if not isinstance(parsed, ToolCall):
            append("model", text)
            answer = parsed.text
            break
        append("model", text, tool=parsed.name, arguments=f'[["{parsed.args[0]}"], {{}}]')
        try:
            append("tool", ARITHMETIC.tools(task)[parsed.name].call(*parsed.args), tool=parsed.name)
        except ToolError as error:
            append("tool", f"error: {error}", tool=parsed.name, error=f"error: {error}")
    mask = tuple(turn.role == "model" for turn in turns for _ in range(turn.start, turn.end))
    return Trajectory(
        policy,
        task,
        sample,
        SAMPLING,
        SEED,
        "answered" if answer else "turn_limit",
        answer,
        tuple(ids),
        mask,
        tuple(logprobs),
        tuple(turns),
        rng.uniform(0.2, 2),
    )


@cache
def _recorded(root: Path) -> Recorder:
    recorder = Recorder(root, training_tasks=40, heldout_tasks=80)
    recorder.record()
    return recorder


@pytest.fixture(scope="session")
def recorded(tmp_path_factory) -> Recorder:
    """The campaign in full; for reading only."""
    return _recorded(tmp_path_factory.getbasetemp() / "recorded campaign")


class Recorder:
    """Writes the campaign into `root`: shards, and the database `agentloop.duckdb`."""

    def __init__(self, root: Path, *, training_tasks: int, heldout_tasks: int) -> None:
        self.root, self.training_tasks = root, training_tasks
        self.heldout = ARITHMETIC.tasks("heldout", heldout_tasks, SEED)
        defaults = {name: field.default for name, field in Settings.model_fields.items()}
        self.settings = Settings.model_construct(**defaults | {"campaign": CAMPAIGN, "iterations": 3})
        self.clock = datetime(2026, 1, 5, 1, 30, tzinfo=UTC)

    @property
    def database(self) -> Path:
        return self.root / "agentloop.duckdb"

    def record(self, iterations: int = 3, control: bool = True) -> None:
        with Database.open(self.database) as database:
            campaigns.register(database, self.settings)
            tasks.save(database, self.heldout)
            for iteration in range(1, iterations + 1):
                self._iterate(database, iteration)
            if control:
                self._control(database, iterations)

    def _iterate(self, database: Database, iteration: int) -> None:
        champion = champions.champion(database, CAMPAIGN)
        campaigns.begin_iteration(database, CAMPAIGN, iteration, champion=champion)
        known = {row[0]: row[1] for row in database.execute("SELECT adapter, iteration FROM candidates")}
        skill = SKILLS[known.get(champion, 0)]
        fresh = ARITHMETIC.tasks("train", self.training_tasks, SEED, skip=(iteration - 1) * self.training_tasks)
        self.roll_out(database, champion, fresh, skill, iteration, "collect")
        before = self._evaluate(database, champion, skill, iteration, "champion")
        chosen = self._step(
            database,
            iteration,
            "select",
            lambda: select(database, "rejection", CAMPAIGN, iteration, self.settings.selection).dataset,
        )
        adapter = self._train(database, chosen.id, iteration, "challenger")
        after = self._evaluate(database, adapter, SKILLS[iteration], iteration, "challenger")
        entry = contests.note(
            database,
            CAMPAIGN,
            iteration,
            adapter,
            lambda: Entry(iteration, 1, iteration, len(champions.moves(database, CAMPAIGN))),
        )
        verdict = judge(before, after, self.settings.gate, look=Look(1, 1), entry=entry)
        name = verdicts.save(database, verdict, campaign=CAMPAIGN, iteration=iteration, adapter=adapter)
        if verdict.decision == "promote":
            champions.promote(database, CAMPAIGN, adapter, iteration=iteration, verdict=name)
        campaigns.finish_iteration(database, CAMPAIGN, iteration)

    def _control(self, database: Database, iteration: int) -> None:
        (size,) = database.execute("SELECT rows FROM v_iterations WHERE iteration = ?", [iteration])[0]
        chosen = select(database, "random", CAMPAIGN, iteration, self.settings.selection, size=size)
        adapter = self._train(database, chosen.dataset.id, iteration, "control")
        self._evaluate(database, adapter, 0.36, iteration, "control")

    def _training(self) -> dict[str, Any]:
        """The settings that an adapter is stored with."""
        plain = self.settings.training.model_dump(mode="json")
        of_the_base = ("quantization", "quantization_tolerance", "max_quantization_loss")
        # at their defaults no part of a name
        left_out = (*of_the_base, "objective", *OBJECTIVES, "bounds")
        return {name: value for name, value in plain.items() if name not in left_out} | NF4.settings()

    def _policy(self, database: Database, adapter: str | None) -> str:
        policy = Policy("base_0123456789abcdef", adapter, "gemma-turns-1-bare")
        policies.save(database, policy)
        return policy.id

    def roll_out(
        self, database: Database, adapter: str | None, which: Sequence[Task], skill: float, iteration: int, purpose: str
    ) -> None:
        policy = self._policy(database, adapter)
        shard = self.root / "shards" / f"{iteration}-{purpose}-{adapter}.parquet"
        write_shard(
            shard,
            [scripted(policy, task, sample, skill) for task in which for sample in range(SAMPLES)],
            purpose=purpose,
            campaign=CAMPAIGN,
            iteration=iteration,
        )
        ingest(database, [shard])
        scoring.score(database, {"arithmetic": ARITHMETIC.verify})
        self._phase(database, iteration, purpose, 24)

    def _evaluate(self, database: Database, adapter: str | None, skill: float, iteration: int, role: str):
        self.roll_out(database, adapter, self.heldout, skill, iteration, "evaluate")
        measured = evaluations.measure(
            database,
            policy=self._policy(database, adapter),
            tasks=[task.id for task in self.heldout],
            samples=SAMPLES,
            seed=SEED,
            sampling=SAMPLING,
        )
        evaluations.save(database, measured, campaign=CAMPAIGN, iteration=iteration, role=role)
        return measured

    def _train(self, database: Database, dataset: str, iteration: int, role: str) -> str:
        adapter = Adapter("base_0123456789abcdef", dataset, self._training(), SEED, "1")
        about = {"campaign": CAMPAIGN, "iteration": iteration}
        training_runs.begin(database, adapter.id, dataset=dataset, **about)
        rng = random.Random(f"{iteration} {role}")
        metrics = [
            {"step": step, "loss": 0.2 + 0.6 / (1 + step / (6 + iteration)) + rng.gauss(0, 0.02), "tokens": 1500}
            for step in range(1, 31 + 10 * iteration)
        ]
        training_runs.log(database, adapter.id, metrics)
        training_runs.finish(database, adapter.id, seconds=31.5, tokens=1500 * len(metrics))
        adapters.save(database, adapter, path=self.root / "adapters" / adapter.id, role=role, **about)
        canaries.save(
            database,
            policy=self._policy(database, adapter.id),
            passed=True,
            tokens=512,
            mean_difference=2e-5,
            max_difference=4.1e-4,
            tolerance=5e-3,
            **about,
        )
        self._phase(database, iteration, "train", 31.5)
        return adapter.id

    def _phase(self, database: Database, iteration: int, name: str, seconds: float) -> None:
        ended = self.clock + timedelta(seconds=seconds)
        gpu_phases.save(
            database, campaign=CAMPAIGN, iteration=iteration, phase=name, started=self.clock, finished=ended
        )
        self.clock = ended

    def _step(self, database: Database, iteration: int, name: str, work: Callable):
        about = {"campaign": CAMPAIGN, "iteration": iteration, "name": name}
        Ledger(database).start(f"step_{name}_{iteration}", **about)
        result = work()
        Ledger(database).record(f"step_{name}_{iteration}", result={"done": True}, **about)
        return result
