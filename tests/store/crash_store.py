"""Writers and an ingest that are killed at random while a reader reads: nothing acknowledged is lost or counted twice.

    python tests/store/crash_store.py DIRECTORY [--rounds 20] [--kills 20] [--seconds 60] [--writers 8]

Each round begins with nothing, with another seed. A writer acknowledges a shard by naming it on its standard output after `write_shard` has returned.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from agentloop.store.database import Database
from agentloop.store.ingest import ingest

HERE = Path(__file__).parent

WRITER = """
import itertools, sys
from pathlib import Path
from made_by_hand import episode, sum_task
from agentloop.store.shards import write_shard
root, life = Path(sys.argv[1]), int(sys.argv[2])
for number in itertools.count():
    first = 1_000_000 * life + 50 * number
    path = root / "shards" / f"{life}-{number}.parquet"
    episodes = [episode(sum_task(n)) for n in range(first, first + 50)]
    write_shard(path, episodes, purpose="collect", campaign="main", iteration=1)
    print(path, flush=True)
"""

INGEST = """
import sys
from pathlib import Path
from agentloop.store.database import Database
from agentloop.store.ingest import ingest
root = Path(sys.argv[1])
while True:
    with Database.open(root / "agentloop.duckdb") as database:
        print(ingest(database, sorted((root / "shards").glob("*.parquet"))).shards, flush=True)
"""

READER = """
import sys
from pathlib import Path
from agentloop.store.database import Database
from agentloop.store.snapshots import snapshot
path = Path(sys.argv[1]) / "agentloop.duckdb"
seen = 0
while True:
    with Database.open(snapshot(path), read_only=True) as database:
        (count, distinct), = database.execute("SELECT count(*), count(DISTINCT id) FROM trajectories")
        (turns,), = database.execute("SELECT count(DISTINCT trajectory) FROM turns")
    assert count == distinct == turns and count >= seen, (count, distinct, turns, seen)
    seen = count
    print(count, flush=True)
"""


@dataclass(frozen=True)
class Outcome:
    acknowledged: int
    """Shards."""
    lost: tuple[str, ...]
    """Acknowledged shards of which a trajectory is not in the database."""
    repeated: int
    """Trajectories that are there more than once, or whose turns are."""
    reads: int
    reader_failed: bool
    kills: Counter[str]


def run(root: Path, *, kills: int, seconds: float, writers: int, seed: int = 0) -> Outcome:
    """`kills` times within about `seconds`, one of the writers or the ingest is killed and another one started."""
    rng = random.Random(seed)
    Database.open(root / "agentloop.duckdb").close()
    logs: list[Path] = []

    def start(kind: str, code: str, *arguments: object) -> tuple[str, subprocess.Popen, Path]:
        logs.append(root / f"{len(logs)}.log")
        with open(logs[-1], "w") as log:
            command = [sys.executable, "-c", f"import sys\nsys.path.insert(0, {str(HERE)!r})\n{code}", str(root)]
            process = subprocess.Popen([*command, *map(str, arguments)], stdout=log, stderr=subprocess.STDOUT)
        return kind, process, logs[-1]

    running = [start("writer", WRITER, life) for life in range(writers)] + [start("ingest", INGEST)]
    _, reader, reader_log = start("reader", READER)
    counts: Counter[str] = Counter()
    try:
        for life in range(writers, writers + kills):
            time.sleep(rng.uniform(0.5, 1.5) * seconds / kills)
            # The ingest is one of nine, but what it interrupts is what matters most.
            slot = len(running) - 1 if rng.random() < 0.4 else rng.randrange(len(running) - 1)
            kind, process, log = running[slot]
            _wait_for_output(log)
            assert process.poll() is None, f"{kind} ended by itself: {log.read_text()[-500:]}"
            process.send_signal(signal.SIGKILL)
            process.wait()
            counts[kind] += 1
            running[slot] = start(kind, INGEST) if kind == "ingest" else start(kind, WRITER, life)
    finally:
        reader_failed = reader.poll() is not None
        for process in [*(each for _, each, _ in running), reader]:
            process.kill()
            process.wait()
    written = {line for log in logs for line in log.read_text().splitlines() if line.endswith(".parquet")}
    return _judge(root, written, reader_failed, len(reader_log.read_text().splitlines()), counts)


def _wait_for_output(log: Path, seconds: float = 60) -> None:
    """Until a process has begun its work: to kill one that is still importing shows nothing."""
    deadline = time.monotonic() + seconds
    while not log.stat().st_size and time.monotonic() < deadline:
        time.sleep(0.02)


def _judge(root: Path, written: set[str], reader_failed: bool, reads: int, kills: Counter[str]) -> Outcome:
    with Database.open(root / "agentloop.duckdb") as database:
        ingest(database, sorted((root / "shards").glob("*.parquet")))
        rows = dict(
            database.execute(
                "SELECT h.path, count(*) FROM trajectories t JOIN shards h ON h.number = t.shard GROUP BY 1"
            )
        )
        ((repeated,),) = database.execute(
            "SELECT count(*) FROM (SELECT id FROM trajectories GROUP BY id HAVING count(*) > 1 "
            "UNION ALL SELECT trajectory FROM turns GROUP BY trajectory, position HAVING count(*) > 1)"
        )
        lost = tuple(sorted(path for path in written if rows.get(database.relative(Path(path))) != 50))
    return Outcome(len(written), lost, repeated, reads, reader_failed, kills)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the first round")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--writers", type=int, default=8)
    arguments = parser.parse_args()
    for seed in range(arguments.seed, arguments.seed + arguments.rounds):
        root = arguments.directory / str(seed)
        root.mkdir(parents=True)
        outcome = run(root, kills=arguments.kills, seconds=arguments.seconds, writers=arguments.writers, seed=seed)
        print(outcome, flush=True)
        shutil.rmtree(root)
        if outcome.lost or outcome.repeated or outcome.reader_failed:
            sys.exit(1)


if __name__ == "__main__":
    main()
