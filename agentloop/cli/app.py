"""`agentloop`: one thin command for each thing a person does.

Settings come from a profile, agentloop.toml, the environment and `section.name=value` words on the command line.
Anything a user can mend ends with one line on standard error, the last one on the screen, and exit code 2.
"""

from __future__ import annotations

import os
import traceback
from pathlib import Path
from typing import Annotated

import typer

from agentloop import interpreter, project
from agentloop.cli import (
    champions,
    data,
    ending,
    inspection,
    machine,
    models,
    projects,
    proof,
    quantization,
    running,
    serving,
    teaching,
)
from agentloop.errors import told


def _project(
    folder: Annotated[
        Path | None,
        typer.Option(
            "--project",
            metavar="DIR",
            help="The project. Default: this folder, or the next above it with agentloop.toml.",
        ),
    ] = None,
) -> None:
    if folder is not None:
        os.environ[project.VARIABLE] = str(folder.expanduser().absolute())
        project.root()  # said at once where there is none


app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    callback=_project,
    help="A tool-using Gemma 3n agent that improves on its tasks on one machine, with evidence.",
)
app.command()(projects.init)
for command in (running.demo, running.run, running.up, running.down, running.reconcile):
    app.command()(command)
app.command("eval")(running.evaluate)
app.command()(teaching.teach)
for command in (inspection.status, inspection.sql, inspection.report, inspection.lineage):
    app.command()(command)
for command in (champions.champion, champions.rollback, champions.reproduce):
    app.command()(command)
for command in (data.select, data.rescore, data.forget):
    app.command()(command)
for command in (serving.canary, machine.doctor, machine.bootstrap):
    app.command()(command)
for command in (quantization.check, quantization.quantize):
    app.command()(command)
app.command("import")(models.import_model)
app.command()(models.fetch)
app.command()(proof.proof)

# typer has no public name for the errors in how a command is called, of which this is one
_UsageError = typer.BadParameter.__base__


def main() -> None:
    """The process's whole life."""
    interpreter.insist_on_utf8()
    ending.end(*run())


def run() -> tuple[int, str | None]:
    """Do what the command line says. Returns the exit code and, where something went wrong, the last line to be said."""
    try:
        code = app(standalone_mode=False)
    except SystemExit as left:
        return (left.code, None) if isinstance(left.code, int) else (1, left.code) if left.code else (0, None)
    except (KeyboardInterrupt, typer.Abort):
        code = ending.INTERRUPTED
    except _UsageError as error:
        return 2, _usage(error)
    except BrokenPipeError:  # `agentloop sql … | head`
        return 1, None
    except Exception as error:
        line = told(error)
        if line is None:
            traceback.print_exc()
            return 1, None
        return 2, f"error: {line}"
    if code == ending.INTERRUPTED:  # as typer returns an interrupt
        return code, "interrupted; the same command continues"
    return code or 0, None


def _usage(error: typer.BadParameter) -> str | None:
    """The one line about a command that was called wrongly."""
    message = " ".join(error.format_message().split()).rstrip(".?")
    if not message or error.ctx is None:  # the help, which says everything, is on the screen
        return message and f"error: {message}"
    return f"error: {message}; see {error.ctx.command_path} --help"
