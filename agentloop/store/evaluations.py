"""Evaluations: success of a policy on held-out tasks, made from stored and scored trajectories."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Literal

import pyarrow as pa

from agentloop.errors import StoreError
from agentloop.naming import canonical_json
from agentloop.records import SOLVED, Evaluation, Sampling, trajectory_id
from agentloop.store.clock import now
from agentloop.store.database import Database

Role = Literal["base", "champion", "earlier", "challenger", "control", "taught"]


def measure(
    database: Database, *, policy: str, tasks: Sequence[str], samples: int, seed: int, sampling: Sampling
) -> Evaluation:
    """The evaluation made of the trajectories that these names plan for, from their newest `success` scores.

    Here success becomes binary, for the gate and for pass@k: a sample is solved from a score of SOLVED on.

    `tasks`: task ids. A task of which an episode failed for good is left out: a failure of infrastructure is no score.
    Raises StoreError, naming the first, where a trajectory is not in the database or not scored, and where no task is left.
    """
    planned = pa.table(
        {
            "trajectory": pa.array(
                [trajectory_id(policy, task, sample, sampling, seed) for task in tasks for sample in range(samples)],
                pa.string(),
            )
        }
    )
    database.connection.register("planned", planned)
    scored = dict(
        database.execute(
            """
        SELECT trajectory, arg_max(value, version)
        FROM scores
        WHERE scorer = 'success' AND trajectory IN (SELECT trajectory FROM planned)
        GROUP BY trajectory
        """
        )
    )
    failed = {
        name
        for (name,) in database.execute(
            "SELECT trajectory FROM failed_episodes WHERE trajectory IN (SELECT trajectory FROM planned)"
        )
    }
    database.connection.unregister("planned")
    names = planned["trajectory"].to_pylist()
    complete: list[str] = []
    successes: list[tuple[bool, ...]] = []
    for position, task in enumerate(tasks):
        episodes = names[position * samples : (position + 1) * samples]
        missing = [name for name in episodes if name not in scored]
        if any(name not in failed for name in missing):
            raise StoreError(
                f"{database.path}: {missing[0]}, which the evaluation of {policy} needs, is not there or has no success score"
            )
        if not missing:
            complete.append(task)
            successes.append(tuple(scored[name] >= SOLVED for name in episodes))
    if not complete:
        raise StoreError(f"{database.path}: every task that {policy} was to be evaluated on has an episode that failed")
    return Evaluation(policy, tuple(complete), samples, seed, tuple(successes), sampling)


def pair(first: Evaluation, second: Evaluation) -> tuple[Evaluation, Evaluation]:
    """Both on the tasks that they share, so that they can be compared where episodes of one of them failed.

    Raises StoreError where they share none.
    """
    if first.tasks == second.tasks:
        return first, second
    shared = set(first.tasks) & set(second.tasks)
    if not shared:
        raise StoreError(f"{first.id} and {second.id} have no task in common")
    return _restricted(first, shared), _restricted(second, shared)


def _restricted(evaluation: Evaluation, tasks: set[str]) -> Evaluation:
    kept = [place for place, task in enumerate(evaluation.tasks) if task in tasks]
    return dataclasses.replace(
        evaluation,
        tasks=tuple(evaluation.tasks[place] for place in kept),
        successes=tuple(evaluation.successes[place] for place in kept),
    )


def save(
    database: Database, evaluation: Evaluation, *, campaign: str, iteration: int, role: Role, suite: str = "heldout"
) -> None:
    """Store an evaluation and what an iteration measured it for; once only.

    `suite`: heldout, unseen, itself, or a guard suite's name.

    Raises StoreError where it is stored with other outcomes, as after scoring by another version of the verifier.
    """
    solved = [value for task in evaluation.successes for value in task]
    with database.transaction():
        if not database.execute("SELECT 1 FROM evaluations WHERE id = ?", [evaluation.id]):
            database.execute(
                """
                INSERT INTO evaluations
                VALUES (?, ?, ?, ?, ?, ?, ?, (SELECT coalesce(max(number), 0) + 1 FROM evaluations), ?)
                """,
                [
                    evaluation.id,
                    evaluation.policy,
                    evaluation.seed,
                    len(evaluation.tasks),
                    evaluation.samples,
                    sum(solved) / len(solved),
                    now(),
                    canonical_json(dataclasses.asdict(evaluation.sampling)),
                ],
            )
            database.execute(
                """
                INSERT INTO evaluation_results
                SELECT $id, i // $samples, $tasks[i // $samples + 1], i % $samples, $solved[i + 1]
                FROM range(len($solved)) places(i)
                """,
                {"id": evaluation.id, "samples": evaluation.samples, "tasks": list(evaluation.tasks), "solved": solved},
            )
        elif load(database, evaluation.id) != evaluation:
            raise StoreError(
                f"{database.path}: {evaluation.id} is stored with other outcomes; evaluations never change"
            )
        database.execute(
            "INSERT INTO evaluation_uses VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            [campaign, iteration, role, suite, evaluation.id],
        )


def load(database: Database, evaluation_id: str) -> Evaluation:
    """Raises StoreError for an unknown id."""
    found = database.execute("SELECT policy, samples, seed, sampling FROM evaluations WHERE id = ?", [evaluation_id])
    if not found:
        raise StoreError(f"{database.path}: no evaluation {evaluation_id}")
    policy, samples, seed, sampling = found[0]
    rows = database.execute(
        """
        SELECT any_value(task), list(solved ORDER BY sample)
        FROM evaluation_results WHERE evaluation = ? GROUP BY position ORDER BY position
        """,
        [evaluation_id],
    )
    return Evaluation(
        policy,
        tuple(task for task, _ in rows),
        samples,
        seed,
        tuple(tuple(solved) for _, solved in rows),
        Sampling(**json.loads(sampling or "{}")),
    )


def by_family(database: Database, evaluation_id: str) -> dict[str, float]:
    """Share of the samples that were solved, by family of the task."""
    rows = database.execute(
        """
        SELECT k.family, avg(r.solved::INTEGER)
        FROM evaluation_results r JOIN tasks k ON k.id = r.task
        WHERE r.evaluation = ? GROUP BY k.family ORDER BY k.family
        """,
        [evaluation_id],
    )
    return dict(rows)


def success(database: Database, evaluation_id: str | None) -> float | None:
    """Share of all samples that were solved; None without an evaluation."""
    rows = database.execute("SELECT success FROM evaluations WHERE id = ?", [evaluation_id])
    return rows[0][0] if rows else None
