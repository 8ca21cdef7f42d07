"""What can go wrong at a boundary.

Every message is one line that names the setting, file or row. The command line prints it and exits non-zero; anything
that is not an `AgentloopError` is a bug and keeps its traceback.
"""


class AgentloopError(Exception):
    """A fault the user can act on."""


class SettingError(AgentloopError):
    """A setting has a value that cannot be used."""


class ModelError(AgentloopError):
    """A model directory is missing, incomplete or of an architecture that is not supported."""


class AdapterError(AgentloopError):
    """An adapter does not belong to the base it is to be applied to, or holds modules that would be dropped."""


class ServerError(AgentloopError):
    """vLLM did not start, ended, or answered with an error. An infrastructure failure, never a score."""


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


class ContaminationError(AgentloopError):
    """A held-out task was found among rows that are to be trained on."""


class CanaryError(AgentloopError):
    """What is served is not what was trained."""


class DiskError(AgentloopError):
    """A file could not be written, most often because the disk is full."""
