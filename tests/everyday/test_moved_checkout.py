"""What was installed in one folder does not count in another: a checkout that was moved, renamed or copied."""

import os
import shutil
import subprocess
import sys
import venv

import pytest

from agentloop.project import CHECKOUT


@pytest.fixture
def checkout(tmp_path):
    """Its Makefile, in a folder with a name that shells and compilers stumble over."""
    folder = tmp_path / "My Projects" / "it's $HOME"
    folder.mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(CHECKOUT / name, folder)
    shutil.copytree(CHECKOUT / "requirements", folder / "requirements")
    return folder


def planned(checkout) -> list[str]:
    # not as a part of the make that runs the tests
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    make = subprocess.run(
        ["make", "--dry-run", "install"], cwd=checkout, env=environment, capture_output=True, text=True, check=True
    )
    return [line for line in make.stdout.splitlines() if not line.startswith("make:")]


def test_what_was_installed_elsewhere_is_seen_to_again(checkout):
    stamp = checkout / ".venv" / ".installed"
    stamp.parent.mkdir()
    assert planned(checkout)
    for text, again in ((f"{checkout.resolve()}\n", False), ("/somewhere/else\n", True), ("", True)):
        stamp.write_text(text)
        assert bool(planned(checkout)) == again, text
    stamp.write_text(f"{checkout.resolve()}\n")
    moved = checkout.rename(checkout.with_name("renamed"))
    assert planned(moved)


def test_commands_are_written_anew(checkout):
    """By the very script that make runs, with pip as it comes with Python."""
    folder = checkout / ".venv"
    venv.create(folder, with_pip=True)
    moved = checkout.rename(checkout.with_name("moved here"))
    pip, python = moved / ".venv" / "bin" / "pip", moved / ".venv" / "bin" / "python"
    assert subprocess.run([pip, "--version"], capture_output=True).returncode
    subprocess.run([python, moved / "requirements" / "scripts.py"], check=True)
    shown = subprocess.run([pip, "--version"], capture_output=True, text=True, check=True)
    assert str(moved) in shown.stdout and f"python {sys.version_info.major}." in shown.stdout
