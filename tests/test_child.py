"""A child process ends with its parent and takes its own children along."""

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from agentloop import scratch
from agentloop.child import ChildProcess

# starts a grandchild, tells both pids, waits
FAMILY = "import subprocess,sys,os,time; p=subprocess.Popen(['sleep','600']); print(os.getpid(), p.pid, flush=True); time.sleep(600)"


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:  # it has ended, at the latest while its file was being read
        return False


def gone(pids, seconds=10.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not any(map(alive, pids)):
            return True
        time.sleep(0.05)
    return False


def test_stop_ends_the_whole_group(tmp_path):
    with ChildProcess([sys.executable, "-c", FAMILY], environment={}, log=tmp_path / "log", read_stdout=True) as child:
        pids = [int(pid) for pid in child.stdout.readline().split()]
        assert all(map(alive, pids))
    assert gone(pids)


def test_stop_ends_the_whole_family_of_a_killed_supervisor(tmp_path):
    with ChildProcess([sys.executable, "-c", FAMILY], environment={}, log=tmp_path / "log", read_stdout=True) as child:
        command, grandchild = (int(pid) for pid in child.stdout.readline().split())
        os.kill(child.pid, signal.SIGKILL)
        assert gone([command]) and alive(grandchild)
    assert gone([grandchild])


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_child_does_not_outlive_a_killed_parent(tmp_path, number):
    parent_code = (
        "import sys,threading; from pathlib import Path; from agentloop.child import ChildProcess\n"
        "box=[]\n"
        # started from a thread that ends at once: the child must live on as long as the process does
        f"t=threading.Thread(target=lambda: box.append(ChildProcess([sys.executable,'-c',{FAMILY!r}],environment={{}},log=Path({str(tmp_path / 'log')!r}),read_stdout=True)))\n"
        "t.start(); t.join(); print(box[0].stdout.readline().decode(), flush=True); sys.stdin.read()"
    )
    parent = subprocess.Popen([sys.executable, "-c", parent_code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    time.sleep(0.3)
    assert all(map(alive, pids))
    os.kill(parent.pid, number)
    parent.wait()
    assert gone(pids)


def test_exit_code_and_last_words(tmp_path):
    code = "import sys; print('first'); print('error: the reason', file=sys.stderr); sys.exit(3)"
    with ChildProcess([sys.executable, "-c", code], environment={}, log=tmp_path / "log") as child:
        assert child.wait(20) == 3
    assert child.last_words() in ("error: the reason", "first")
    assert "error: the reason" in child.log.read_text()


TEMPORARY = "import os,tempfile,time; open(tempfile.gettempdir()+'/left','w'); print(tempfile.gettempdir(), flush=True); time.sleep(600)"


def started(tmp_path) -> tuple[ChildProcess, Path]:
    """A child with a temporary folder of its own, which it has written to."""
    child = ChildProcess(
        [sys.executable, "-c", TEMPORARY],
        environment={},
        log=tmp_path / "log",
        read_stdout=True,
    )
    return child, Path(child.stdout.readline().decode().strip())


def test_a_temporary_folder_of_its_own(tmp_path, monkeypatch):
    # a name as long as this would leave no room for a socket's
    long = tmp_path / ("x" * 80)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    child, folder = started(tmp_path)
    with child:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700 and len(str(folder)) <= 50
        assert stat.S_IMODE((folder / "left").stat().st_mode) == 0o600
    assert not folder.exists() and not list(long.iterdir())


def test_the_folder_goes_with_a_killed_parent(tmp_path):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; from test_child import started\n"
        "child, folder = started(Path(sys.argv[2])); print(folder, flush=True); sys.stdin.read()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    folder = Path(parent.stdout.readline().decode().strip())
    assert folder.is_dir()
    parent.kill()
    parent.wait()
    end = time.monotonic() + 10
    while folder.exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not folder.exists()


def test_what_a_killed_supervisor_left_goes_when_the_next_folder_is_made(tmp_path):
    child, left = started(tmp_path)
    family = psutil.Process(child.pid).children()
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert gone([each.pid for each in family])
    assert left.is_dir()
    other, used = started(tmp_path)
    with other, scratch.directory():
        assert not left.exists() and used.is_dir()
    child.stop()
