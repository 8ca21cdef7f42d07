"""`agentloop`: one thin command for each thing a person does.

Settings come from a profile, agentloop.toml, the environment and `section.name=value` words on the command line.
Anything a user can mend ends with one line on standard error, the last one on the screen, and exit code 2.
"""

from __future__ import annotations

import functools
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from agentloop import __version__, interpreter, project
from agentloop.cli import (
    champions,
    checking,
    common,
    data,
    ending,
    exporting,
    housekeeping,
    inspection,
    machine,
    models,
    notices,
    projects,
    proof,
    quantization,
    running,
    serving,
    status,
    talking,
    teaching,
)
from agentloop.errors import lacks_space, told

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="A tool-using Gemma agent that improves on its tasks on one machine, with evidence. Begin with `agentloop init DIR`, "
    "`agentloop doctor` and `agentloop demo`.",
    epilog="Settings are words: agentloop run training.rank=32 campaign=mine. What else holds for every command: docs/cli.md.",
)


class _Continues(SystemExit):
    """Ctrl-C ended a command that the same words continue."""


def _continues(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command, known to go on where it was interrupted when it is called again."""

    @functools.wraps(command)
    def interruptible(*words: Any, **options: Any) -> Any:
        try:
            return command(*words, **options)
        except (KeyboardInterrupt, typer.Abort):
            raise _Continues from None

    return interruptible


_PANELS: dict[str, tuple[tuple[str, Callable[..., Any]], ...]] = {
    "Run": (
        ("demo", _continues(running.demo)),
        ("run", _continues(running.run)),
        ("eval", _continues(running.evaluate)),
        ("teach", _continues(teaching.teach)),
        ("proof", _continues(proof.proof)),
    ),
    "Look": (
        ("status", status.status),
        ("report", inspection.report),
        ("champion", champions.champion),
        ("lineage", inspection.lineage),
        ("sql", inspection.sql),
    ),
    "Change and check": (
        ("rollback", champions.rollback),
        ("select", data.select),
        ("rescore", data.rescore),
        ("forget", data.forget),
        ("reproduce", champions.reproduce),
        ("canary", serving.canary),
    ),
    "Use the champion": (
        ("serve", serving.serve),
        ("chat", talking.chat),
        ("export", exporting.export),
    ),
    "Machine and models": (
        ("init", projects.init),
        ("doctor", machine.doctor),
        ("fetch", _continues(models.fetch)),
        ("import", models.import_model),
        ("check", checking.check),
        ("quantize", quantization.quantize),
        ("bootstrap", machine.bootstrap),
        ("prune", housekeeping.prune),
    ),
    "Prefect": (
        ("up", _continues(running.up)),
        ("down", running.down),
        ("reconcile", running.reconcile),
        ("notify", notices.notify),
    ),
}
"""Every command, as the help shows them."""

for _panel, _commands in _PANELS.items():
    for _name, _command in _commands:
        app.command(_name, rich_help_panel=_panel)(_command)

# typer has no public name for the errors in how a command is called, of which this is one
_UsageError = typer.BadParameter.__base__


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"agentloop {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    folder: Annotated[
        Path | None,
        typer.Option(
            "--project",
            metavar="DIR",
            help="The project. Default: this folder, or the next above it with agentloop.toml.",
        ),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """What every command takes before its name."""
    if folder is not None:
        os.environ[project.VARIABLE] = str(folder.expanduser().absolute())
        project.root()  # said at once where there is none


def main() -> None:
    """The process's whole life."""
    interpreter.insist_on_utf8()
    ending.end(*run())


def run() -> tuple[int, str | None]:
    """Do what the command line says. Returns the exit code and, where something went wrong, the last line to be said."""
    try:
        code = app(standalone_mode=False, prog_name="agentloop")
    except _Continues:
        return ending.INTERRUPTED, "interrupted; the same command continues"
    except SystemExit as left:
        return (left.code, None) if isinstance(left.code, int) else (1, left.code) if left.code else (0, None)
    except (KeyboardInterrupt, typer.Abort):
        code = ending.INTERRUPTED
    except _UsageError as error:
        return 2, _usage(error)
    except BrokenPipeError:  # `agentloop sql … | head`
        return 1, None
    except Exception as error:
        line = told(common.remedied(error) if lacks_space(error) else error)
        if line is None:
            traceback.print_exc()
            return 1, None
        return 2, f"error: {line}"
    if code == ending.INTERRUPTED:  # as typer returns an interrupt
        return code, "interrupted"
    return code or 0, None


def _usage(error: typer.BadParameter) -> str | None:
    """The one line about a command that was called wrongly."""
    message = " ".join(error.format_message().split()).rstrip(".?")
    if not message or error.ctx is None:  # the help, which says everything, is on the screen
        return message and f"error: {message}"
    return f"error: {message}; see {error.ctx.command_path} --help"
