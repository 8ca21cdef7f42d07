"""SIGTERM while an event loop runs: everything in it ends at once, and whoever had the signal before is told."""

import subprocess
import sys

import pytest

SCRIPT = """
import asyncio, os, signal, sys, time
from agentloop_flows import interruptible

class Terminated(BaseException):
    pass

def handler(number, frame):
    raise Terminated

if sys.argv[1] == "prefect":
    signal.signal(signal.SIGTERM, handler)

async def busy(number):
    try:
        for _ in range(2000):
            time.sleep(0.001)  # most often it is here that the signal comes
            await asyncio.sleep(0)
            if number == 3 and time.monotonic() > began + 0.3:
                os.kill(os.getpid(), signal.SIGTERM)
    finally:
        print("ended", number, flush=True)

async def work():
    await asyncio.gather(*(busy(number) for number in range(8)), return_exceptions=True)

began = time.monotonic()
try:
    interruptible.run(work())
except Terminated:
    print("told")
print("after", signal.getsignal(signal.SIGTERM) is handler)
"""


def run(how: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, timeout=60)


def test_prefects_handler_is_called_when_everything_has_ended():
    done = run("prefect")
    lines = done.stdout.splitlines()
    assert sorted(lines[:8]) == [f"ended {number}" for number in range(8)]
    assert lines[8:] == ["told", "after True"], done.stderr


def test_without_a_handler_the_process_ends_by_the_signal():
    done = run("nobody")
    assert done.returncode == -15 and "after" not in done.stdout
    assert done.stdout.count("ended") == 8


@pytest.mark.parametrize("fails", [False, True])
def test_otherwise_it_is_as_asyncio_runs_it(fails):
    from agentloop_flows import interruptible

    async def work():
        if fails:
            raise ValueError("so")
        return 7

    if fails:
        with pytest.raises(ValueError, match="so"):
            interruptible.run(work())
    else:
        assert interruptible.run(work()) == 7
