"""The command line in a process of its own, as a person calls it."""

import os
import subprocess
import sys
from pathlib import Path

from home import python_path

from agentloop.project import CHECKOUT


def call(*words, data: Path, variables=None, code: int | None = 0, before=None) -> list[str]:
    """The lines on the screen after `agentloop WORDS` on the data root, which must end with this exit code.

    `variables`: more of the environment, None for one that is not set. `before` is called in the new process.
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AGENTLOOP_", "PREFECT_"))}
    environment = clean | {
        "AGENTLOOP_PATHS__DATA": str(data),
        "AGENTLOOP_PATHS__CACHE": str(data.parent / "cache"),
        "PYTHONPATH": python_path(CHECKOUT),
        "COLUMNS": "200",
    }
    environment |= variables or {}
    done = subprocess.run(
        [sys.executable, "-m", "agentloop", *map(str, words)],
        env={name: value for name, value in environment.items() if value is not None},
        cwd=CHECKOUT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=240,
        preexec_fn=before,
    )
    output = done.stdout.decode(errors="replace")
    assert code is None or done.returncode == code, output
    return output.splitlines()


def refusal(*words, **options) -> str:
    """The one line that a command says before it ends with exit code 2."""
    lines = call(*words, **options, code=2)
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]
