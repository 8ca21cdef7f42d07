"""The command that begins a project, or a task in one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agentloop.cli.common import say, user_path
from agentloop.errors import SettingError


def init(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="DIR", help="The project's folder, made where it is missing; with --task one that is there."
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            "--task", metavar="NAME", help="Instead: tasks/NAME.py and its questions, to begin a task of your own with."
        ),
    ] = None,
) -> None:
    """Begin a project: a folder with settings, an example task, deployments and the tiny model, which runs at once."""
    if task is not None:
        _begin_task(folder, task)
    elif folder is None:
        raise SettingError("init: say in which folder: agentloop init DIR (or --task NAME, for a task in this project)")
    else:
        _begin_project(user_path(folder))


def _begin_project(target: Path) -> None:
    from agentloop import project, project_files

    files = project_files.create(target)
    for file in files:
        if file.parts[0] != "models" or file.name == "README.md":
            say(f"{target / file}")
    say(
        f"\ncd {target}, then:\n"
        "  agentloop doctor                          what this machine has and lacks\n"
        "  agentloop demo                            the whole loop with the tiny model, some ten minutes\n"
        "  agentloop run --profile demo --dry-run    what would be done\n"
        "  agentloop init --task NAME                a task of your own to begin with\n"
        f"tasks/units.py is an example of such a task: its lines in {project.FILE} begin with #."
    )


def _begin_task(folder: Path | None, name: str) -> None:
    from agentloop import project, project_files

    root = project.root() if folder is None else user_path(folder).absolute()
    if folder is not None and not (root / project.FILE).is_file():
        raise SettingError(f"{root}: is no project, it has no {project.FILE}; agentloop init {folder} makes one")
    for file in project_files.create_task(root, name):
        say(f"{file}")
    small = "collect.tasks=80 evaluate.tasks=20"
    say(
        f"\nIt runs as it is; put your questions, tools and verifier in its place. In {root}:\n"
        f"  agentloop check tasks/{name}.py {small}\n"
        f"  agentloop eval environment=tasks/{name}.py campaign={name.replace('_', '-')} {small}\n"
        f'In {project.FILE} the same words are lines: environment = "tasks/{name}.py".'
    )
