"""The folder of one episode, which its tools share: made with the first use, bounded, gone with the episode.

Paths come from the model. Each part is opened by itself, relative to the folder before it, and never through a link; so nothing
outside is reached, whatever else changes the folder in the meantime.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from agentloop.tools.tool import ToolError

MAX_BYTES = 16 << 20
"""Bytes that the files of an episode may take together."""
MAX_FILES = 200
_MAX_PARTS = 16
_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_TEMPORARY = ".writing"


class Folder:
    """A folder of an episode's own. Close it, or a tool that has it: then it is gone."""

    def __init__(self, *, most_bytes: int = MAX_BYTES, most_files: int = MAX_FILES) -> None:
        """`most_bytes`, `most_files`: of all files in it together."""
        self.most_bytes, self.most_files = most_bytes, most_files
        self._path: Path | None = None

    @property
    def path(self) -> Path:
        """Return its path, made where it is not there yet."""
        if self._path is None:
            self._path = Path(tempfile.mkdtemp(prefix="episode-"))
        return self._path

    def close(self) -> None:
        """Remove it with everything in it. Closing twice does nothing."""
        if self._path is not None:
            shutil.rmtree(self._path, ignore_errors=True)
            self._path = None

    def read(self, path: str) -> bytes:
        """Return the content of a file. Raises ToolError where there is none, or it is no plain file of this folder."""
        parts = _parts(path)
        with self._folder_of(path, parts) as folder:
            try:
                descriptor = os.open(parts[-1], _OPEN_FILE, dir_fd=folder)
            except OSError as error:
                raise _refused(path, error) from None
            with open(descriptor, "rb") as file:
                about = os.fstat(descriptor)
                if not stat.S_ISREG(about.st_mode) or about.st_nlink != 1:
                    raise ToolError(f"{path} is no plain file")
                return file.read(self.most_bytes)

    def write(self, path: str, content: bytes) -> None:
        """Write a file, whole or not at all, and the folders above it. Raises ToolError where that is not possible, and where
        the folder would have more bytes or files than it may.
        """
        parts = _parts(path)
        self._refuse_too_much(len(content))
        with self._folder_of(path, parts, make=True) as folder:
            try:
                if stat.S_ISDIR(os.stat(parts[-1], dir_fd=folder, follow_symlinks=False).st_mode):
                    raise ToolError(f"{path} is a folder")
            except FileNotFoundError:
                pass
            except OSError as error:
                raise _refused(path, error) from None
            try:
                with suppress(FileNotFoundError):
                    os.unlink(_TEMPORARY, dir_fd=folder)
                with open(os.open(_TEMPORARY, _NEW_FILE, 0o600, dir_fd=folder), "wb") as file:
                    file.write(content)
                # another name takes its place: what a link of that name points to stays as it is
                os.rename(_TEMPORARY, parts[-1], src_dir_fd=folder, dst_dir_fd=folder)
            except OSError as error:
                raise _refused(path, error) from None

    def listed(self, path: str = ".") -> list[str]:
        """Return names and sizes in bytes of what lies in a folder, by name. Raises ToolError where there is none."""
        with (
            self._opened(path, [] if path.strip("/") in ("", ".") else _parts(path)) as folder,
            os.scandir(folder) as found,
        ):
            return [_told(entry) for entry in sorted(found, key=lambda entry: entry.name)]

    def _refuse_too_much(self, more: int) -> None:
        files, size = used(self.path)
        if size + more > self.most_bytes:
            raise ToolError(f"there is room for {max(0, self.most_bytes - size):,} bytes more, not for {more:,}")
        if files >= self.most_files:
            raise ToolError(f"there are {files} files, more are not allowed")

    @contextmanager
    def _folder_of(self, path: str, parts: Sequence[str], *, make: bool = False) -> Iterator[int]:
        with self._opened(path, parts[:-1], make=make) as folder:
            yield folder

    @contextmanager
    def _opened(self, path: str, parts: Sequence[str], *, make: bool = False) -> Iterator[int]:
        """A descriptor of the folder below this one that the parts lead to."""
        descriptor = os.open(self.path, _OPEN_FOLDER)
        try:
            for part in parts:
                try:
                    if make:
                        with suppress(FileExistsError):
                            os.mkdir(part, 0o700, dir_fd=descriptor)
                    inner = os.open(part, _OPEN_FOLDER, dir_fd=descriptor)
                except OSError as error:
                    raise _refused(path, error) from None
                os.close(descriptor)
                descriptor = inner
            yield descriptor
        finally:
            os.close(descriptor)


def used(path: Path) -> tuple[int, int]:
    """Return how many files, folders and links there are below `path`, and the bytes that they take."""
    files = size = 0
    for folder, folders, names in os.walk(path):
        files += len(folders) + len(names)
        for name in names:
            with suppress(OSError):  # it has gone
                about = os.lstat(os.path.join(folder, name))
                size += max(about.st_size if stat.S_ISREG(about.st_mode) else 0, 512 * about.st_blocks)
    return files, size


def _parts(path: str) -> list[str]:
    """Raises ToolError for a path that is none, or leads out of the folder."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if "\0" in path or not parts:
        raise ToolError("the path must name a file")
    if path.startswith("/") or ".." in parts:
        raise ToolError(f"{path[:100]} leads out of the folder; write it relative to the folder, as notes/a.txt")
    if len(parts) > _MAX_PARTS:
        raise ToolError("the path is too deep")
    return parts


def _refused(path: str, error: OSError) -> ToolError:
    if isinstance(error, FileNotFoundError):
        return ToolError(f"there is no {path[:100]}")
    # of a link the system says that there are too many of them
    return ToolError(f"{path[:100]} is no plain file or folder, or its name will not do")


def _told(entry: os.DirEntry[str]) -> str:
    if entry.is_symlink():
        return f"{entry.name} (a link)"
    if entry.is_dir(follow_symlinks=False):
        return f"{entry.name}/"
    return f"{entry.name} {entry.stat(follow_symlinks=False).st_size}"
