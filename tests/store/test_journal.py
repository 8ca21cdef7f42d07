"""The journal of a shard at work: what is finished is there after any end of the process, and nothing else is taken for it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_by_hand import episode, sum_task
from test_shards import trajectories

from agentloop.errors import NoSpaceError
from agentloop.store import journal
from agentloop.store.shards import Footer, shard_id, write_shard

EPISODES = [episode(sum_task(number)) for number in range(6)]
NAMES = [each.id for each in EPISODES]
ABOUT = Footer(shard_id(NAMES), len(NAMES), "main", 1, "collect")


def opened(path, *, tell=print, about=ABOUT, names=NAMES):
    return journal.opened(path, about, names, tell=tell)


def written(path, episodes=EPISODES):
    with opened(path) as kept:
        for each in episodes:
            kept.append(each)
    return journal.path_of(path)


def read(path, **options):
    with opened(path, **options) as kept:
        return list(kept.played.values())


@settings(max_examples=40, deadline=None)
@given(played=st.lists(trajectories(), max_size=4, unique_by=lambda each: each.id))
def test_every_field_comes_back(played, tmp_path_factory):
    path = tmp_path_factory.mktemp("shards") / "a.parquet"
    names = [each.id for each in played]
    about = Footer(shard_id(names), len(names), "main", 1, "collect")
    with opened(path, about=about, names=names) as kept:
        for each in played:
            kept.append(each)
    assert read(path, about=about, names=names) == played
    assert journal.description(journal.path_of(path)) == about


@pytest.mark.parametrize("end", ["whole", "zeros"])
def test_what_was_cut_off_is_dropped_without_a_word_wherever_the_cut_is(tmp_path, end):
    path, said = tmp_path / "a.parquet", []
    file = written(path)
    content = file.read_bytes()
    ends = [place + 1 for place, byte in enumerate(content) if byte == ord("\n")]
    for cut in sorted({0, 1, *(place + step for place in ends for step in (-40, -1, 0))}):
        file.write_bytes(content[:cut] + (b"\0" * 100 if end == "zeros" else b""))
        whole = sum(place <= cut for place in ends)
        assert read(path, tell=said.append) == EPISODES[: max(0, whole - 1)]
        with opened(path) as kept:  # it goes on from there
            kept.append(EPISODES[5])
        assert read(path)[-1] == EPISODES[5]
    assert said == [] and [each.name for each in tmp_path.iterdir()] == ["a.journal"]


@pytest.mark.parametrize("line", [0, 1, 3, 6])
def test_a_damaged_record_is_set_aside_and_the_others_are_taken(tmp_path, line):
    path, said = tmp_path / "a.parquet", []
    file = written(path)
    lines = file.read_bytes().splitlines(keepends=True)
    lines[line] = lines[line].replace(b'"', b"'", 1)
    file.write_bytes(b"".join(lines))
    left = [each for place, each in enumerate(EPISODES, 1) if place != line] if line else []
    assert read(path, tell=said.append) == left
    aside = tmp_path / "a.journal.damaged"
    assert aside.read_bytes() == b"".join(lines)
    assert said == [f"{file}: damaged, set aside as {aside.name}; {6 - len(left)} of 6 episodes are played"]
    said.clear()
    assert read(path, tell=said.append) == left and said == []
    file.write_bytes(b"".join(lines))
    read(path, tell=said.append)
    assert (tmp_path / "a.journal.2.damaged").exists()


def test_an_episode_of_another_plan_is_not_taken(tmp_path):
    path, said = tmp_path / "a.parquet", []
    written(path, [*EPISODES[:2], episode(sum_task(99))])
    assert read(path, tell=said.append) == EPISODES[:2] and len(said) == 1
    other = Footer(shard_id(NAMES[:3]), 3, "main", 1, "collect")
    assert read(path, about=other, names=NAMES[:3], tell=said.append) == [] and len(said) == 2


def test_a_second_process_leaves_the_journal_alone(tmp_path):
    path, said = tmp_path / "a.parquet", []
    with opened(path) as kept:
        kept.append(EPISODES[0])
        with opened(path, tell=said.append) as second:
            assert second is None
        kept.append(EPISODES[1])
    assert read(path) == EPISODES[:2]
    assert said == [
        f"{path.with_suffix('.journal')}: another process plays this shard as well; this one writes no journal of it"
    ]


def test_who_waits_for_a_removed_journal_begins_another(tmp_path):
    path = tmp_path / "a.parquet"
    with opened(path) as kept:
        kept.append(EPISODES[0])
        kept.remove()
        assert read(path) == []
    written(path, EPISODES[1:2])
    assert read(path) == EPISODES[1:2]


def test_only_journals_of_written_shards_are_swept(tmp_path):
    for name in ("done", "open"):
        written(tmp_path / f"{name}.parquet")
    write_shard(tmp_path / "done.parquet", EPISODES, purpose="collect", campaign="main", iteration=1)
    journal.sweep(tmp_path)
    journal.sweep(tmp_path / "nowhere")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["done.parquet", "open.journal"]


KILLED = """
import sys
sys.path.insert(0, {tests!r})
from test_journal import EPISODES, opened
from pathlib import Path
with opened(Path(sys.argv[1])) as kept:
    for each in EPISODES[:4]:
        kept.append(each)
    print("written", flush=True)
    sys.stdin.read()
"""


def test_a_killed_process_loses_nothing_and_holds_no_lock(tmp_path):
    path = tmp_path / "a.parquet"
    code = KILLED.format(tests=str(Path(__file__).parent))
    process = subprocess.Popen(
        [sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "written\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdin.close()
    assert read(path) == EPISODES[:4]


def test_a_disk_that_fills_up_is_named_and_keeps_what_was_whole(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("this machine does not let this user mount")
    try:
        many = [episode(sum_task(number)) for number in range(500)]
        names = [each.id for each in many]
        about = Footer(shard_id(names), len(names), "main", 1, "collect")
        with pytest.raises(
            NoSpaceError, match=r"a\.journal: No space left on device \(.* are free\); `agentloop prune`"
        ):
            with opened(disk / "a.parquet", about=about, names=names) as kept:
                for count, each in enumerate(many):  # noqa: B007
                    kept.append(each)
        assert 0 < count < 500
        assert read(disk / "a.parquet", about=about, names=names, tell=pytest.fail) == many[:count]
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_what_the_disk_says_later_is_told_at_the_next_episode(tmp_path, monkeypatch):
    def refuse(descriptor):
        raise OSError(28, os.strerror(28))

    with opened(tmp_path / "a.parquet") as kept:
        monkeypatch.setattr(journal, "_SYNC_SECONDS", 0.0)
        monkeypatch.setattr(os, "fdatasync", refuse)
        kept.append(EPISODES[0])
        with pytest.raises(NoSpaceError, match=r"a\.journal: No space left"):
            while True:  # the answer comes from a thread
                kept.append(EPISODES[1])
                time.sleep(0.001)
