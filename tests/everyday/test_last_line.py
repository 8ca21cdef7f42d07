"""An error is the last line on the screen, and says which setting, file or word is at fault."""

import os
import subprocess
import sys

import pytest
from command_line import call, refusal

from agentloop.project import CHECKOUT

HOLD_DUCKDB = """
import sys, threading, time
import duckdb
from agentloop.cli import ending

def hold(held):
    time.sleep(600)

held = duckdb.connect().execute("SELECT 1").description
threading.Thread(target=hold, args=(held,), daemon=True).start()
print("the work")
"""
"""What a flow that failed leaves behind: objects of an extension that a thread still holds when the interpreter ends."""


def run(code: str) -> tuple[int, list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout.splitlines()


def test_nothing_follows_though_objects_of_extensions_are_still_held():
    """DuckDB's binding writes about leaks; the first half shows that the situation is one in which it does."""
    code, lines = run(f'{HOLD_DUCKDB}\nprint("error: x", file=sys.stderr)\nsys.exit(2)')
    assert code == 2 and any("nanobind" in line for line in lines), lines
    assert run(f'{HOLD_DUCKDB}\nending.end(2, "error: x")') == (2, ["the work", "error: x"])


def test_what_exit_handlers_and_threads_have_to_say_comes_before():
    code = """
import atexit, threading, time
from agentloop.cli import ending
atexit.register(print, "handler")
threading.Thread(target=lambda: (time.sleep(0.3), print("thread"))).start()
ending.end(2, "error: x")
"""
    assert run(code) == (2, ["thread", "handler", "error: x"])


def test_output_that_cannot_be_written_is_an_error():
    code = 'from agentloop.cli import ending; print("x" * 10); ending.end(0)'
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=CHECKOUT,
            env=buffered,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
        )
    assert (done.returncode, done.stderr) == (1, "error: standard output: No space left on device\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["status"], "agentloop.duckdb: no database here yet"),
        (["sql", "SELECT 1"], "agentloop.duckdb: no database here yet"),
        (["run", "environment=chess"], "error: environment: there is no 'chess'"),
        (["run", "--dry-run", "model=zz"], "error: model: 'zz' is not a model directory"),
        (["run", "--profile", "zz"], "error: profile: no profile named 'zz'"),
        (["report", "campaign=zz"], "agentloop.duckdb: no database here yet"),
        (["lineage"], "error: Missing argument 'adapter'; see "),
        (["run", "--nothing"], "error: No such option: --nothing; see "),
        (["statu"], "error: No such command 'statu'. Did you mean 'status'; see "),
        (["status", "seed"], "error: seed: an override is written name=value"),
        (["canary", "nothing"], "error: nothing: neither an adapter in "),
        (["rescore"], "agentloop.duckdb: no database here yet"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, words, message):
    assert message in refusal(*words, data=tmp_path / "data")


def test_without_a_command_there_is_the_help(tmp_path):
    lines = call(data=tmp_path / "data", code=None)
    assert any("bootstrap" in line for line in lines) and not any("error" in line.lower() for line in lines)
