"""How a process ended is said in words; the codes are those of real processes."""

import signal
import subprocess
import sys

import pytest

from agentloop import limits
from agentloop.child import ChildProcess
from agentloop.exit_codes import ending, was_signalled


def code_of(tmp_path, number: int) -> int:
    command = [sys.executable, "-c", f"import os; os.kill(os.getpid(), {number})"]
    with ChildProcess(command, environment={}, log=tmp_path / "log") as child:
        return child.wait(60)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (signal.SIGSEGV, "was ended by SIGSEGV"),
        (
            signal.SIGILL,
            "was ended by SIGILL: this processor lacks an instruction that was compiled in (AVX2, AVX-512)",
        ),
        (signal.SIGBUS, "was ended by SIGBUS"),
    ],
)
def test_a_signal(tmp_path, number, said):
    code = code_of(tmp_path, number)
    assert ending(code) == ending(-number) == said and was_signalled(code)


@pytest.mark.parametrize("limit", [None, 3 * 2**29])
def test_want_of_memory(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(limits, "memory", lambda: limits.Memory(0, limit))
    within = "the container's limit is 1.5 GiB" if limit else "the kernel's log names the process then"
    said = f"was killed (SIGKILL), most often for want of memory ({within})"
    assert ending(code_of(tmp_path, signal.SIGKILL)) == said


@pytest.mark.parametrize("code", [0, 1, 2, 128, 255])
def test_no_signal(code):
    process = subprocess.run([sys.executable, "-c", f"import os; os._exit({code})"])
    assert ending(process.returncode) == f"ended with exit code {code}" and not was_signalled(process.returncode)
