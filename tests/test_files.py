"""What a killed writer leaves behind goes with the next writer of that folder; what lives, is young or another's stays."""

import os
import subprocess
import sys
import time

import pytest

from agentloop import files
from agentloop.errors import DiskError

OLD = time.time() - 7200


@pytest.fixture
def killed() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def leave(path, *, old: bool = True):
    path.write_text("half")
    if old:
        os.utime(path, (OLD, OLD))
    return path


def left_by(path, process: int):
    """The name under which `atomic` writes to `path` in that process."""
    with files.atomic(path) as temporary:
        temporary.write_text("")
    return temporary.with_name(temporary.name.replace(str(os.getpid()), str(process)))


def test_what_killed_writers_left_goes(tmp_path, killed):
    gone = leave(left_by(tmp_path / "a.jsonl", killed))
    folder = left_by(tmp_path / "b", killed)
    folder.mkdir()
    (folder / "half").write_text("half")
    os.utime(folder, (OLD, OLD))
    stays = [
        leave(left_by(tmp_path / "c", os.getppid())),
        leave(left_by(tmp_path / "d", killed), old=False),
        leave(tmp_path / f".another-program.{killed}.tmp"),
    ]
    files._swept.clear()
    with files.atomic(tmp_path / "export.jsonl") as temporary:
        temporary.write_text("whole")
    assert not gone.exists() and not folder.exists()
    assert all(each.exists() for each in stays)
    assert (tmp_path / "export.jsonl").read_text() == "whole"


def test_the_data_root_is_swept_of_young_ones_too(tmp_path, killed):
    gone = leave(left_by(tmp_path / "a", killed), old=False)
    snapshot = leave(tmp_path / f".agentloop-1-2.snapshot.{killed}-77.tmp", old=False)
    stays = leave(left_by(tmp_path / "b", os.getppid()))
    files.sweep(tmp_path, skip=tmp_path / "cache")
    assert not gone.exists() and not snapshot.exists() and stays.exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(DiskError, match="^.*file/report.html: .*file is there and is no folder$"),
        files.atomic(tmp_path / "file" / "report.html") as file,
    ):
        file.write_text("")
