"""The roots of data and cache as folders: made, closed to others, refused in one line where they cannot be used."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path

from agentloop.errors import DiskError, SettingError
from agentloop.files import try_lock


def check(root: Path, setting: str) -> None:
    """Raises SettingError where something is in the way of the folder, and not where it is only missing."""
    try:
        root.stat()
        os.listdir(root)
    except FileNotFoundError as error:
        if _dangling(root):
            raise _refused(root, setting, error) from None
    except OSError as error:
        raise _refused(root, setting, error) from None


def make_private(root: Path, setting: str) -> None:
    """Create a root that only this user can enter; close one that was made before, where it is this user's alone.

    Raises SettingError where that fails, nothing can be written to it, or its disk has no file locks.
    """
    make_writable(root, setting, mode=0o700)
    found = root.stat()
    # a sticky folder is made for everybody, like /tmp
    if found.st_uid == os.getuid() and found.st_mode & 0o077 and not found.st_mode & stat.S_ISVTX:
        root.chmod(0o700)
    _check_locks(root, setting)


def make_writable(folder: Path, setting: str, *, mode: int = 0o777) -> None:
    """Create the folder where it is missing. Raises SettingError where that fails or nothing can be written to it."""
    try:
        folder.mkdir(mode=mode, parents=True, exist_ok=True)
    except OSError as error:
        raise _refused(folder, setting, error) from None
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise SettingError(f"{setting}: {folder} {_why_not_writable(folder)}")


def _check_locks(root: Path, setting: str) -> None:
    descriptor = os.open(root, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try_lock(descriptor, fcntl.LOCK_SH, root)
    except DiskError as error:
        raise SettingError(f"{setting}: {error}") from None
    finally:
        os.close(descriptor)


def writable(folder: Path) -> bool:
    return os.access(folder, os.W_OK | os.X_OK)


def _refused(folder: Path, setting: str, error: OSError) -> SettingError:
    fault = None if error.errno in (errno.ELOOP, errno.ENAMETOOLONG) else _fault(folder)
    if fault is None:
        fault = f"{folder}: {error.strerror}"
    elif not fault.startswith(f"{folder} "):
        fault = f"{folder}: {fault}"
    return SettingError(f"{setting}: {fault}")


def _fault(folder: Path) -> str | None:
    """What is in the way: a file, a link to nothing, a folder that cannot be entered; None where it cannot be told."""
    for part in (*reversed(folder.parents), folder):
        try:
            if part.is_dir():
                if not os.access(part, os.X_OK):
                    return f"{part} cannot be entered by this user (it belongs to {_owner(part)})"
            elif _dangling(part):
                return f"{part} is a link to {os.readlink(part)}, which does not exist"
            elif part.exists():
                return f"{part} is a file, not a folder"
            elif not os.access(part.parent, os.W_OK):
                return f"{part.parent} {_why_not_writable(part.parent)}"
        except OSError:
            return None
    if not os.access(folder, os.R_OK):
        return f"{folder} cannot be read by this user (it belongs to {_owner(folder)})"
    return None


def _dangling(path: Path) -> bool:
    return path.is_symlink() and not path.exists()


def _why_not_writable(folder: Path) -> str:
    if os.statvfs(folder).f_flag & os.ST_RDONLY:
        return "is on a read-only file system"
    return f"is not writable for this user (it belongs to {_owner(folder)})"


def _owner(path: Path) -> str:
    try:
        return path.owner()
    except KeyError:
        return f"user {path.stat().st_uid}"
