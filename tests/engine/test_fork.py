"""A copy of the process does its work, keeps nothing of its parent's, and never keeps it waiting."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import torch

from agentloop.engine.warmup.fork import can_fork, fork


def test_the_copy_works_and_leaves_nothing_of_the_parents_behind(tmp_path):
    script = f"""
import atexit, sys
from pathlib import Path
from agentloop.engine.warmup.fork import fork
atexit.register(print, "cleaned up")
sys.stdout.write("pending ")
def work():
    print("from the copy")
    Path({str(tmp_path / "done")!r}).write_text("done")
fork(work).wait()
fork(lambda: 1 / 0).wait()
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert run.stdout == "pending cleaned up\n"
    assert run.stderr.count("ZeroDivisionError") == 1
    assert (run.returncode, (tmp_path / "done").read_text()) == (0, "done")


def test_the_copy_holds_no_lock_and_no_pipe_of_the_parents(tmp_path):
    with open(tmp_path / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        reading, writing = os.pipe()
        copy = fork(lambda: time.sleep(60))
        os.close(writing)
    try:
        assert os.read(reading, 1) == b""  # the copy has let go of it, and of the lock just before
        with open(tmp_path / "lock") as again:
            fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(reading)
        os.kill(copy.pid, signal.SIGKILL)
    copy.wait()
    copy.wait()


def test_no_copy_is_made_where_cuda_or_another_thread_runs(monkeypatch):
    assert can_fork() == (threading.active_count() == 1)
    with monkeypatch.context() as patched:
        patched.setattr(torch.cuda, "is_initialized", lambda: True)
        assert not can_fork()
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    assert not can_fork()
    over.set()
    thread.join()


def test_compilers_end_with_the_process_that_gives_them_work(tmp_path):
    script = """
import sys, time
from agentloop_kernels.launching import Compiler
compiler = Compiler((9, 0), processes=2, launchers=False)
compiler._pool.submit(int).result()
print(*compiler._pool._processes, flush=True)
time.sleep(60)
"""
    giver = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    workers = [Path("/proc") / pid for pid in giver.stdout.readline().split()]
    assert len(workers) == 2
    assert all(worker.exists() for worker in workers)
    giver.kill()
    giver.wait()
    giver.stdout.close()
    while any(worker.exists() and "Z" not in (worker / "stat").read_text().split()[2] for worker in workers):
        time.sleep(0.05)
