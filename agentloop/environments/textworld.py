"""Games of Microsoft's TextWorld as environments: `textworld:treasure_hunter,level=5`, with their own score.

A name is `textworld:` and a challenge (treasure_hunter, coin_collector, simple, cooking) or `custom`; options follow after
commas and are those of TextWorld's program `tw-make`: `textworld:cooking,recipe=2,take=1,open`. The options of texts are there
for every challenge: `theme`, `include_adj`, `only_last_action` and others of GRAMMAR. Of the options, `games` asks for the
games of so many seeds, from 0 on, instead of games without end.

A task has no tools: each turn of the model is a command, and the game answers. The seed decides the split. The question is the
game's objective and what is seen first; the walkthrough is the expert.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from agentloop import limits, scratch
from agentloop.environments.environment import Demonstration, Environment, Kind, Question, split_of
from agentloop.environments.seeds import drawn
from agentloop.environments.session import Session
from agentloop.environments.textworld_games import CUSTOM, Family, Game, games, said, started
from agentloop.errors import SettingError
from agentloop.records import Split, Task
from agentloop.text import one_line, one_line_of
from agentloop.tools import Observation

PREFIX = "textworld:"
GRAMMAR = (
    "theme",
    "include_adj",
    "blend_descriptions",
    "blend_instructions",
    "ambiguous_instructions",
    "only_last_action",
    "allowed_variables_numbering",
)
"""Options of texts: attributes of TextWorld's GrammarOptions."""
PARTIAL = 0.4
"""What a game is worth that has all of its score but was not won: less than solved."""

_COMMAND = re.compile(r"[A-Za-z0-9][A-Za-z0-9 '-]{0,99}")
_NOT_THE_GAMES = frozenset(
    "save restore script noscript unscript transcript recording replay restart quit q die undo verify notify".split()
)
"""Words to the interpreter, not to the game: some write files, others leave the game."""
_DIRECTIONS = ("north", "east", "south", "west")


class Play(Session):
    """One game from its beginning."""

    instructions = (
        "You play a text adventure. Each turn of yours is one command on one line and nothing else, such as go north, look, "
        "inventory, take the key from the table, open the chest or unlock the door with the key. `help` lists all commands."
    )
    answers = False

    def __init__(self, game: Game) -> None:
        self._max_score, self._score, self._moves = game.max_score, 0, 0
        self._won = self._lost = False
        self._env = _started(game)

    def observe(self, turn: str) -> Observation:
        """Return what the game says to the command; the reward is what the score went up by. Its end ends the episode."""
        command = turn.strip()
        if not _COMMAND.fullmatch(command) or _NOT_THE_GAMES.intersection(command.lower().split()):
            return Observation("Say one command of the game, in plain words on one line.")
        state, _, _ = self._env.step(command)
        self._moves += 1
        gained, self._score = state["score"] - self._score, state["score"]
        self._won, self._lost = bool(state["won"]), bool(state["lost"])
        return Observation(said(state["feedback"]), reward=gained, done=self._won or self._lost)

    def outcome(self) -> dict[str, Any]:
        return {
            "won": self._won,
            "lost": self._lost,
            "score": self._score,
            "max_score": self._max_score,
            "moves": self._moves,
        }


class TextWorld(Environment):
    """Games of one family; `of_name` makes it."""

    family: ClassVar[Family]
    size: ClassVar[int | None]
    """The games are those of so many seeds, from 0 on; None: of all seeds."""

    def tasks(self, split: Split, count: int, seed: int, skip: int = 0) -> list[Task]:
        """Return `count` games of the split, as every environment does; those that are missing are made at once."""
        chapter, before = divmod(skip, self.chapter) if split == "train" else (0, skip)
        games(self.family, list(islice(self._seeds(split, seed, chapter), before, before + count)))
        return super().tasks(split, count, seed, skip)

    def stream(self, split: Split, seed: int, chapter: int = 0) -> Iterator[Task]:
        """Yield the games of a split in the order that this seed gives, none twice. Games are made as they are asked for.

        Raises SettingError where one cannot be made.
        """
        seeds = self._seeds(split, seed, chapter)
        while block := list(islice(seeds, limits.processors())):
            for number, game in zip(block, games(self.family, block)):
                if game is not None:
                    yield self._task(number, game, split)

    def questions(self, rng: random.Random) -> Iterator[Question]:
        for number in self._numbers(rng):
            for game in games(self.family, [number]):
                if game is not None:
                    yield self._question(number, game)

    def open(self, task: Task) -> Play:
        """Return the game from its beginning. Raises SettingError where the installed TextWorld makes another game of the
        task's seed."""
        seed, name = task.payload["seed"], task.payload["game"]
        (game,) = games(self.family, [seed]) if self.family.name_of(seed) == name else [None]
        if game is None:
            raise SettingError(
                f"environment: {self.name}: the installed TextWorld {self.family.version} makes another game of seed {seed}"
            )
        return Play(game)

    def score(self, task: Task, answer: str | None, outcome: Any) -> Mapping[str, float]:
        """Success is a game that was won; another has up to PARTIAL for its score. `score` is the share of the game's score."""
        share = max(outcome["score"], 0) / outcome["max_score"] if outcome["max_score"] else 0.0
        return {"success": 1.0 if outcome["won"] else PARTIAL * share, "score": share}

    def expert(self, task: Task) -> Sequence[str]:
        return task.answer.split("\n")

    def demonstration(self, task: Task, rng: random.Random) -> Demonstration:
        """Return the walkthrough, or one in which a step is wrong: for the warm start of the tiny model.

        The habit is to go another way than one was told; noise forgets a step, or says one twice.
        """
        turns = list(self.expert(task))
        kinds: tuple[Kind, ...] = ("right", "habit", "noise")
        (kind,) = rng.choices(kinds, (3, 5, 2))
        ways = [index for index, turn in enumerate(turns) if turn.startswith("go ")]
        if kind == "habit" and not ways:
            kind = "noise"
        if kind == "habit":
            index = rng.choice(ways)
            turns[index] = f"go {rng.choice([way for way in _DIRECTIONS if turns[index] != f'go {way}'])}"
        elif kind == "noise":
            index = rng.randrange(len(turns))
            turns[index : index + 1] = rng.choice(([], [turns[index]] * 2)) if len(turns) > 1 else [turns[index]] * 2
        return Demonstration(task, kind, tuple(turns))

    def split_of_seed(self, number: int) -> Split:
        """Return the split of a game: two in five demonstrate, two train, one is held out."""
        return split_of(f"game {number}")

    def _numbers(self, rng: random.Random) -> Iterator[int]:
        return drawn(rng, self.size)

    def _seeds(self, split: Split, seed: int, chapter: int) -> Iterator[int]:
        rng = random.Random(f"{self.name}/{split}/{seed}" + (f"/{chapter}" if chapter else ""))
        return (number for number in self._numbers(rng) if self.split_of_seed(number) == split)

    def _question(self, number: int, game: Game) -> Question:
        text = f"{game.objective}\n\n{game.opening}".strip()
        payload = {"seed": number, "game": game.name}
        return Question(
            self.family.challenge, text, "\n".join(game.walkthrough), payload, split=self.split_of_seed(number)
        )

    def _task(self, number: int, game: Game, split: Split) -> Task:
        question = self._question(number, game)
        return self._named(Task(self.name, question.family, question.text, question.answer, split, question.payload))


def of_name(name: str) -> type[TextWorld]:
    """Return the environment that `textworld:CHALLENGE[,OPTION=VALUE…]` names.

    Raises SettingError, naming it, for a challenge or an option that there is not, ModuleNotFoundError without the package.
    """
    import textworld
    from textworld.challenges import CHALLENGES

    challenge, *words = name.removeprefix(PREFIX).split(",")
    known = [each.removeprefix("tw-") for each in CHALLENGES] + [CUSTOM]
    if challenge not in known:
        raise SettingError(
            f"environment: {name}: TextWorld has no challenge {challenge[:60]!r}; there are {', '.join(sorted(known))}"
        )
    parser = _Options(name)
    parser.add_argument("--games", type=int)
    parser.add_argument("--theme", choices=_themes(textworld))
    for option in GRAMMAR[1:]:
        parser.add_argument(f"--{option.replace('_', '-')}", action="store_true", default=None)
    if challenge == CUSTOM:
        for option, default in (("world-size", 5), ("nb-objects", 10), ("nb-parallel-quests", 1), ("quest-length", 3)):
            parser.add_argument(f"--{option}", type=int, default=default)
    else:
        CHALLENGES[f"tw-{challenge}"][2](parser)
    options = vars(parser.parse_args([f"--{word.replace('_', '-')}" for word in words]))
    size = options.pop("games")
    if size is not None and size < 1:
        raise SettingError(f"environment: {name}: games must be at least 1")
    grammar = {option: value for option in GRAMMAR if (value := options.pop(option)) is not None}
    settings = _of_custom(options) if challenge == CUSTOM else options
    _understand(sys.modules[CHALLENGES[f"tw-{challenge}"][1].__module__].KB_PATH if challenge != CUSTOM else None)
    parts = {"name": name, "family": Family(challenge, settings, grammar), "size": size, "__module__": __name__}
    return type("TextWorld", (TextWorld,), parts)


def _of_custom(options: Mapping[str, int]) -> dict[str, int]:
    """As tw-make sets the options of games and of quests."""
    length = options["quest_length"]
    return {
        "nb_rooms": options["world_size"],
        "nb_objects": options["nb_objects"],
        "nb_parallel_quests": options["nb_parallel_quests"],
        "min_length": length,
        "max_length": length,
        "max_depth": length,
    }


def _understand(place: str | None) -> None:
    """Have TextWorld read the rules of a challenge's games, its own where `place` is None, as the first game would.

    That takes as long as many games do; worlds are forked from a process that has done it.
    """
    from textworld.generator.data import KnowledgeBase

    rules = KnowledgeBase.default() if place is None else KnowledgeBase.load(place)
    KnowledgeBase.deserialize(rules.serialize())


def _themes(textworld: Any) -> list[str]:
    """Names of the families of texts that TextWorld has."""
    texts = textworld.generator.data.KnowledgeBase.default().text_grammars_path
    return sorted({file.stem.partition("_")[0] for file in Path(texts).glob("*.twg")})


class _Options(argparse.ArgumentParser):
    """Options that are refused in one line, and abbreviated by nobody."""

    def __init__(self, name: str) -> None:
        super().__init__(prog=name, add_help=False, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise SettingError(f"environment: {self.prog}: {one_line_of(message, most=200)}")


def _started(game: Game) -> Any:
    """TextWorld's environment at the beginning of the game. Its files are read, and gone when this returns."""
    with scratch.directory() as folder:
        try:
            with zipfile.ZipFile(game.file) as archive:
                archive.extractall(folder)
        except (OSError, zipfile.BadZipFile) as error:
            raise SettingError(f"environment: textworld: {game.file}: {one_line(error)}") from error
        env = started(folder / "game.z8", feedback=True, won=True, lost=True, score=True)
        env.reset()
    return env
