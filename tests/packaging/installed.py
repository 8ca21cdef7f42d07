"""agentloop installed from its wheel into a fresh environment, as somebody has it who never saw the checkout."""

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from agentloop.project import CHECKOUT

PARTS = ("agentloop", "flows", "kernels/agentloop_kernels", "vllm_plugin", "models/tiny")
FILES = ("pyproject.toml", "README.md", "prefect.yaml", "prefect.toml")
INHERITED = ("PATH", "HOME", "LANG", "TMPDIR", "OMP_NUM_THREADS", "LD_LIBRARY_PATH")


def wheel(folder: Path) -> Path:
    """The wheel of this checkout, built without a network. From a copy: setuptools builds in place."""
    copy = folder / "copy"
    for part in PARTS:
        shutil.copytree(CHECKOUT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"), symlinks=True)
    for file in FILES:
        shutil.copy(CHECKOUT / file, copy)
    build = ("wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(copy))
    subprocess.run([sys.executable, "-m", "pip", *build], check=True, capture_output=True)
    (built,) = folder.glob("agentloop-*.whl")
    return built


def environment(folder: Path, *wheels: Path) -> Path:
    """The interpreter of a virtual environment with these wheels, and with everything of this one's but agentloop."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    (site,) = folder.glob("lib/python*/site-packages")
    for source in {Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")}:
        for each in source.resolve().iterdir():
            if "agentloop" not in each.name and each.name != "__pycache__":
                (site / each.name).symlink_to(each)
    install = ("install", "--quiet", "--no-deps", "--no-index", *map(str, wheels))
    subprocess.run([sys.executable, "-m", "pip", "--python", str(python), *install], check=True, capture_output=True)
    return python


class Installed:
    """The command line of an environment, called in a folder of its own with nothing of agentloop's in the environment."""

    def __init__(self, python: Path, folder: Path, **variables: str) -> None:
        self.python, self.folder = python, folder
        own = {name: os.environ[name] for name in INHERITED if name in os.environ}
        self.variables = own | {"COLUMNS": "160"} | variables

    def run(self, *words: str, code: int = 0, seconds: float = 500) -> str:
        """Everything on the screen of a command that must end with this exit code."""
        command = [str(self.python.with_name("agentloop")), *words]
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
        )
        assert done.returncode == code, done.stdout
        return done.stdout

    def digest(self) -> str:
        """Of every file that belongs to agentloop, compiled Python apart."""
        (site,) = self.python.parents[1].glob("lib/python*/site-packages")
        files = sorted(file for each in site.glob("agentloop*") for file in each.rglob("*") if file.suffix != ".pyc")
        whole = hashlib.sha256()
        for file in (file for file in files if file.is_file()):
            whole.update(str(file).encode() + file.read_bytes())
        return whole.hexdigest()
