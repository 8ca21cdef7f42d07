"""What a newcomer sees first: the help, the version, completion; none of it takes a library that takes seconds."""

import os
import shlex
import subprocess
import sys

import pytest
import typer

from agentloop import __version__
from agentloop.cli.app import app
from agentloop.cli.common import profiles
from agentloop.project import CHECKOUT

COMMANDS = typer.main.get_command(app).commands
HEAVY = ("torch", "prefect", "duckdb", "pyarrow", "transformers", "numpy", "httpx")


def call(*words: str, home=None, **variables: str) -> subprocess.CompletedProcess:
    environment = os.environ | variables | ({"HOME": str(home)} if home else {})
    return subprocess.run(
        [sys.executable, "-m", "agentloop", *words], cwd=CHECKOUT, env=environment, capture_output=True, text=True
    )


def test_the_version():
    done = call("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"agentloop {__version__}\n", "")


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["run", "--help"], ["status", "--help"]], ids=" ".join)
def test_help_imports_nothing_that_takes_long(words):
    code = (
        f"import sys; sys.argv = ['agentloop', *{words}]\nfrom agentloop.cli import app\nprint(app.run())\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=CHECKOUT)
    assert done.stdout.splitlines()[-2:] == ["(0, None)", "[]"], done


def test_help_writes_nothing(tmp_path):
    assert call("--help", home=tmp_path, AGENTLOOP_PATHS__DATA=str(tmp_path / "data")).returncode == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", COMMANDS)
def test_everything_that_a_command_takes_is_explained(name):
    command = COMMANDS[name]
    assert command.help and len(command.help.strip()) > 20
    unexplained = [each.name for each in command.params if not (each.help or "").strip()]
    assert unexplained == []


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("agentloop sta", {"status"}),
        ("agentloop re", {"report", "rescore", "reproduce", "reconcile"}),
        ("agentloop run --profile ", set(profiles())),
        ("agentloop champion --camp", {"--campaign"}),
    ],
)
def test_bash_completes_commands_options_and_profiles(typed, completed):
    words = {"COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split(" ")) - 1)}
    done = call(_AGENTLOOP_COMPLETE="complete_bash", **words)
    assert set(done.stdout.split()) == completed and done.stderr == ""


def test_the_script_for_a_shell_is_shown_and_not_installed(tmp_path):
    command = shlex.join([sys.executable, "-m", "agentloop", "--show-completion"])
    done = subprocess.run(  # from bash, for the shell is the one that it is called from
        ["bash", "-c", f"{command}; exit $?"],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert "_AGENTLOOP_COMPLETE=complete_bash" in done.stdout
    assert list(tmp_path.iterdir()) == []
