"""`agent.command`: a command line, or a function in a Python file, and what in them makes it another agent."""

from __future__ import annotations

import ast
import hashlib
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agentloop import project
from agentloop.errors import SettingError
from agentloop.naming import content_id
from agentloop.text import one_line_of
from agentloop.trial import try_out

SETTING = "agent.command"
_FUNCTION = re.compile(r"(?P<file>.+\.py):(?P<name>[A-Za-z_]\w*)")


@dataclass(frozen=True)
class AgentCommand:
    """An agent of one's own: how it is started, once for each episode."""

    text: str
    """As in the setting."""
    words: tuple[str, ...] = ()
    """The words of a command line; none for a function."""
    file: Path | None = None
    function: str = ""

    @classmethod
    def read(cls, text: str) -> AgentCommand:
        """Return the agent that the setting names. Raises SettingError for what is no command line."""
        if found := _FUNCTION.fullmatch(text.strip()):
            return cls(text.strip(), file=project.root() / Path(found["file"]).expanduser(), function=found["name"])
        try:
            words = tuple(shlex.split(text))
        except ValueError as error:
            raise SettingError(f"{SETTING}: {one_line_of(text, most=80)!r} is no command line ({error})") from None
        if not words:
            raise SettingError(f"{SETTING}: a command line, or FILE.py:function, is needed")
        return cls(text, words)

    def check(self) -> None:
        """Raises SettingError, in one line, for a program that does not exist, or a file that fails or lacks the function."""
        if self.file is None:
            program = self.words[0]
            if shutil.which(program if "/" not in program else str(project.root() / program)) is None:
                raise SettingError(f"{SETTING}: there is no program {program!r}, or it may not be run")
            return
        if not self.file.is_file():
            raise SettingError(f"{SETTING}: there is no file {self.file}")
        named = Path(f"{self.file}:{self.function}")
        try_out(named, about=f"{SETTING}:", use="agentloop.recording.trying:use", error=SettingError)

    @property
    def name(self) -> str:
        """`agent_…`: hash of the command and of the content of the files that it names, with the modules beside them that they
        import. Another agent acts differently, so this is part of every policy's name.
        """
        root = project.root()
        words = (str(self.file), self.function) if self.file else self.words
        named = [_inside(word, root) for word in words]
        return content_id("agent", [named, sorted([path.name, _digest(path)] for path in self._files())])

    def _files(self) -> Iterator[Path]:
        root = project.root().resolve()
        seen: set[Path] = set()
        waiting = [self.file] if self.file else [root / Path(word).expanduser() for word in self.words]
        program = None if self.file else waiting[0].resolve()
        while waiting:
            path = waiting.pop().resolve()
            if path in seen or not path.is_file() or path == program and not path.is_relative_to(root):
                continue
            seen.add(path)
            yield path
            if path.suffix == ".py":
                waiting += _imported(path)


def _inside(word: str, root: Path) -> str:
    """The word, without the folder that the project lies in on this machine."""
    path = Path(word)
    return str(path.relative_to(root)) if path.is_absolute() and path.is_relative_to(root) else word


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _imported(path: Path) -> list[Path]:
    """The modules beside a Python file that it imports."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return []
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {".".join(filter(None, (node.module, *part))) for part in [(), *((a.name,) for a in node.names)]}
    found = []
    for name in names:
        place = path.parent.joinpath(*name.split("."))
        found += [place.with_name(f"{place.name}.py"), place / "__init__.py"] if name else []
    return [each for each in found if each.is_file()]
