"""The Triton kernels on CPU tensors, in Triton's interpreter.

TRITON_INTERPRET must be set before Triton is imported, and it changes every kernel of the process: hence another one.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

SUITE = Path(__file__).with_name("triton_ops")


def test_triton_kernels_in_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(SUITE)]
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "2"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    passed = re.search(r"(\d+) passed", run.stdout)
    assert passed and int(passed[1]) > 100, run.stdout[-2000:]
