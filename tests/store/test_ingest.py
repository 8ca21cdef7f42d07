import random
import shutil
from pathlib import Path

import pytest
from made_by_hand import episode, sum_task

from agentloop.errors import StoreError
from agentloop.records import Attempt
from agentloop.store import ingest as ingest_module
from agentloop.store.database import Database
from agentloop.store.ingest import IngestReport, ingest
from agentloop.store.shards import write_shard

TABLES = {"trajectories": "* EXCLUDE (shard, position)", "turns": "*", "tasks": "*", "attempts": "*", "collected": "*"}


def content(database: Database) -> dict[str, list[tuple]]:
    return {table: database.execute(f"SELECT {columns} FROM {table} ORDER BY ALL") for table, columns in TABLES.items()}


def write(path: Path, numbers: range, **changes) -> Path:
    trajectories = [
        episode(sum_task(n), attempts=[Attempt("reset", 1.5)] if n % 5 == 0 else [], error="no" if n % 3 == 0 else None)
        for n in numbers
    ]
    write_shard(path, trajectories, **({"purpose": "collect", "campaign": "main", "iteration": 1} | changes))
    return path


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    """Four shards of ten, each of which shares two trajectories with the next."""
    return [write(tmp_path / "data" / "shards" / f"{n}.parquet", range(8 * n, 8 * n + 10)) for n in range(4)]


def test_everything_arrives(database, shards):
    assert ingest(database, shards) == IngestReport(shards=4, known=0, damaged=(), trajectories=34, duplicates=6)
    (row,) = database.execute(
        "SELECT tokens, model_tokens, model_turns, tool_calls, tool_errors, attempts, h.path FROM trajectories t "
        "JOIN shards h ON h.number = t.shard WHERE t.id = ?",
        [episode(sum_task(15)).id],
    )
    expected = episode(sum_task(15), error="no")
    assert row == (len(expected.token_ids), sum(expected.mask), 2, 1, 1, 1, "shards/1.parquet")
    assert database.execute(
        "SELECT role, text, token_start, token_end, tool, arguments, error FROM turns "
        "WHERE trajectory = ? ORDER BY position",
        [expected.id],
    ) == [(t.role, t.text, t.start, t.end, t.tool, t.arguments, t.error) for t in expected.turns]
    assert database.execute("SELECT number, error, seconds FROM attempts WHERE trajectory = ?", [expected.id]) == [
        (1, "reset", 1.5)
    ]


def test_any_order_any_number_of_times_gives_the_same_content(tmp_path, database, shards, new_database, monkeypatch):
    ingest(database, shards)
    expected = content(database)
    for seed in range(3):
        monkeypatch.setattr(ingest_module, "BATCH_ROWS", 1 + 9 * seed)
        plan = [path for path in shards for _ in range(3)]
        random.Random(seed).shuffle(plan)
        shutil.copytree(new_database.parent, tmp_path / str(seed))
        with Database.open(tmp_path / str(seed) / "agentloop.duckdb") as database:
            reports = [ingest(database, plan[:5]), ingest(database, plan[5:])]
            assert content(database) == expected
            assert sum(report.shards for report in reports) == 4
            assert sum(report.known for report in reports) == 8
            assert sum(report.trajectories for report in reports) == 34


@pytest.mark.parametrize("batch_rows", [1, 25, 1000])
def test_a_damaged_shard_is_set_aside_and_the_rest_goes_on(database, shards, batch_rows, monkeypatch):
    monkeypatch.setattr(ingest_module, "BATCH_ROWS", batch_rows)
    truncated, garbled = shards[1], shards[2]
    truncated.write_bytes(truncated.read_bytes()[:-100])
    whole = garbled.read_bytes()
    # The footer is good, the pages are not: only reading finds it.
    garbled.write_bytes(whole[:4] + bytes(len(whole) // 2) + whole[4 + len(whole) // 2 :])
    report = ingest(database, shards)
    assert set(report.damaged) == {str(truncated), str(garbled)}
    assert (report.shards, report.trajectories) == (2, 20)
    for path in (truncated, garbled):
        assert not path.exists() and path.with_name(f"{path.name}.damaged").is_file()
    records = database.execute("SELECT path, reason FROM shards WHERE status = 'damaged' ORDER BY path")
    assert [path for path, _ in records] == ["shards/1.parquet", "shards/2.parquet"]
    assert all(reason for _, reason in records)
    assert set(ingest(database, shards).damaged) == set(report.damaged)  # still reported, nothing new recorded
    assert database.execute("SELECT count(*) FROM shards") == [(4,)]
    write(truncated, range(8, 18))  # collected again
    assert ingest(database, shards[:2]) == IngestReport(shards=1, known=1, damaged=(), trajectories=8, duplicates=2)


def test_a_shard_that_is_written_again_is_whole_whatever_its_size(database, shards, tmp_path):
    """Episodes that are played again took other times, so their file has another size; a copy elsewhere says nothing of it."""
    ingest(database, shards)
    assert ingest_module.damaged(database, "main") == []
    whole, other = shards[1].read_bytes(), shards[2].read_bytes()
    shards[1].write_bytes(whole[: len(whole) // 2])
    shards[2].unlink()
    assert ingest_module.damaged(database, "main") == [1]
    copy = tmp_path / "copy.parquet"
    copy.write_bytes(whole)
    assert ingest(database, [copy]).known == 1
    assert ingest_module.damaged(database, "main") == [1], "the file that it has is still cut"
    write(shards[1], range(8, 18), campaign="a longer name, and so a larger file")
    assert shards[1].stat().st_size != len(whole)
    assert ingest(database, [shards[1]], campaign="main", iteration=1, purpose="collect").known == 1
    assert ingest_module.damaged(database, "main") == [1], "another one is missing"
    shards[2].write_bytes(other)
    assert ingest_module.damaged(database, "main") == []


def test_a_shard_that_was_never_there_is_named(database, tmp_path):
    with pytest.raises(StoreError, match="none.parquet: no such shard"):
        ingest(database, [tmp_path / "none.parquet"])


def test_another_campaign_uses_the_same_shards(database, shards):
    ingest(database, shards[:2])
    report = ingest(database, shards, campaign="second", iteration=3, purpose="evaluate")
    assert report == IngestReport(shards=2, known=2, damaged=(), trajectories=16, duplicates=4)
    assert ingest(database, shards, campaign="second", iteration=3, purpose="evaluate").known == 4
    assert database.execute(
        "SELECT campaign, iteration, purpose, count(*), count(DISTINCT trajectory) FROM collected "
        "GROUP BY ALL ORDER BY ALL"
    ) == [("main", 1, "collect", 18, 18), ("second", 3, "evaluate", 34, 34)]


def test_a_copy_of_a_shard_counts_once_and_a_moved_file_is_followed(database, shards, tmp_path):
    copy = tmp_path / "data" / "moved" / "copy.parquet"
    copy.parent.mkdir()
    copy.write_bytes(shards[0].read_bytes())
    assert ingest(database, [shards[0], copy]) == IngestReport(
        shards=1, known=1, damaged=(), trajectories=10, duplicates=0
    )
    shards[0].unlink()
    ingest(database, [copy])
    assert database.execute("SELECT path FROM shards") == [("moved/copy.parquet",)]


def test_a_task_that_is_held_out_anywhere_is_held_out(database, tmp_path):
    for split in ("heldout", "train"):
        for first in ("train", split):
            path = tmp_path / f"{split}-{first}.parquet"
            write_shard(
                path,
                [episode(sum_task(1, first), policy=f"policy_{split}_{first}")],
                purpose="collect",
                campaign="main",
                iteration=1,
            )
            ingest(database, [path])
    assert database.execute("SELECT split FROM tasks") == [("heldout",)]


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ({"calls": ['{"a": 1}']}, {"calls": ['{"a":1}']}, True),
        ({"calls": ['{"a": 1}']}, {"calls": ['{"a": 2}']}, False),
        ({"calls": ['{"a": 1}']}, {"calls": ['{"a": 1}', '{"a": 1}']}, False),
        ({"calls": ["no json"]}, {"calls": ["no json"]}, True),
        ({"padding": 3}, {"padding": 4}, True),
        ({"error": "no"}, {}, True),
        ({"answer": "7"}, {"answer": "8"}, False),
    ],
)
def test_actions_are_what_the_model_did(database, tmp_path, first, second, same):
    pair = [episode(sum_task(1), 0, **first), episode(sum_task(1), 1, **second)]
    write_shard(tmp_path / "a.parquet", pair, purpose="collect", campaign="main", iteration=1)
    ingest(database, [tmp_path / "a.parquet"])
    assert database.execute("SELECT count(DISTINCT actions) FROM trajectories") == [(1 if same else 2,)]


KILLED = """
import signal
from agentloop.store import ingest as ingest_module
ingest_module.BATCH_ROWS = 1
execute = Database.execute

def killed_after(statements):
    def counted(self, *arguments):
        nonlocal statements
        statements -= 1
        if not statements:
            os.kill(os.getpid(), signal.SIGKILL)
        return execute(self, *arguments)

    Database.execute = counted
    with Database.open(path) as database:
        ingest_module.ingest(database, sorted((path.parent / "shards").glob("*.parquet")))

def count():
    with Database.open(path) as database:
        print(database.execute("SELECT count(*) FROM trajectories")[0][0], flush=True)

for statements in (3, 9, 12, 15, 20, 31):  # before, within and after transactions
    for work in (lambda: killed_after(statements), count):
        child = os.fork()
        if not child:
            work()
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def test_an_ingest_killed_anywhere_is_made_up_by_the_next(tmp_path, database, start_python):
    paths = [write(tmp_path / "shards" / f"{n}.parquet", range(8 * n, 8 * n + 10)) for n in range(6)]
    ingest(database, paths)
    expected = content(database)
    database.close()
    shutil.rmtree(database.path.parent)
    shutil.move(tmp_path / "shards", tmp_path / "data" / "shards")
    Database.open(database.path).close()
    output, errors = start_python(KILLED).communicate()
    outcomes = list(map(int, output.split()))
    assert outcomes[::3] == [-9] * 6 and outcomes[2::3] == [0] * 6, errors
    seen = outcomes[1::3]
    assert seen == sorted(seen) and seen[0] < seen[-1] < 50
    with Database.open(database.path) as later:
        ingest(later, sorted((tmp_path / "data" / "shards").glob("*.parquet")))
        assert content(later) == expected
