"""Can what vLLM compiles be compiled here? On the CPU it is C++, for Inductor; on CUDA it is C, for Triton's launchers.

vLLM itself would find out at the first request, after it has said that it is healthy. Asked here is what Inductor and
Triton ask: the same program, the same headers, and whether the folders' names can stand in a command line.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from agentloop import caches, scratch
from agentloop.child import inherited
from agentloop.serving import installation
from agentloop.serving.command import environment
from agentloop.serving.installation import Installation
from agentloop.settings import Settings

ON_CPU = ("VLLM_CACHE_ROOT", "TORCHINDUCTOR_CACHE_DIR")
ON_CUDA = (*ON_CPU, "TRITON_CACHE_DIR")
"""Variables of the folders that compiled code is written to."""
_CPP = '#include <Python.h>\n#include <omp.h>\n#include <cmath>\nextern "C" int probe() { return PY_MAJOR_VERSION; }\n'
_C = "#include <Python.h>\nint probe(void) { return PY_MAJOR_VERSION; }\n"
_SECONDS = 120
UNCOMPILED = "vLLM runs uncompiled, which is slower"


def examine(settings: Settings) -> tuple[Installation, str | None]:
    """The installation that vLLM is started from, and why it can compile nothing; None where it can. Raises SettingError."""
    found = reachable(installation.find(settings.serving.python or Path(sys.executable)), settings.compiled)
    return found, fault(found, inherited(environment(settings, found, api_key="")))


def fault(vllm: Installation, variables: Mapping[str, str]) -> str | None:
    """Why this vLLM can compile nothing, and what helps, in one line; None where it can.

    `variables` is the environment that vLLM is to be started with.
    """
    for name in ON_CPU if vllm.on_cpu else ON_CUDA:
        # Triton gives its compiler names one by one, so that there they may hold anything
        judge = caches.fault if vllm.on_cpu else caches.noexec
        if reason := judge(Path(variables[name])):
            return f"{name} = {variables[name]}: {reason}; set it or paths.cache to another folder"
    if not vllm.on_cpu:
        return _compile(_c_compiler(variables), vllm, variables)
    if reason := caches.fault(vllm.torch.parent):
        return f"torch lies in {vllm.torch.parent}: {reason}; set paths.cache to another folder"
    return _compile(variables.get("CXX", "g++"), vllm, variables)


def reachable(vllm: Installation, folder: Path) -> Installation:
    """The installation by a path that compilers' command lines can hold: through a link in `folder` where that is needed."""
    if caches.fault(vllm.torch.parent) is None or caches.fault(folder):
        return vllm
    try:
        within = vllm.torch.relative_to(vllm.prefix)
        program = vllm.python.absolute().relative_to(vllm.prefix)
    except ValueError:
        return vllm
    name = hashlib.sha256(str(vllm.prefix).encode(errors="surrogateescape")).hexdigest()[:12]
    link = folder / f"python-{name}"
    if not link.is_symlink():
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".python-{name}.{os.getpid()}.tmp"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(vllm.prefix)
        temporary.replace(link)
    return replace(vllm, python=link / program, torch=link / within)


def _c_compiler(variables: Mapping[str, str]) -> str:
    path = variables.get("PATH")
    return variables.get("CC") or next((each for each in ("gcc", "clang") if shutil.which(each, path=path)), "gcc")


def _compile(compiler: str, vllm: Installation, variables: Mapping[str, str]) -> str | None:
    on_cpu, python = vllm.on_cpu, vllm.name
    wanted = f"{'g++' if on_cpu else 'gcc'} {python}-dev"
    remedy = f"apt install {wanted}"
    with scratch.directory() as folder:
        source = folder / ("probe.cpp" if on_cpu else "probe.c")
        source.write_text(_CPP if on_cpu else _C, encoding="utf-8")
        options = ["-std=c++20", "-fopenmp"] if on_cpu else []
        command = [compiler, *options, "-shared", "-fPIC", f"-I{vllm.headers}", str(source)]
        try:
            tried = subprocess.run(
                [*command, "-o", f"{source}.so"],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_SECONDS,
                env=dict(variables) | {"LC_ALL": "C"},
                encoding="utf-8",
            )
        except (OSError, ValueError) as error:
            return f"no {'C++' if on_cpu else 'C'} compiler ({compiler}: {getattr(error, 'strerror', error)}); {remedy}"
        except subprocess.TimeoutExpired:
            return f"{compiler} did not end within {_SECONDS} s"
    if tried.returncode == 0:
        return None
    if "Python.h" in tried.stderr:
        return f"no Python.h in {vllm.headers}; {remedy}"
    lines = (
        [line for line in tried.stderr.splitlines() if "error" in line] or tried.stderr.splitlines() or ["no output"]
    )
    return f"{compiler} compiles nothing ({' '.join(lines[0].split())}); {remedy}"
