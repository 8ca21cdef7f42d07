"""How long the store takes for 10,000 to 1,000,000 trajectories of 6 turns and 600 tokens, and pandas for the same.

    python tests/store/benchmark_store.py DIRECTORY [COUNT …] [--keep]

Two threads, 4 GB for DuckDB. Shards that are there from an earlier run are used again. Not a test: it asserts nothing.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import time
from functools import partial
from pathlib import Path

import pandas as pd
from synthetic import write_shards

from agentloop.records import Adapter
from agentloop.settings import Selection
from agentloop.store import adapters
from agentloop.store.database import Database
from agentloop.store.ingest import ingest
from agentloop.store.scoring import score
from agentloop.store.selection import select

LIMITS = {"memory_limit": "4GB", "threads": 2}


def timed(work) -> tuple[float, object]:
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def peak() -> float:
    """Most memory that this process has had, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def store(path: Path, shards: list[Path]) -> dict[str, float]:
    def write(work):
        with Database.open(path, **LIMITS) as database:
            return work(database)

    seconds: dict[str, float] = {}
    seconds["ingest"], _ = timed(lambda: write(lambda database: ingest(database, shards)))
    seconds["ingest again"], _ = timed(lambda: write(lambda database: ingest(database, shards)))
    verifiers = {"arithmetic": lambda task, answer: float(answer == task.answer)}
    seconds["score"], _ = timed(lambda: write(lambda database: score(database, verifiers)))
    seconds["select"], selected = timed(
        lambda: write(lambda database: select(database, "rejection", "synthetic", 4, Selection()))
    )
    adapter = Adapter("base_1", selected.dataset.id, {}, 0, "1")
    write(lambda database: adapters.save(database, adapter, path=path, campaign="synthetic", iteration=4))

    def trace(database: Database) -> int:
        return len(database.arrow("SELECT * FROM v_lineage WHERE adapter = ?", [adapter.id]))

    with Database.open(path, read_only=True, **LIMITS) as database:
        seconds["v_lineage"], rows = timed(lambda: trace(database))
    print(
        f"  dataset of {rows:,} rows; database {path.stat().st_size / 2**20:,.0f} MiB, "
        f"shards {sum(shard.stat().st_size for shard in shards) / 2**20:,.0f} MiB"
    )
    return seconds


def pandas(shards: list[Path]) -> dict[str, float]:
    """The same scores and the same choice from the same files, all in memory."""
    columns = ["id", "policy", "task", "expected", "answer", "tokens", "model_tokens", "turns"]

    def load() -> pd.DataFrame:
        return pd.concat((pd.read_parquet(shard, columns=columns) for shard in shards), ignore_index=True)

    def rate(frame: pd.DataFrame) -> None:
        frame["success"] = (frame.answer == frame.expected).astype(float)
        frame["actions"] = [
            str([(t["tool"], t["arguments"]) for t in turns if t["role"] == "model"]) for turns in frame.turns
        ]

    def choose(frame: pd.DataFrame) -> pd.DataFrame:
        frame["rate"] = frame.groupby(["policy", "task"]).success.transform("mean")
        left = frame[(frame.success >= 0.5) & (frame.rate <= 0.99) & (frame.tokens <= 2048)]
        left = left.sort_values(["model_tokens", "id"]).drop_duplicates(["task", "actions"])
        return left.groupby("task").head(2)

    seconds: dict[str, float] = {}
    seconds["load"], frame = timed(load)
    seconds["score"], _ = timed(lambda: rate(frame))
    seconds["select"], chosen = timed(lambda: choose(frame))
    print(f"  pandas: dataset of {len(chosen):,} rows")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("counts", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument(
        "--pandas", action="store_true", help="also measure pandas, which needs about 10 GB for a million"
    )
    parser.add_argument("--generate", action="store_true", help="only write the shards")
    arguments = parser.parse_args()
    for count in arguments.counts:
        root = arguments.directory / str(count)
        seconds, shards = timed(partial(list, write_shards(root / "shards", count)))
        print(f"{count:,} trajectories written in {seconds:.1f} s")
        if arguments.generate:
            continue
        shutil.rmtree(root / "data", ignore_errors=True)
        seconds = store(root / "data" / "agentloop.duckdb", shards)
        print(
            f"{count:>10,}",
            "  ".join(f"{name} {value:.2f} s" for name, value in seconds.items()),
            f"| {count / seconds['ingest']:,.0f} trajectories/s, peak {peak():.1f} GiB",
        )
        if arguments.pandas:
            seconds = pandas(shards)
            print(
                f"{'pandas':>10}",
                "  ".join(f"{name} {value:.2f} s" for name, value in seconds.items()),
                f"| peak {peak():.1f} GiB",
            )


if __name__ == "__main__":
    main()
