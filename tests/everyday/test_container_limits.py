"""A container's limits of memory and processors, as the kernel's two versions of cgroups write them."""

import os

import psutil
import pytest

from agentloop import limits

GIB = 2**30


def write(root, files):
    for name, text in files.items():
        path = root / "sys" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def paths(root, groups: str) -> dict:
    (root / "cgroup").write_text(groups)
    (root / "sys").mkdir(exist_ok=True)
    return {"groups": root / "cgroup", "mount": root / "sys"}


V2 = "0::/user.slice/run.scope\n"
V1 = "9:name=systemd:/\n4:memory:/docker/abc\n1:cpu,cpuacct:/docker/abc\n0::/\n"


@pytest.mark.parametrize(
    ("groups", "files", "limit", "available"),
    [
        (V2, {"user.slice/run.scope/memory.max": "max\n", "user.slice/run.scope/memory.current": "9"}, None, None),
        (
            V2,
            {
                "user.slice/run.scope/memory.max": str(GIB),
                "user.slice/run.scope/memory.current": str(GIB // 2),
                "user.slice/run.scope/memory.stat": f"anon 1\ninactive_file {GIB // 4}\n",
            },
            GIB,
            3 * GIB // 4,
        ),
        # the limit of a group around this one
        (V2, {"user.slice/memory.max": str(GIB), "user.slice/memory.current": str(GIB // 4)}, GIB, 3 * GIB // 4),
        # in a container the path is the host's, and the mount is its own group
        (V2, {"memory.max": str(GIB), "memory.current": "0"}, GIB, GIB),
        (V1, {"memory/memory.limit_in_bytes": "9223372036854771712", "memory/memory.usage_in_bytes": "1"}, None, None),
        (
            V1,
            {
                "memory/docker/abc/memory.limit_in_bytes": str(GIB),
                "memory/docker/abc/memory.usage_in_bytes": str(GIB // 2),
                "memory/docker/abc/memory.stat": f"cache 1\ntotal_inactive_file {GIB // 8}\n",
            },
            GIB,
            GIB // 2 + GIB // 8,
        ),
        (V1, {"memory/memory.limit_in_bytes": str(GIB), "memory/memory.usage_in_bytes": str(2 * GIB)}, GIB, 0),
        ("", {}, None, None),
    ],
)
def test_memory(tmp_path, groups, files, limit, available):
    write(tmp_path, files)
    found = limits.memory(**paths(tmp_path, groups))
    assert found.limit == limit
    if available is None:
        assert GIB < found.available <= psutil.virtual_memory().total
    else:
        assert found.available == available


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        (V2, {"user.slice/run.scope/cpu.max": "max 100000"}, None),
        (V2, {"user.slice/run.scope/cpu.max": "100000 100000"}, 1),
        (V2, {"user.slice/cpu.max": "50000 100000"}, 1),
        (V2, {"cpu.max": "150000 100000"}, 1),
        (
            V1,
            {"cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "-1", "cpu,cpuacct/docker/abc/cpu.cfs_period_us": "100000"},
            None,
        ),
        (
            V1,
            {"cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "100000", "cpu,cpuacct/docker/abc/cpu.cfs_period_us": "100000"},
            1,
        ),
        (V1, {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1),
    ],
)
def test_processors(tmp_path, groups, files, cores):
    write(tmp_path, files)
    assert limits.processors(**paths(tmp_path, groups)) == (cores or len(os.sched_getaffinity(0)))


def test_this_machine():
    assert 0 < limits.memory().available <= psutil.virtual_memory().total
    assert 1 <= limits.processors() <= len(os.sched_getaffinity(0))
