"""How long the store takes for 10,000 to 1,000,000 trajectories of 6 turns and 600 tokens, and pandas for the same.

    python benchmarks/store_throughput.py DIRECTORY [COUNT …] [--pandas] [--generate]

Two threads, 4 GB for DuckDB; prints a Markdown table, in seconds of wall clock (and of CPU). Shards that are there from
an earlier run are used again; to write them is not in the times. pandas keeps nothing and looks for no near duplicates
and no contamination. Not a test: it asserts nothing.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from synthetic_shards import write_shards

from agentloop.curation.scoring import score
from agentloop.curation.selection import select
from agentloop.records import Adapter
from agentloop.settings import Selection
from agentloop.store import adapters
from agentloop.store.database import Database
from agentloop.store.ingest import ingest

LIMITS = {"memory_limit": "4GB", "threads": 2}


@dataclass(frozen=True)
class Seconds:
    wall: float
    cpu: float
    """Of all threads: more than `wall` where they ran at once, less where other programs had the cores."""

    def __str__(self) -> str:
        return f"{self.wall:.2f} ({self.cpu:.2f})"


def timed(work) -> tuple[Seconds, object]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return Seconds(time.perf_counter() - wall, time.process_time() - cpu), result


def peak() -> float:
    """Most memory that this process has had, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def store(path: Path, shards: list[Path]) -> tuple[dict[str, Seconds], int]:
    def write(work):
        with Database.open(path, **LIMITS) as database:
            return work(database)

    seconds: dict[str, Seconds] = {}
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
    return seconds, rows


def pandas(shards: list[Path]) -> tuple[dict[str, Seconds], int]:
    """The same scores and the same choice from the same files, all in memory but the texts, which go as they come."""
    columns = ["id", "policy", "task", "expected", "answer", "tokens", "model_tokens", "turns"]

    def load(shard: Path) -> pd.DataFrame:
        frame = pd.read_parquet(shard, columns=columns)
        frame["actions"] = [
            str([(turn["tool"], turn["arguments"]) for turn in turns if turn["role"] == "model"])
            for turns in frame.turns
        ]
        return frame.drop(columns="turns")

    def rate(frame: pd.DataFrame) -> None:
        frame["success"] = (frame.answer == frame.expected).astype(float)

    def choose(frame: pd.DataFrame) -> pd.DataFrame:
        frame["rate"] = frame.groupby(["policy", "task"]).success.transform("mean")
        left = frame[(frame.success >= 0.5) & (frame.rate <= 0.99) & (frame.tokens <= 2048)]
        left = left.sort_values(["model_tokens", "id"]).drop_duplicates(["task", "actions"])
        return left.groupby("task").head(2)

    seconds: dict[str, Seconds] = {}
    seconds["ingest"], frame = timed(lambda: pd.concat(map(load, shards), ignore_index=True))
    seconds["score"], _ = timed(lambda: rate(frame))
    seconds["select"], chosen = timed(lambda: choose(frame))
    return seconds, len(chosen)


COLUMNS = ("ingest", "ingest again", "score", "select", "v_lineage")


def line(name: str, count: int, seconds: dict[str, Seconds], rows: int) -> str:
    cells = [str(seconds.get(column, "")) for column in COLUMNS]
    return f"| {name} | {count:,} | {' | '.join(cells)} | {count / seconds['ingest'].wall:,.0f} | {rows:,} | {peak():.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("counts", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--pandas", action="store_true", help="measure pandas instead of the store")
    parser.add_argument("--generate", action="store_true", help="only write the shards")
    arguments = parser.parse_args()
    print(f"| | trajectories | {' | '.join(COLUMNS)} | ingested a second | rows | peak GiB |", flush=True)
    print(f"|---|{'---|' * (len(COLUMNS) + 4)}", flush=True)
    for count in arguments.counts:
        root = arguments.directory / str(count)
        shards = write_shards(root / "shards", count)
        if arguments.generate:
            continue
        if arguments.pandas:
            print(line("pandas", count, *pandas(shards)), flush=True)
        else:
            shutil.rmtree(root / "data", ignore_errors=True)
            print(line("agentloop", count, *store(root / "data" / "agentloop.duckdb", shards)), flush=True)


if __name__ == "__main__":
    main()
