"""Games of TextWorld: made once for each seed, in processes with limits, and kept in the cache by what they are made from.

`python -m agentloop.environments.textworld_games FOLDER FAMILY SEED…` makes some; FAMILY is JSON. A game is one file, a ZIP
archive: what the environment needs to know of it (`about.json`), the story (`game.z8`) and its state (`game.json`). A seed of
which the generator says that it has no game leaves a file without a story, so that it is left out everywhere alike.
"""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import sys
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from agentloop import caches, limits, scratch
from agentloop.child import ChildProcess
from agentloop.errors import SettingError
from agentloop.files import atomic
from agentloop.naming import content_id
from agentloop.text import one_line_of

CUSTOM = "custom"
"""The family of games without a challenge: rooms, objects and a quest as asked for."""
GAME_SECONDS = 120
"""One game may take to be made; most take one."""
_MEMORY = 2 << 30
"""Bytes that a process which makes games may take, and each that it starts."""
_MOST_PROCESSES = 8
_SAID = 20
"""More games than these take so long that it is said."""
_PAINTED = re.compile(r"\n>\s*(?:-=.*)?\Z", re.DOTALL)
"""The prompt and the status line that end what the game's interpreter prints."""
_END = re.compile(r"(\*\*\* .* \*\*\*).*", re.DOTALL)
"""What the game says at its end, and the question that follows."""


@dataclass(frozen=True)
class Family:
    """The kind of an environment's games: a game is made from this and a seed."""

    challenge: str
    """Name of a challenge of TextWorld's without its `tw-`, or CUSTOM."""
    settings: Mapping[str, Any]
    """Of the challenge; for CUSTOM of the game's options."""
    grammar: Mapping[str, Any]
    """Of the texts: attributes of TextWorld's GrammarOptions."""

    @cached_property
    def version(self) -> str:
        """Version of the installed TextWorld, another one of which may make other games."""
        return version("textworld")

    def name_of(self, seed: int) -> str:
        """Return the name of a seed's game."""
        return content_id("game", [self.version, self.challenge, dict(self.settings), dict(self.grammar), seed])


@dataclass(frozen=True)
class Game:
    """One game, as far as it is known without playing it."""

    name: str
    objective: str
    opening: str
    """The description of the room in which it begins."""
    walkthrough: tuple[str, ...]
    """Commands that win it; none where the seed has no game."""
    max_score: int
    file: Path
    """The archive with its story."""


def folder() -> Path:
    """The folder that games are kept in."""
    return caches.made() / "textworld"


def games(family: Family, seeds: Sequence[int]) -> list[Game | None]:
    """Return the games of these seeds, None where a seed has none. Makes what is missing, in processes of their own.

    Raises SettingError, naming the seed, where one cannot be made within its limits.
    """
    missing = [seed for seed in dict.fromkeys(seeds) if not _file(family, seed).exists()]
    if missing:
        _make(family, missing)
    return [_read(family, seed) for seed in seeds]


def started(story: Path, **wanted: bool) -> Any:
    """Return TextWorld's environment of a story, which is yet to be reset. `wanted`: what its states tell."""
    import textworld

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of jericho, that it has no walkthrough of its own for such a game
        return textworld.start(str(story), textworld.EnvInfos(**wanted))


def said(text: str) -> str:
    """Return what the game printed as the model is shown it: without the interpreter's own lines, and without empty ones."""
    text = _END.sub(r"\1", _PAINTED.sub("", text))
    return re.sub(r"\s*\n\s*", "\n", text).strip()


def _file(family: Family, seed: int) -> Path:
    return folder() / f"{family.name_of(seed)}.zip"


def _read(family: Family, seed: int) -> Game | None:
    file = _file(family, seed)
    with zipfile.ZipFile(file) as archive:
        about = json.loads(archive.read("about.json"))
    if not about["walkthrough"]:
        return None
    return Game(
        name=family.name_of(seed),
        objective=about["objective"],
        opening=about["opening"],
        walkthrough=tuple(about["walkthrough"]),
        max_score=about["max_score"],
        file=file,
    )


def _make(family: Family, seeds: Sequence[int]) -> None:
    if len(seeds) > _SAID:
        print(f"textworld: {len(seeds)} games of {family.challenge} are made, once")
    folder().mkdir(parents=True, exist_ok=True)
    count = min(limits.processors(), _MOST_PROCESSES, len(seeds))
    with scratch.directory() as logs:
        started = [_start(family, seeds[index::count], logs / f"{index}.log") for index in range(count)]
        try:
            ended = [child.wait() for child in started]
        finally:
            for child in started:
                child.stop(grace_seconds=0)
        for code, child in zip(ended, started):
            if code:
                (seed, *_) = (seed for seed in seeds if not _file(family, seed).exists())
                about = f"environment: textworld:{family.challenge}: the game of seed {seed}"
                raise SettingError(f"{about} could not be made: {_why(code, child)}")


def _why(code: int, child: ChildProcess) -> str:
    if code == 128 + signal.SIGALRM:
        return f"it took longer than {GAME_SECONDS} s"
    return one_line_of(child.last_words(), most=200) if code == 1 else f"its process ended with exit code {code}"


def _start(family: Family, seeds: Sequence[int], log: Path) -> ChildProcess:
    module = "agentloop.environments.textworld_games"
    command = [sys.executable, "-m", module, str(folder()), json.dumps(asdict(family)), *map(str, seeds)]
    return ChildProcess(command, environment={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}, log=log)


def main(place: str, family: str, *seeds: str) -> None:
    """Make the games of the seeds and write each to its file in the folder `place`, in a process of its own."""
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
    known = Family(**json.loads(family))
    for seed in map(int, seeds):
        signal.alarm(GAME_SECONDS)  # whose signal ends the process
        with scratch.directory() as temporary:
            _write(Path(place) / f"{known.name_of(seed)}.zip", *_made(known, seed, temporary))
        signal.alarm(0)


def _made(family: Family, seed: int, temporary: Path) -> tuple[dict[str, Any], list[Path]]:
    """What is to be known of the seed's game, and its files; no files where the generator has none for it."""
    import textworld
    from textworld.challenges import CHALLENGES
    from textworld.generator import QuestGenerationError

    options = textworld.GameOptions()
    options.seeds = seed
    for name, value in family.grammar.items():
        setattr(options.grammar, name, value)
    try:
        if family.challenge == CUSTOM:
            for name, value in family.settings.items():
                setattr(options.chaining if name.startswith(("min_", "max_")) else options, name, value)
            game = textworld.generator.make_game(options)
        else:
            game = CHALLENGES[f"tw-{family.challenge}"][1](dict(family.settings), options)
    except QuestGenerationError:  # of some seeds of treasure_hunter's levels 9 and 10, say
        return {"walkthrough": []}, []
    options.path, options.force_recompile = str(temporary / "game.z8"), True
    story = Path(textworld.generator.compile_game(game, options))
    start = started(story, objective=True, description=True, max_score=True).reset()
    about = {
        "objective": said(start["objective"] or ""),
        "opening": said(start["description"] or ""),
        "walkthrough": list(game.metadata.get("walkthrough") or game.walkthrough),
        "max_score": start["max_score"],
    }
    return about, [story, story.with_suffix(".json")]


def _write(file: Path, about: Mapping[str, Any], parts: Sequence[Path]) -> None:
    with atomic(file) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("about.json", json.dumps(about, ensure_ascii=False))
        for part in parts:
            archive.write(part, part.name)


if __name__ == "__main__":
    os.umask(0o077)
    main(*sys.argv[1:])
