"""A whole step of generation with the kernels that CUDA takes, in Triton's interpreter."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("interpreted_step.py")
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("gemma3n", "gemma3", "gemma2", "gemma1")]


@pytest.mark.parametrize("checkpoint", SLOW, indirect=True)
def test_a_step_by_kernels_is_the_references(checkpoint, cache):
    run = subprocess.run(
        [sys.executable, str(SCRIPT), str(checkpoint), str(cache)],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    differences = [float(line) for line in run.stdout.splitlines()]
    assert len(differences) == 2 and max(differences) < 2e-5
