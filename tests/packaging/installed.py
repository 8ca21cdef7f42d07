"""agentloop installed from its wheel into a fresh environment, as somebody has it who never saw the checkout."""

import hashlib
import os
import shutil
import subprocess
import sys
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


def environment(folder: Path, **variables: str) -> dict[str, str | None]:
    """What a process differs in from this one: no way to this checkout, nothing of the user's vLLM, no hub."""
    foreign = [name for name in os.environ if name.startswith("VLLM_") or name in ("PYTHONPATH", "PYTHONHOME")]
    own = {"VLLM_CACHE_ROOT": str(folder / "cache"), "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    return {**dict.fromkeys(foreign), **own, **variables}


def run(*command: object, **options) -> subprocess.CompletedProcess[str]:
    """A command outside this checkout, with what it says."""
    changed = {**os.environ, **environment(Path("/nowhere"))}
    variables = {name: value for name, value in changed.items() if value is not None}
    words = [str(word) for word in command]
    return subprocess.run(words, env=variables, cwd="/", capture_output=True, text=True, timeout=300, **options)


def interpreter_without_agentloop(folder: Path) -> Path:
    """A virtual environment with links to everything that is installed here but agentloop, in whatever way that is.

    Lines of .pth files that only name folders are left out: what lies there is on sys.path already, and linked from there.
    """
    run(sys.executable, "-m", "venv", "--without-pip", folder, check=True)
    python = folder / "bin" / "python"
    packages = Path(
        run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", check=True).stdout.strip()
    )
    for place in map(Path, sys.path):
        if place.name not in ("site-packages", "dist-packages"):
            continue
        for entry in place.iterdir():
            names_folders = entry.suffix == ".pth" and not entry.read_text().startswith("import ")
            if "agentloop" in entry.name or entry.name == "__pycache__" or names_folders:
                continue
            if not (packages / entry.name).exists():
                (packages / entry.name).symlink_to(entry)
        # requirements/libnuma.py puts it beside the packages, and a .pth file looks for it there
        library = place.parents[1] / "libnuma.so.1"
        if library.exists() and not (folder / "lib" / library.name).exists():
            (folder / "lib" / library.name).symlink_to(library)
    return python


def installed(folder: Path, *wheels: Path) -> Path:
    """The interpreter of a virtual environment with these wheels, and with everything of this one's but agentloop."""
    python = interpreter_without_agentloop(folder)
    offline = ("--quiet", "--no-deps", "--no-index", "--disable-pip-version-check")
    run(python, "-m", "pip", "install", *offline, *wheels, check=True)
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
