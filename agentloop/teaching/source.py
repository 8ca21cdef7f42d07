"""Where demonstrations come from, as a word of the command line: experts, a file of messages, stored, or a teacher's URL."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

from agentloop.errors import SettingError

Kind = Literal["experts", "messages", "stored", "teacher"]
EXPERTS, STORED = "experts", "stored"


@dataclass(frozen=True)
class Source:
    kind: Kind
    place: str = ""
    """The file's path, or the URL."""

    @property
    def told(self) -> dict[str, Any]:
        """Return the source for a record that may travel: of a file its name alone."""
        place = Path(self.place).name if self.kind == "messages" else self.place
        return {"kind": self.kind} | ({"place": place} if place else {})

    def __str__(self) -> str:
        return self.place or {"experts": "the environment's experts", "stored": "what the store has"}[self.kind]


def parse(word: str) -> Source:
    """Raises SettingError for a word that is none of them, or a URL that holds a key."""
    if word in (EXPERTS, STORED):
        return Source(word)
    if word.startswith(("http://", "https://")):
        return Source("teacher", _address(word))
    if Path(word).exists():
        return Source("messages", str(Path(word).absolute()))
    raise SettingError(f"--from: {word[:200]!r} is neither experts, stored, a URL, nor a file that is there")


def _address(url: str) -> str:
    """The URL of the chat completions below what was given."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  raises where it is no number
    except ValueError as error:
        raise SettingError(f"--from: {url[:200]!r} is no URL: {error}") from None
    if not parts.hostname:
        raise SettingError(f"--from: {url[:200]!r} is no URL: it names no host")
    if parts.username or parts.password or parts.query:
        raise SettingError(
            "--from: the URL must not hold a key; put the key into the environment variable that teach.key_variable names"
        )
    path = parts.path.rstrip("/")
    if not path.endswith("/chat/completions"):
        path = f"{path or '/v1'}/chat/completions"
    return urlunsplit((parts.scheme, parts.netloc, path, "", ""))
