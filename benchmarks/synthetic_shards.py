"""Synthetic trajectories by the million: 6 turns, 600 tokens, made as Arrow columns and written as real shards.

Text, ids and log probabilities have the entropy of real ones, so that file sizes and times mean something. Four
iterations by four policies, eight samples of each task, about a third of them right.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa

from agentloop.naming import canonical_json
from agentloop.records import Sampling
from agentloop.store.shards import SCHEMA, Footer, shard_id, write_table

TOKENS, TURNS, SAMPLES, ITERATIONS = 600, 6, 8, 4
SPAN = TOKENS // TURNS
ROLES = ["user", "model", "tool", "model", "tool", "model"]
WORDS = "the sum of rows where price exceeds seven and each order holds nine items from store twelve"


def write_shards(root: Path, count: int, *, rows: int = 1000, processes: int = 2) -> list[Path]:
    """Write `count` trajectories in shards of `rows`, those that are not there yet; returns the paths."""
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        return list(pool.map(partial(_write, root, count, rows), range(0, count, rows), chunksize=10))


@cache
def _corpus() -> str:
    return " ".join(np.random.default_rng(0).choice(WORDS.split() + [str(n) for n in range(1000)], 200_000))


def _write(root: Path, count: int, rows: int, first: int) -> Path:
    numbers = np.arange(first, min(first + rows, count))
    rng = np.random.default_rng([0, first])
    size = len(numbers)
    tasks = numbers // SAMPLES
    iterations = (1 + numbers * ITERATIONS // count).tolist()
    ids = [f"traj_{value:016x}" for value in rng.integers(0, 2**63, size).tolist()]
    name = shard_id(ids)
    path = root / f"{name}.parquet"
    if path.is_file():
        return path
    right = rng.random(size) < 0.35
    answers = np.where(right, tasks + 1, rng.integers(0, 50, size)).astype(str)
    failed = rng.random((size, 2)) < 0.1
    columns = {
        "id": ids,
        "policy": [f"policy_{iteration:016x}" for iteration in iterations],
        "task": [f"task_{task:016x}" for task in tasks.tolist()],
        "environment": pa.repeat("arithmetic", size),
        "family": pa.repeat("sum", size),
        "question": [f"What is {task} + 1?" for task in tasks.tolist()],
        "expected": (tasks + 1).astype(str),
        "split": pa.repeat("train", size),
        "payload": pa.repeat("{}", size),
        "sample": numbers % SAMPLES,
        "sampling": pa.repeat(canonical_json(vars(Sampling())), size),
        "seed": np.zeros(size, np.int64),
        "status": pa.repeat("answered", size),
        "answer": answers,
        "tokens": np.full(size, TOKENS),
        "model_tokens": np.full(size, TOKENS // 2),
        "token_ids": _lists(rng.integers(0, 262_144, size * TOKENS), TOKENS),
        "mask": _lists(np.tile(np.repeat([role == "model" for role in ROLES], SPAN), size), TOKENS),
        "logprobs": _lists(-rng.exponential(0.7, size * TOKENS), TOKENS),
        "turns": _turns(rng, failed),
        "seconds": rng.exponential(2.0, size),
        "attempts": [[]] * size,
    }
    arrays = [
        column.cast(field.type) if isinstance(column, pa.Array) else pa.array(column, field.type)
        for field, column in ((field, columns[field.name]) for field in SCHEMA)
    ]
    write_table(
        path, pa.Table.from_arrays(arrays, schema=SCHEMA), Footer(name, size, "synthetic", iterations[0], "collect")
    )
    return path


def _turns(rng: np.random.Generator, failed: np.ndarray) -> pa.Array:
    """`failed` [rows, calls]: which calls the tool complained about."""
    size = len(failed)
    corpus = _corpus()
    starts = rng.integers(0, len(corpus) - 400, size * TURNS).tolist()
    texts = [corpus[start : start + 300] for start in starts]
    tool = np.tile(np.array([None, "calculator", "calculator", "calculator", "calculator", None], object), size)
    arguments = np.full((size, TURNS), None, object)
    arguments[:, [1, 3]] = np.char.add(
        np.char.add('{"expression": "', rng.integers(0, 40, (size, 2)).astype(str)), ' + 1"}'
    )
    errors = np.full((size, TURNS), None, object)
    errors[:, [2, 4]] = np.where(failed, "error: division by zero", None)
    spans = np.tile(np.arange(TURNS) * SPAN, size)
    fields = SCHEMA.field("turns").type.value_type
    values = pa.StructArray.from_arrays(
        [
            pa.array(ROLES * size),
            pa.array(texts),
            pa.array(spans, pa.int32()),
            pa.array(spans + SPAN, pa.int32()),
            pa.array(tool, pa.string()),
            pa.array(arguments.ravel(), pa.string()),
            pa.array(errors.ravel(), pa.string()),
        ],
        fields=list(fields),
    )
    return pa.ListArray.from_arrays(np.arange(0, size * TURNS + 1, TURNS, dtype=np.int32), values)


def _lists(values: np.ndarray, length: int) -> pa.Array:
    kind = {"i": pa.int32(), "f": pa.float32(), "b": pa.bool_()}[values.dtype.kind]
    return pa.ListArray.from_arrays(np.arange(0, len(values) + 1, length, dtype=np.int32), pa.array(values, kind))
