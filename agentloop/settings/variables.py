"""Environment variables: those that agentloop reads, and those that it sets for the libraries and for its own children."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from agentloop import caches, limits, project

ENV_PREFIX = "AGENTLOOP_"
CONFIG_VARIABLE = f"{ENV_PREFIX}CONFIG"
"""Environment variable with the path of the TOML file to read instead of the project's `agentloop.toml`."""

EXPORTED_VARIABLE = f"{ENV_PREFIX}EXPORTED"
"""Environment variable that lists those of the libraries' variables that this project has set; all others are the user's
own."""
PREFECT_VARIABLE = f"{ENV_PREFIX}PREFECT_URL"
"""Environment variable that stands beside PREFECT_API_URL where this project has set that, for a server of its own."""
OWN_VARIABLES = (CONFIG_VARIABLE, EXPORTED_VARIABLE, PREFECT_VARIABLE, caches.MADE_VARIABLE, project.VARIABLE)
_GENERAL = {"TRITON_CACHE_DIR": "TRITON_HOME"}
"""Variables of libraries, each with a more general one that decides for it where the user has set that."""
_HARMFUL_TO_PYTHON = ("PYTHONWARNINGS", "PYTHONIOENCODING", "PYTHONINSPECT", "PYTHONOPTIMIZE")
"""Variables that are meant for a program at the keyboard, and make a background process fail, wait or skip its checks."""

_ALLOCATOR = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
"""Variables that torch's allocator reads; the second is the newer name."""


def of_children(data: Path, cache: Path, compiled: Path) -> dict[str, str]:
    """Return what a process of this project works with: `Settings.child_environment`, of these folders."""
    ours = os.environ.get(EXPORTED_VARIABLE, "").split(",")
    libraries = {
        name: value for name, value in _of_libraries(cache, compiled).items() if name in ours or not _is_the_users(name)
    }
    return {
        **libraries,
        EXPORTED_VARIABLE: ",".join(libraries),
        caches.MADE_VARIABLE: str(cache / "made"),
        **_project_for_children(),
        # processes of one machine talk over loopback, whatever address its name has
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
        "PREFECT_HOME": str(data / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PYTHONUTF8": "1",
        # empty is as good as not set
        **{name: "" for name in _HARMFUL_TO_PYTHON if name in os.environ},
        # neither HOME nor an entry among the machine's users: libraries ask for it when they are imported
        **({"HOME": str(data)} if os.path.expanduser("~") == "~" else {}),
    }


def of_trainers() -> dict[str, str]:
    """Return what a trainer has beside that: an allocator whose segments grow, unless the user has chosen one."""
    own = [name for name in _ALLOCATOR if name in os.environ]
    return {} if own else {_ALLOCATOR[0]: "expandable_segments:True"}


def _of_libraries(cache: Path, compiled: Path) -> dict[str, str]:
    variables = {
        "HF_HOME": str(cache / "hf"),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TRITON_CACHE_DIR": str(compiled / "triton"),
        "TORCHINDUCTOR_CACHE_DIR": str(compiled / "inductor"),
        "VLLM_CACHE_ROOT": str(compiled / "vllm"),
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",  # it takes no other word for it, of DO_NOT_TRACK neither
    }
    if (cores := limits.processors()) < len(os.sched_getaffinity(0)):
        variables["OMP_NUM_THREADS"] = str(cores)  # libraries do not see a container's quota
    return variables


def _is_the_users(name: str) -> bool:
    """True where the user has set the variable, or the more general one that decides for it."""
    # torch itself sets this one, where it is not set when it looks
    default = os.path.join(tempfile.gettempdir(), "torchinductor_")
    values = (os.environ.get(each, "") for each in (name, _GENERAL.get(name, "")))
    return any(value and not value.startswith(default) for value in values)


def _project_for_children() -> dict[str, str]:
    """A child works in the same project, whatever its current folder is."""
    try:
        return {project.VARIABLE: str(project.root())}
    except project.NoProjectError:  # a script that uses the engine alone
        return {}
