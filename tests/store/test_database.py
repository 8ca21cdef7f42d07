import os
import threading
from pathlib import Path

import pytest

from agentloop.errors import StoreError
from agentloop.store import snapshots
from agentloop.store.database import Database
from agentloop.store.snapshots import snapshot

HOLD = """
with Database.open(path) as database:
    database.execute("CREATE TABLE mine (x INTEGER)")
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "agentloop.duckdb"


def test_what_was_written_is_read_again(path):
    with Database.open(path) as database:
        database.execute("CREATE TABLE numbers AS SELECT range AS n FROM range(1000)")
    with Database.open(path, read_only=True) as database:
        assert database.execute("SELECT sum(n) FROM numbers WHERE n < $limit", {"limit": 10}) == [(45,)]
        assert database.arrow("SELECT n FROM numbers WHERE n < 2 ORDER BY n").to_pydict() == {"n": [0, 1]}


def test_a_second_writer_is_told_who_holds_the_file(path, start_python):
    owner = start_python(HOLD)
    assert owner.stdout.readline() == "held\n"
    for read_only in (False, True):
        with pytest.raises(StoreError) as refused:
            Database.open(path, wait_seconds=0.1, read_only=read_only)
        assert str(path) in str(refused.value) and f"process {owner.pid} " in str(refused.value)
        assert "\n" not in str(refused.value)


def test_a_writer_waits_for_the_other(path, start_python):
    owner = start_python(HOLD.replace("time.sleep(60)", "time.sleep(0.5)"))
    owner.stdout.readline()
    with Database.open(path, wait_seconds=30) as database:
        assert database.execute("SELECT count(*) FROM mine") == [(0,)]


def test_a_killed_writer_leaves_what_it_committed_and_no_lock(path, start_python):
    owner = start_python("""
database = Database.open(path)
database.execute("CREATE TABLE mine AS SELECT 1 AS x")
database.execute("BEGIN TRANSACTION")
database.execute("INSERT INTO mine VALUES (2)")
print("held", flush=True)
time.sleep(60)
""")
    owner.stdout.readline()
    owner.kill()
    owner.wait()
    assert Path(f"{path}.wal").is_file()  # else the test shows nothing
    with Database.open(snapshot(path), read_only=True) as database:
        assert database.execute("SELECT x FROM mine") == [(1,)]
    with Database.open(path, read_only=True, wait_seconds=0) as database:
        assert database.execute("SELECT x FROM mine") == [(1,)]
    with Database.open(path, wait_seconds=0) as database:
        assert database.execute("SELECT x FROM mine") == [(1,)]


def test_a_snapshot_does_not_stop_writers_and_keeps_its_state(path, start_python):
    with Database.open(path) as database:
        database.execute("CREATE TABLE numbers AS SELECT 1 AS n")
    with Database.open(snapshot(path), read_only=True) as before:
        writer = start_python(
            "with Database.open(path, wait_seconds=5) as d: d.execute('INSERT INTO numbers VALUES (2)')"
        )
        assert writer.wait() == 0, writer.stderr.read()
        assert snapshot(path) == snapshot(path) != before.path
        with Database.open(snapshot(path), read_only=True) as after:
            assert before.execute("SELECT n FROM numbers") == [(1,)]
            assert after.execute("SELECT n FROM numbers ORDER BY n") == [(1,), (2,)]
            stored = after.relative(path.parent / "shards" / "a.parquet")
            assert stored == os.path.join("shards", "a.parquet")


def test_while_a_writer_does_not_let_go_readers_have_the_copy_before(path, start_python):
    with Database.open(path) as database:
        database.execute("CREATE TABLE numbers AS SELECT 1 AS n")
    before = snapshot(path)
    owner = start_python(HOLD)
    assert owner.stdout.readline() == "held\n"
    assert snapshot(path, wait_seconds=0.1) == before
    with Database.open(before, read_only=True) as reader:
        assert reader.execute("FROM numbers") == [(1,)]
    before.unlink()
    with pytest.raises(StoreError, match=f"process {owner.pid} "):
        snapshot(path, wait_seconds=0.1)


def test_a_writer_goes_on_while_the_log_is_folded_in(path, monkeypatch):
    connect = snapshots.connect

    def beside_a_writer(*arguments, **options):
        with Database.open(path, wait_seconds=0.0) as database:
            database.execute("CREATE TABLE meanwhile (a INTEGER)")
        return connect(*arguments, **options)

    with Database.open(path) as database:
        database.execute("CREATE TABLE before (a INTEGER)")
    monkeypatch.setattr(snapshots, "connect", beside_a_writer)
    with Database.open(snapshot(path), read_only=True) as copy:
        tables = {name for (name,) in copy.execute("SELECT table_name FROM information_schema.tables")}
    assert "before" in tables and "meanwhile" not in tables
    assert not [file for file in path.parent.iterdir() if ".tmp" in file.name]


def test_superseded_snapshots_are_removed(path, monkeypatch):
    monkeypatch.setattr("agentloop.store.snapshots.SNAPSHOT_SECONDS", 0.0)
    for n in range(3):
        with Database.open(path) as database:
            database.execute(f"CREATE TABLE numbers_{n} AS SELECT 1 AS n")
        with Database.open(snapshot(path), read_only=True) as copy:
            copy.execute(f"FROM numbers_{n}")
            assert len([file for file in path.parent.iterdir() if file.suffix == ".snapshot"]) == 1


def test_readers_of_another_process_work_while_a_run_writes(path, start_python):
    with Database.open(path) as database:
        database.execute("CREATE TABLE numbers (n INTEGER)")
    reader = start_python("""
from agentloop.store.snapshots import snapshot
seen = []
print("ready", flush=True)
while not seen or seen[-1] < 15:
    with Database.open(snapshot(path), read_only=True) as database:
        seen.append(database.execute("SELECT count(*) FROM numbers")[0][0])
assert seen == sorted(seen)
print(len(seen))
""")
    assert reader.stdout.readline() == "ready\n"
    for n in range(15):
        with Database.open(path) as database:
            database.execute("INSERT INTO numbers VALUES (?)", [n])
    output, errors = reader.communicate(timeout=60)
    assert reader.returncode == 0, errors


def test_threads_of_one_process_take_turns(path):
    with Database.open(path) as database:
        database.execute("CREATE TABLE numbers (n INTEGER)")

    def write(n: int) -> None:
        with Database.open(path) as database:
            database.execute("INSERT INTO numbers VALUES (?)", [n])

    threads = [threading.Thread(target=write, args=[n]) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with Database.open(path, read_only=True) as database:
        assert database.execute("SELECT n FROM numbers ORDER BY n") == [(n,) for n in range(8)]


def test_a_transaction_is_all_or_nothing_and_nests(path):
    with Database.open(path) as database:
        database.execute("CREATE TABLE numbers (n INTEGER)")
        with pytest.raises(ZeroDivisionError), database.transaction():
            with database.transaction():
                database.execute("INSERT INTO numbers VALUES (1)")
            1 / 0
        with database.transaction():
            database.execute("INSERT INTO numbers VALUES (2)")
        assert database.execute("SELECT n FROM numbers") == [(2,)]


@pytest.mark.parametrize("content", [b"not a database" * 500, b""])
def test_a_file_that_is_no_database_is_named(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(StoreError, match=str(path)) as refused:
        Database.open(path)
    assert "\n" not in str(refused.value)


def test_a_damaged_database_is_named(path):
    with Database.open(path) as database:
        database.execute("CREATE TABLE numbers AS SELECT range AS n, md5(range::VARCHAR) AS text FROM range(100000)")
    content = bytearray(path.read_bytes())
    for place in range(12288, len(content), 4096):  # behind the headers, something in every page
        content[place] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(StoreError, match=str(path)) as refused, Database.open(path) as database:
        database.execute("SELECT max(text), sum(n) FROM numbers")
    assert "\n" not in str(refused.value)


def test_a_newer_schema_is_refused(path):
    with Database.open(path) as database:
        database.execute("INSERT INTO migrations VALUES ('9999_future.sql', '0', TIMESTAMP '2030-01-01')")
    for read_only in (False, True):
        with pytest.raises(StoreError, match="newer version of agentloop"):
            Database.open(path, read_only=read_only)


def test_a_changed_migration_is_refused(path):
    with Database.open(path) as database:
        database.execute("UPDATE migrations SET digest = 'other' WHERE name = '0001_tables.sql'")
    with pytest.raises(StoreError, match="0001_tables.sql differs"):
        Database.open(path)


def test_reading_needs_a_database(path):
    with pytest.raises(StoreError, match="no database here yet"):
        Database.open(path, read_only=True)
    with pytest.raises(StoreError, match="no database here yet"):
        snapshot(path)
    assert not path.exists()


def test_paths_below_the_database_are_stored_relative(path):
    with Database.open(path) as database:
        inside, outside = path.parent / "shards" / "a.parquet", path.parent.parent / "b.parquet"
        assert database.relative(inside) == os.path.join("shards", "a.parquet")
        assert database.relative(outside) == str(outside)
        for place in (inside, outside):
            assert database.resolve(database.relative(place)) == place


def test_a_full_disk_is_named(path, start_python):
    # A file size limit of the process: the same failing write as on a full disk, without filling one.
    writer = start_python("""
import resource, signal
from agentloop.errors import DiskError
Database.open(path).close()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
size = path.stat().st_size + 300_000
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
try:
    with Database.open(path) as database:
        database.execute("CREATE TABLE numbers AS SELECT md5(range::VARCHAR) AS text FROM range(100000)")
except DiskError as error:
    print(error)
""")
    output, errors = writer.communicate(timeout=60)
    assert output.startswith(str(path)) and output.count("\n") == 1, errors
    with Database.open(path) as database:  # nothing lost
        assert database.execute("SELECT count(*) FROM duckdb_tables() WHERE table_name = 'numbers'") == [(0,)]
