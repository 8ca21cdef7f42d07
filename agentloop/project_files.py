"""Begin a project: a folder that runs at once, with settings, deployments, an example task and the tiny model."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from agentloop import project, shipped
from agentloop.errors import SettingError
from agentloop.files import atomic
from agentloop.roots import make_writable

_RENAMED = {"gitignore": ".gitignore"}
"""Under its own name git would obey it in the package too."""
_TEMPLATE = "template"
"""Name of the task that is copied, as its files and its class have it."""
_TASK_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


def create(folder: Path) -> list[Path]:
    """Write a project into `folder`, made where it is missing, and return its files relative to it.

    Nothing that is there is overwritten: raises SettingError, in one line that names the file, before anything is written.
    """
    files = dict(_files())
    if folder.exists() and not folder.is_dir():
        raise SettingError(f"{folder}: is a file, not a folder")
    for target in (project.FILE, *sorted(map(str, files))):
        if (folder / target).exists() or (folder / target).is_symlink():
            why = (
                "is a project already" if target == project.FILE else f"has a {target} already; nothing is overwritten"
            )
            raise SettingError(f"{folder}: {why}")
    make_writable(folder, "agentloop init")
    # what makes it a project comes last
    for target, source in sorted(files.items(), key=lambda file: file[0] == Path(project.FILE)):
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder / target)
    return sorted(files)


def create_task(folder: Path, name: str) -> list[Path]:
    """Write a task to begin with into the project's `tasks`: a Python file and its questions. Returns their absolute paths.

    Nothing that is there is overwritten: raises SettingError, in one line that names the file, before anything is written, and
    where `name` is none of small letters, digits and underscores.
    """
    if not _TASK_NAME.fullmatch(name):
        raise SettingError(f"--task: {name[:80]!r} must be a name of small letters, digits and underscores, as my_task")
    target = folder / "tasks"
    files = {target / source.name.replace(_TEMPLATE, name): source for source in _walk(shipped.TASK)}
    for file in files:
        if file.exists() or file.is_symlink():
            raise SettingError(f"--task: {file} is there already; nothing is overwritten")
    make_writable(target, "agentloop init")
    for file, source in files.items():
        text = source.read_text(encoding="utf-8").replace(_TEMPLATE, name)
        with atomic(file) as temporary:
            temporary.write_text(text.replace(_TEMPLATE.title(), name.title().replace("_", "")), encoding="utf-8")
    return sorted(files)


def _files() -> Iterator[tuple[Path, Path]]:
    """(path in the project, the shipped file)"""
    for base, below in ((shipped.PROJECT, Path()), (shipped.MODELS, Path("models"))):
        for source in _walk(base):
            relative = source.relative_to(base)
            yield below / relative.with_name(_RENAMED.get(relative.name, relative.name)), source


def _walk(folder: Path) -> Iterator[Path]:
    for each in folder.iterdir():
        if each.is_dir():
            if each.name != "__pycache__":
                yield from _walk(each)
        else:
            yield each
