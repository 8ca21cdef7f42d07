"""Parquet shards: finished episodes on disk, every field, immutable.

One row is one trajectory. The footer names the shard by its trajectories, so that a file can be recognised without
reading it and a truncated one, which has no footer, cannot be mistaken for one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from agentloop.errors import ShardError
from agentloop.files import atomic
from agentloop.naming import canonical_json, content_id
from agentloop.records import Attempt, Sampling, Task, Trajectory, Turn

Purpose = Literal["collect", "evaluate", "demonstrate"]
"""What episodes are run for: to be learnt from in a campaign's iteration, to be measured, or to teach a base."""

FORMAT = b"1"
"""Of the file's columns; a reader refuses another one."""

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("policy", pa.string()),
        ("task", pa.string()),
        ("environment", pa.string()),
        ("family", pa.string()),
        ("question", pa.string()),
        ("expected", pa.string()),
        ("split", pa.string()),
        ("payload", pa.string()),
        ("sample", pa.int32()),
        ("sampling", pa.string()),
        ("seed", pa.int64()),
        ("status", pa.string()),
        ("answer", pa.string()),
        ("tokens", pa.int32()),
        ("model_tokens", pa.int32()),
        ("token_ids", pa.list_(pa.int32())),
        ("mask", pa.list_(pa.bool_())),
        ("logprobs", pa.list_(pa.float32())),
        (
            "turns",
            pa.list_(
                pa.struct(
                    [
                        ("role", pa.string()),
                        ("text", pa.string()),
                        ("token_start", pa.int32()),
                        ("token_end", pa.int32()),
                        ("tool", pa.string()),
                        ("arguments", pa.string()),
                        ("error", pa.string()),
                        ("reward", pa.float64()),
                    ]
                )
            ),
        ),
        ("seconds", pa.float64()),
        ("attempts", pa.list_(pa.struct([("error", pa.string()), ("seconds", pa.float64())]))),
        ("outcome", pa.string()),
        ("starts", pa.list_(pa.int32())),
    ]
)
"""One row of a shard. `tokens` and `model_tokens` are lengths, known without reading the lists; `expected` is the
task's answer. Shards from before there were sessions lack `outcome` and the turns' `reward`, those from before
an episode could have several conversations `starts`, and are read as if these were
null."""


@dataclass(frozen=True)
class Footer:
    """A shard's description of itself, which is read without its rows."""

    shard: str
    """Id: the content id of the trajectory ids in their order."""
    rows: int
    campaign: str
    """The campaign that it was first written for; another one may plan the same episodes."""
    iteration: int
    purpose: Purpose


def write_shard(
    path: Path,
    trajectories: Sequence[Trajectory],
    *,
    purpose: Purpose,
    campaign: str,
    iteration: int,
    given_up_after: int | None = None,
) -> None:
    """Write a shard that either exists whole or not at all (temporary name, fsync, rename, fsync of the directory).

    A whole shard of the same trajectories that is already there is kept: shards never change. Log probabilities are
    kept as float32, as vLLM computes them. `given_up_after`: as for `shard_id`.

    Raises ShardError where the path holds other trajectories, DiskError (naming the path) where it cannot be written.
    """
    shard = shard_id([trajectory.id for trajectory in trajectories], given_up_after=given_up_after)
    if is_whole(path):
        if read_footer(path).shard != shard:
            raise ShardError(f"{path}: already holds other trajectories, and shards never change")
        return
    table = pa.Table.from_pylist([row_of(trajectory) for trajectory in trajectories], schema=SCHEMA)
    write_table(path, table, Footer(shard, len(trajectories), campaign, iteration, purpose))


def write_table(path: Path, table: pa.Table, footer: Footer) -> None:
    """Write rows of SCHEMA as a shard. Raises DiskError (naming the path)."""
    metadata = {b"agentloop.format": FORMAT, b"agentloop.shard": canonical_json(asdict(footer)).encode()}
    with atomic(path) as temporary:
        pq.write_table(table.replace_schema_metadata(metadata), temporary, compression="zstd")


def read_shard(path: Path) -> list[Trajectory]:
    """Every trajectory of a shard, in the order written. Raises ShardError, naming the file, where it is damaged."""
    return [trajectory_of(row, path) for row in read_columns(path).to_pylist()]


def read_columns(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Some columns of a shard, all by default. Raises ShardError, naming the file, where it is damaged or missing."""
    read_footer(path)
    try:
        return pq.read_table(path, columns=columns, schema=SCHEMA, partitioning=None)
    except (pa.ArrowException, OSError) as error:
        raise ShardError(f"{path}: cannot be read ({_first_line(error)})") from None


def read_footer(path: Path) -> Footer:
    """Return what a shard says of itself. Raises ShardError, naming the file, where it does not."""
    try:
        metadata = pq.read_metadata(path)
    except FileNotFoundError:
        raise ShardError(f"{path}: no such shard") from None
    except (pa.ArrowException, OSError) as error:
        raise ShardError(f"{path}: truncated or not a Parquet file ({_first_line(error)})") from None
    names = metadata.metadata or {}
    if names.get(b"agentloop.format") != FORMAT:
        raise ShardError(f"{path}: not a shard of format {FORMAT.decode()}")
    return Footer(**json.loads(names[b"agentloop.shard"]))


def is_whole(path: Path) -> bool:
    """Return True where the path holds a complete shard of this format (reads the footer only)."""
    try:
        read_footer(path)
    except ShardError:
        return False
    return True


def shard_id(trajectories: Sequence[str], *, given_up_after: int | None = None) -> str:
    """Name of the shard that holds these trajectories in this order.

    `given_up_after`: samples after which a task was given up; what it lacks, another shard of the same trajectories has.
    """
    names = list(trajectories)
    # no part of the name at first, so that it is none where no task is given up
    return content_id("shard", names if given_up_after is None else [names, {"given_up_after": given_up_after}])


@cache
def _sampling(sampling: Sampling) -> str:
    return canonical_json(asdict(sampling))


def row_of(trajectory: Trajectory) -> dict[str, Any]:
    """Return the trajectory as a row of SCHEMA, in plain values that JSON has as well."""
    task = trajectory.task
    return {
        "id": trajectory.id,
        "policy": trajectory.policy,
        "task": task.id,
        "environment": task.environment,
        "family": task.family,
        "question": task.question,
        "expected": task.answer,
        "split": task.split,
        "payload": canonical_json(task.payload),
        "sample": trajectory.sample,
        "sampling": _sampling(trajectory.sampling),
        "seed": trajectory.seed,
        "status": trajectory.status,
        "answer": trajectory.answer,
        "tokens": len(trajectory.token_ids),
        "model_tokens": sum(trajectory.mask),
        "token_ids": trajectory.token_ids,
        "mask": trajectory.mask,
        "logprobs": trajectory.logprobs,
        "turns": [
            {
                "role": turn.role,
                "text": turn.text,
                "token_start": turn.start,
                "token_end": turn.end,
                "tool": turn.tool,
                "arguments": turn.arguments,
                "error": turn.error,
                "reward": turn.reward,
            }
            for turn in trajectory.turns
        ],
        "seconds": trajectory.seconds,
        "attempts": [asdict(attempt) for attempt in trajectory.attempts],
        "outcome": None if trajectory.outcome is None else canonical_json(trajectory.outcome),
        "starts": trajectory.starts,
    }


def trajectory_of(row: dict[str, Any], path: Path) -> Trajectory:
    """The inverse of `row_of`. Raises ShardError, naming the file that the row is from, where its name is not its content's."""
    task = Task(
        row["environment"], row["family"], row["question"], row["expected"], row["split"], json.loads(row["payload"])
    )
    trajectory = Trajectory(
        policy=row["policy"],
        task=task,
        sample=row["sample"],
        sampling=Sampling(**json.loads(row["sampling"])),
        seed=row["seed"],
        status=row["status"],
        answer=row["answer"],
        token_ids=tuple(row["token_ids"]),
        mask=tuple(row["mask"]),
        logprobs=tuple(row["logprobs"]),
        turns=tuple(
            Turn(
                turn["role"],
                turn["text"],
                turn["token_start"],
                turn["token_end"],
                turn["tool"],
                turn["arguments"],
                turn["error"],
                turn["reward"],
            )
            for turn in row["turns"]
        ),
        seconds=row["seconds"],
        attempts=tuple(Attempt(**attempt) for attempt in row["attempts"]),
        outcome=None if row["outcome"] is None else json.loads(row["outcome"]),
        starts=tuple(row["starts"] or (0,)),
    )
    if trajectory.id != row["id"]:
        raise ShardError(f"{path}: {row['id']} holds the content of {trajectory.id}")
    return trajectory


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
