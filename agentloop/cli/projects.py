"""The command that begins a project."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agentloop.cli.common import console, user_path


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The project's folder, made where it is missing.")],
) -> None:
    """Begin a project: a folder with settings, an example task, deployments and the tiny model, which runs at once."""
    from agentloop import project, project_files

    target = user_path(folder)
    files = project_files.create(target)
    for file in files:
        if file.parts[0] != "models" or file.name == "README.md":
            console.print(f"{target / file}", markup=False, soft_wrap=True)
    console.print(
        f"\ncd {target}, then:\n"
        "  agentloop doctor                          what this machine has and lacks\n"
        "  agentloop demo                            the whole loop with the tiny model, some ten minutes\n"
        "  agentloop run --profile demo --dry-run    what would be done\n"
        f"tasks/units.py is an example of a task of your own: its lines in {project.FILE} begin with #.",
        markup=False,
        soft_wrap=True,
    )
