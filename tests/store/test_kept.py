"""The database that stays open for a moment after its use: nobody waits for it, and nothing is lost."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from agentloop.store.database import Database
from agentloop.store.kept import Kept

NOTE = "INSERT INTO runs (number, campaign, process, started) VALUES (?, 'c', 1, now())"
COUNT = "SELECT count(*) FROM runs"


@pytest.fixture
def database(tmp_path):
    found = Kept(tmp_path / "agentloop.duckdb")
    yield found
    found.close()


def test_it_is_opened_once(database):
    with database.using() as first:
        with database.using() as inside:
            assert inside is first
        first.execute(NOTE, [1])
    with database.using() as again:
        assert again is first
        assert again.execute(COUNT) == [(1,)]


def test_who_waits_gets_it_and_its_changes_are_seen(database, tmp_path):
    with database.using() as first:
        first.execute(NOTE, [1])
    with Database.open(tmp_path / "agentloop.duckdb", wait_seconds=30) as other:
        other.execute(NOTE, [2])
    with Database.open_snapshot(tmp_path / "agentloop.duckdb") as reader:
        assert reader.execute(COUNT) == [(2,)]
    with database.using() as again:
        assert again is not first
        assert again.execute(COUNT) == [(2,)]


def test_another_process_gets_it(database, tmp_path):
    with database.using() as first:
        first.execute(NOTE, [1])
    program = f"""
        from agentloop.store.database import Database
        with Database.open({str(tmp_path / "agentloop.duckdb")!r}) as database:
            database.execute({NOTE!r}, [2])
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True)
    with database.using() as again:
        assert again.execute(COUNT) == [(2,)]


def test_it_is_let_go_of_after_a_rest(database):
    with database.using() as first:
        pass
    deadline = time.monotonic() + 60
    while database._database is first and time.monotonic() < deadline:
        time.sleep(0.05)
    assert database._database is None


def test_after_an_error_it_is_opened_anew(database):
    with pytest.raises(ZeroDivisionError), database.using() as first:
        first.execute(NOTE, [1])
        raise ZeroDivisionError
    with database.using() as again:
        assert again is not first
        assert again.execute(COUNT) == [(1,)]


def test_threads_have_it_one_after_the_other(database):
    inside, most = [], []

    def use(number):
        for _ in range(10):
            with database.using() as held:
                inside.append(number)
                most.append(len(inside))
                held.execute(NOTE.replace("?", "(SELECT coalesce(max(number), 0) + 1 FROM runs)"))
                inside.remove(number)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.using() as held:
        assert held.execute(COUNT) == [(40,)]
    assert set(most) == {1}


def test_what_was_written_survives_a_kill(tmp_path):
    program = f"""
        import time
        from agentloop.store.kept import kept
        database = kept({str(tmp_path / "agentloop.duckdb")!r})
        with database.using() as held:
            held.execute({NOTE!r}, [1])
        print("written", flush=True)
        while True:
            with database.using():
                time.sleep(0.001)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, encoding="utf-8"
    )
    assert process.stdout.readline() == "written\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with Database.open(tmp_path / "agentloop.duckdb") as database:
        assert database.execute(COUNT) == [(1,)]
