"""benchmarks/README.md names every script and every result that is there, and every script starts."""

import ast
import os
import re
import subprocess
import sys

import pytest

from agentloop.project import CHECKOUT

FOLDER = CHECKOUT / "benchmarks"
INDEX = (FOLDER / "README.md").read_text(encoding="utf-8")
SCRIPTS = re.findall(r"^\| `python (benchmarks/\w+\.py)", INDEX, re.MULTILINE)


def test_the_index_is_complete():
    shared = re.findall(r"`(\w+\.py)`", INDEX)
    assert sorted([*SCRIPTS, *(f"benchmarks/{name}" for name in shared)]) == sorted(
        str(path.relative_to(CHECKOUT)) for path in FOLDER.glob("*.py")
    )
    links = re.findall(r"\]\(([^)#]+)", INDEX)
    assert {link for link in links if link.startswith("results/")} == {
        f"results/{path.name}" for path in (FOLDER / "results").iterdir()
    }
    assert not [link for link in links if not (FOLDER / link).exists()]
    assert not [path for path in re.findall(r"`(tests/\S+\.py)`", INDEX) if not (CHECKOUT / path).exists()]


def test_every_script_starts(tmp_path):
    """Whatever it imports is there, from any folder; one process for all of them, for they import much of the same."""
    run_all = "import runpy, sys; [runpy.run_path(script, run_name='imported') for script in sys.argv[1:]]"
    paths = [CHECKOUT / script for script in SCRIPTS]
    variables = os.environ | {"PYTHONPATH": os.pathsep.join([str(FOLDER), *sys.path])}
    answer = subprocess.run(
        [sys.executable, "-c", run_all, *paths],
        cwd=tmp_path,
        env=variables,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert answer.returncode == 0, answer.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_its_docstring_says_how_it_is_run(script):
    docstring = ast.get_docstring(ast.parse((CHECKOUT / script).read_text(encoding="utf-8")))
    assert f"python {script}" in docstring
