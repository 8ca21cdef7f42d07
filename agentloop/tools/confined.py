"""Run one program confined. Started by sandbox.py as a script, in an interpreter of its own, with one JSON argument.

    python -I -S confined.py '{"command": [...], "folder": "/…/episode-x", ...}'

Three processes: this one, which enters new namespaces and waits; the first process of the new pid namespace, which builds
the program's view of the file system and watches over it; and the program. When the first process of a pid namespace ends, the
kernel kills whatever is left in it; and each of the three dies with the one before it.

It imports nothing of agentloop's, and tells in one JSON line on the descriptor `status` how the program has ended.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
import time

_LIBC = ctypes.CDLL(None, use_errno=True)
_NEW_NAMESPACES = 0x10000000 | 0x40000000 | 0x20000000 | 0x00020000 | 0x08000000 | 0x04000000 | 0x02000000
"""User, network, process ids, mounts, IPC, host name, control groups."""
_PDEATHSIG, _DUMPABLE, _SUBREAPER, _DROP_BOUND, _NO_NEW_PRIVILEGES = 1, 4, 36, 24, 38
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT, _BIND, _REC, _PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
_KEPT = {os.ST_NOSUID: _NOSUID, os.ST_NODEV: _NODEV, os.ST_NOEXEC: _NOEXEC, 1024: 1024, 2048: 2048, 4096: 1 << 21}
"""Options of a mount that a user namespace may not take away, as statvfs and as mount have them."""
_DETACH = 2
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_INNER_ID = 1000
_TICK_SECONDS = 0.02
_DEVICES = ("null", "zero", "full", "random", "urandom")


def main(asked: dict) -> int:
    _dies_with(asked["parent"])
    _call("prctl", _SUBREAPER, 1, 0, 0, 0)
    if asked["namespaces"]:
        user, group = os.geteuid(), os.getegid()
        _call("unshare", _NEW_NAMESPACES)
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{_INNER_ID} {user} 1")
        _write("/proc/self/gid_map", f"{_INNER_ID} {group} 1")
    this = os.getpid()
    watcher = os.fork()
    if watcher == 0:
        try:
            _dies_with(this, inside=asked["namespaces"])
            if asked["namespaces"]:
                _build_root(asked)
            os._exit(_watch(asked))
        except BaseException as error:
            _tell(asked, {"fault": f"{type(error).__name__}: {error}"})
            os._exit(1)
    _, status = os.waitpid(watcher, 0)
    _kill_descendants()
    return os.waitstatus_to_exitcode(status)


def _build_root(asked: dict) -> None:
    """Make a root of its own: system and interpreter to read, the episode's folder to write, nothing else."""
    _call("mount", b"none", b"/", None, _REC | _PRIVATE, None)
    root = asked["root"]
    _call("mount", b"tmpfs", root.encode(), b"tmpfs", _NOSUID | _NODEV, b"size=1m,mode=755")
    for path in asked["readable"]:
        _show(root, path)
    for name in _DEVICES:
        target = f"{root}/dev/{name}"
        os.makedirs(f"{root}/dev", exist_ok=True)
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT, 0o600))
        _call("mount", f"/dev/{name}".encode(), target.encode(), None, _BIND, None)
    for name in ("proc", "tmp", "work", ".old"):
        os.mkdir(f"{root}/{name}")
    _call("mount", asked["folder"].encode(), f"{root}/work".encode(), None, _BIND, None)
    _call(
        "mount",
        None,
        f"{root}/work".encode(),
        None,
        _BIND | _REMOUNT | _NOSUID | _NODEV | _options(f"{root}/work"),
        None,
    )
    _call("mount", b"tmpfs", f"{root}/tmp".encode(), b"tmpfs", _NOSUID | _NODEV, f"size={asked['bytes']}".encode())
    # a container that hides parts of /proc allows no other one: there is none then
    with_proc = _LIBC.mount(b"proc", f"{root}/proc".encode(), b"proc", _NOSUID | _NODEV | _NOEXEC, None) == 0
    _call("syscall", _PIVOT_ROOT[os.uname().machine], root.encode(), f"{root}/.old".encode())
    os.chdir("/")
    _call("umount2", b"/.old", _DETACH)
    os.rmdir("/.old")
    _call("mount", None, b"/", None, _REMOUNT | _RDONLY | _NOSUID | _NODEV, None)
    if with_proc:
        try:
            _write("/proc/sys/user/max_user_namespaces", "0")
        except OSError:  # as root of a container, say
            pass
        # where this user is the machine's root, the kernel's settings would else be open to the program
        _call("mount", None, b"/proc", None, _BIND | _REMOUNT | _RDONLY | _NOSUID | _NODEV | _NOEXEC, None)


def _show(root: str, path: str) -> None:
    """Show a file, folder or link of the system's under the same name, to read alone."""
    target = root + path
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.lexists(target):
        return
    if os.path.islink(path):
        os.symlink(os.readlink(path), target)
        return
    if os.path.isdir(path):
        os.mkdir(target)
    elif os.path.exists(path):
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT, 0o600))
    else:
        return
    _call("mount", path.encode(), target.encode(), None, _BIND | _REC, None)
    options = _BIND | _REMOUNT | _RDONLY | _NOSUID | _NODEV | _options(target)
    _call("mount", None, target.encode(), None, options, None)


def _options(path: str) -> int:
    found = os.statvfs(path).f_flag
    return sum(ours for theirs, ours in _KEPT.items() if found & theirs and ours not in (_NOSUID, _NODEV))


def _watch(asked: dict) -> int:
    """Run the program, and end it where it takes more than it may. Tells how it ended."""
    os.set_inheritable(asked["status"], False)
    deadline = time.monotonic() + asked["seconds"]
    this = os.getpid()
    program = os.fork()
    if program == 0:
        try:
            _become(asked, this)
        finally:
            os._exit(127)
    ended: dict = {}
    while not ended:
        done, status = os.waitpid(-1, os.WNOHANG)
        if done == program:
            ended = {"code": os.waitstatus_to_exitcode(status)}
        elif done:
            continue  # somebody whom it has left behind
        elif time.monotonic() > deadline:
            ended = {"limit": "seconds"}
        else:
            limit = _exceeded(asked)
            if limit:
                ended = {"limit": limit}
            else:
                time.sleep(_TICK_SECONDS)
    if asked["namespaces"]:
        _kill_all()
    else:
        _kill_descendants()
    _tell(asked, ended)
    return 0


def _become(asked: dict, parent: int) -> None:
    """Turn into the program, with nothing that it has no use for."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.setsid()
    os.chdir("/work" if asked["namespaces"] else asked["folder"])
    _dies_with(parent, inside=asked["namespaces"])
    limits = {
        resource.RLIMIT_AS: asked["memory"],
        resource.RLIMIT_CPU: int(asked["seconds"]) + 1,
        resource.RLIMIT_FSIZE: asked["bytes"],
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
    }
    if asked["namespaces"]:  # else it would count all processes of this user
        limits[resource.RLIMIT_NPROC] = asked["processes"] + 2
    for kind, limit in limits.items():
        _, hard = resource.getrlimit(kind)
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (limit, limit))
    if asked["namespaces"]:
        for capability in range(64):
            _LIBC.prctl(_DROP_BOUND, capability, 0, 0, 0)
    _call("prctl", _NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    os.closerange(3, 65536)
    os.execve(asked["command"][0], asked["command"], asked["environment"])


def _exceeded(asked: dict) -> str | None:
    """The limit that all processes together, or their files, are beyond."""
    if asked["namespaces"]:
        processes = [int(name) for name in _listed("/proc") if name.isdecimal()]
        processes = [each for each in processes if each != os.getpid()]
    else:
        processes = _descendants()
    if len(processes) > asked["processes"]:
        return "processes"
    pages = 0
    for process in processes:
        try:
            with open(f"/proc/{process}/statm", encoding="ascii") as file:
                pages += int(file.read().split()[1])
        except (OSError, IndexError):  # it has ended
            continue
    if pages * resource.getpagesize() > asked["memory"]:
        return "memory"
    return (
        "bytes"
        if _bytes("/work" if asked["namespaces"] else asked["folder"], asked["files"]) > asked["bytes"]
        else None
    )


def _bytes(folder: str, most: int) -> float:
    """Bytes that the files take; without end where there are more than `most` of them."""
    count = size = 0
    for inner, folders, names in os.walk(folder):
        count += len(folders) + len(names)
        if count > most:
            return float("inf")
        for name in names:
            try:
                size += 512 * os.lstat(os.path.join(inner, name)).st_blocks
            except OSError:
                continue
    return size


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _kill_all() -> None:
    """Whoever else is in this pid namespace: a fork bomb may need more than one blow."""
    while True:
        try:
            os.kill(-1, signal.SIGKILL)
        except ProcessLookupError:
            return
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return


def _descendants() -> list[int]:
    """Processes below this one. Those whose parents have ended hang below it too, for it adopts them."""
    parents: dict[int, int] = {}
    for name in _listed("/proc"):
        if name.isdecimal():
            try:
                with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                    parents[int(name)] = int(file.read().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
    found: list[int] = []
    wanted = {os.getpid()}
    while wanted:
        wanted = {child for child, parent in parents.items() if parent in wanted}
        found += wanted
    return found


def _kill_descendants() -> None:
    while processes := _descendants():
        for process in processes:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return


def _dies_with(parent: int, *, inside: bool = False) -> None:
    """`inside`: of another pid namespace, in which the parent may have another number or none."""
    _call("prctl", _PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if not inside and os.getppid() != parent:
        os._exit(0)


def _tell(asked: dict, what: dict) -> None:
    os.write(asked["status"], json.dumps(what).encode() + b"\n")


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _call(name: str, *arguments: object) -> None:
    """Raises OSError, with the call's name."""
    if getattr(_LIBC, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


if __name__ == "__main__":
    wish = json.loads(sys.argv[1])
    try:
        sys.exit(main(wish))
    except OSError as error:
        _tell(wish, {"fault": str(error)})
        sys.exit(1)
