"""What can go wrong at a boundary.

Every message is one line that names the setting, file or row. The command line prints it and exits non-zero; anything
that `told` has no line for is a bug and keeps its traceback.
"""

from __future__ import annotations

import errno
import os

from agentloop import extras

_OF_THE_DISK = frozenset(
    {
        errno.EACCES,
        errno.EDQUOT,
        errno.EIO,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.ENOLCK,
        errno.ENOSPC,
        errno.ENOTDIR,
        errno.EPERM,
        errno.EROFS,
        errno.ESTALE,
    }
)
"""What a system call answers where a disk, its permissions or its space are at fault and not the program."""


_FULL = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT), "StorageFull")
"""What libraries that raise no OSError, as safetensors, say of a disk that is full."""


def lacks_space(error: BaseException) -> bool:
    """Return True where something failed for want of free bytes on a disk, whichever library did it."""
    if isinstance(error, NoSpaceError):
        return True
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return any(words in str(error) for words in _FULL)


def told(error: BaseException) -> str | None:
    """The one line about a fault that the user can act on; None for a bug, which needs its traceback."""
    if isinstance(error, AgentloopError):
        return " ".join(str(error).split("\n"))
    if isinstance(error, OSError) and lacks_space(error):
        return told(NoSpaceError(f"{error.filename}: {error.strerror}" if error.filename else error.strerror))
    if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if _no_more_processes(error):
        return f"the machine's limit of processes and threads is reached ({error}); a lower collect.concurrency needs fewer"
    return extras.missing(error)


def _no_more_processes(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.EAGAIN and error.filename is None
    return isinstance(error, RuntimeError) and str(error) == "can't start new thread"


class AgentloopError(Exception):
    """A fault the user can act on."""


class SettingError(AgentloopError):
    """A setting has a value that cannot be used."""


class ModelError(AgentloopError):
    """A model directory is missing, incomplete or of an architecture that is not supported."""


class RoomError(AgentloopError):
    """There is no memory for what was asked for; what it was needed for can be left out."""


class AdapterError(AgentloopError):
    """An adapter does not belong to the base it is to be applied to, or holds modules that would be dropped."""


class ServerError(AgentloopError):
    """vLLM did not start, ended, or answered with an error. An infrastructure failure, never a score."""


class TeacherError(AgentloopError):
    """A teacher's endpoint cannot be reached, refuses, or answers with something else: another try would not mend it."""


class JudgeError(AgentloopError):
    """A model that is asked for scores cannot be reached, refuses, or gives none. Never a score of zero."""


class StartError(AgentloopError):
    """vLLM ended twice in a row before it had answered anything: whatever the reason, one more start would not mend it."""


class WorldError(AgentloopError):
    """An episode's tools failed, hung or ended their process. An infrastructure failure, never a score."""


class FailureBudgetError(AgentloopError):
    """More episodes failed for good than the settings allow."""


class TrainerError(AgentloopError):
    """The trainer's process died or hung. An infrastructure failure: it is tried again from the newest checkpoint."""


class ShardError(AgentloopError):
    """A Parquet shard is truncated or of another schema."""


class StoreError(AgentloopError):
    """The database is owned by another run, damaged, or of another schema version."""


class EmptySelectionError(StoreError):
    """A selection's rules left no trajectory to train on."""


class ContaminationError(AgentloopError):
    """A held-out task was found among rows that are to be trained on."""


class CanaryError(AgentloopError):
    """The served adapter is not what was trained."""


class RunError(AgentloopError):
    """A run on the Prefect server did not complete."""


class DiskError(AgentloopError):
    """A file could not be written, most often because the disk is full."""


class NoSpaceError(DiskError):
    """A disk has fewer free bytes than something needs, or a write has ended because there were none left."""

    remedy: str | None = None
    """The command that makes room, and how much."""

    @property
    def fault(self) -> str:
        """Return the line without the remedy."""
        return super().__str__()

    def __str__(self) -> str:
        return f"{self.fault}; {self.remedy or '`agentloop prune` shows what can go'}"
