"""Conversations of the Berkeley Function Calling Leaderboard as environments: `bfcl:multi_turn_base`, with its own checker.

The names are those of its categories of several turns. A task is a user with several wishes, one after the other, and the tools
of one or more made-up services. The model calls tools, and says without a call that a wish is fulfilled; then the next one
comes. Tools are run and episodes are judged by the package's own code, in the world of the episode: the state of the services
and what the calls returned are compared with those of the right calls, turn by turn.

The conversations of all categories are variants of the same two hundred, so that the number decides the split.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

from agentloop.environments.environment import Environment, Question, split_of
from agentloop.environments.session import Session
from agentloop.errors import SettingError
from agentloop.records import Task
from agentloop.text import one_line
from agentloop.tools import Observation, by_name
from agentloop.tools.json_schema import SchemaArguments

PREFIX = "bfcl:"
VERSION = "2026.3.23"
INSTALL = f"pip install --no-deps bfcl-eval=={VERSION} mpmath"
"""Without its dependencies: they are for models behind endpoints, and pin versions that vLLM does not work with."""
CATEGORIES = ("multi_turn_base", "multi_turn_miss_param")
LEFT_OUT: Mapping[str, str] = {
    "multi_turn_long_context": "of its results a model is shown 2,000 characters here, and of its right calls some are longer",
    "multi_turn_miss_func": "some of its tools appear in the middle of an episode, when the prompt is written",
}
"""Categories of several turns that are refused, with the reason."""

_JSON_TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": None}
_DONE = "Done."
"""What the expert says where a wish is fulfilled."""
_numbers = itertools.count()


class Function:
    """A function of one of the services."""

    def __init__(self, document: Mapping[str, Any], services: Services) -> None:
        """`document`: as the package describes the function."""
        self.name = document["name"]
        arguments = SchemaArguments(_json_schema(document["parameters"]))
        # the first sentences are the service's, the same for all of its functions
        about = document["description"].rpartition("Tool description: ")[2]
        self.description = "\n".join([about, *arguments.notes])
        self.signature = arguments.signature
        self._services = services

    def call(self, /, *args: Any, **kwargs: Any) -> str:
        """Return what the package's own executor says of the call, mistakes included."""
        given = [*map(repr, args), *(f"{name}={value!r}" for name, value in kwargs.items())]
        return self._services.run(f"{self.name}({', '.join(given)})")


class Services:
    """The services of one episode, and the calls that were made, turn by turn as the checker takes them."""

    def __init__(self, entry: Mapping[str, Any]) -> None:
        self._entry, self._name = entry, f"episode{next(_numbers)}"
        self.calls: list[list[list[str]]] = [[]]

    def run(self, call: str) -> str:
        """Run a call, written with literal values, and return its result."""
        self.calls[-1].append([call])
        (result,), _ = _package().execute(
            [call],
            self._entry["initial_config"],
            self._entry["involved_classes"],
            self._name,
            self._entry["id"],
        )
        return result

    def judge(self, truth: Sequence[Sequence[str]]) -> dict[str, Any]:
        """Return what the package's checker says of the calls; turns that were not reached have none."""
        calls = [*self.calls, *([] for _ in truth)][: len(truth)]
        try:
            said = _package().check(calls, truth, self._entry, self._entry["id"].rpartition("_")[0], self._name)
        except Exception as error:  # it asserts what a model may not have done
            said = {"valid": False, "error_type": one_line(error)}
        return {"valid": bool(said["valid"]), "error": said.get("error_type")}


class Conversation(Session):
    """One user with several wishes."""

    instructions = (
        "You serve a user, with the tools below. Do what the user asks by calls, one each turn. When it is done, or cannot be "
        "done, say so in a turn without a call; the user then goes on."
    )
    answers = False

    def __init__(self, entry: Mapping[str, Any], truth: Sequence[Sequence[str]]) -> None:
        self._services = Services(entry)
        self._wishes, self._truth = _wishes(entry), truth
        functions = [document for name in entry["involved_classes"] for document in _documents(name)]
        super().__init__(by_name(*(Function(document, self._services) for document in functions)))

    def observe(self, turn: str) -> Observation:
        """Return the user's next wish; after the last one the episode ends."""
        reached = len(self._services.calls)
        if reached == len(self._wishes):
            return Observation("", done=True)
        self._services.calls.append([])
        return Observation(self._wishes[reached])

    def outcome(self) -> dict[str, Any]:
        calls = self._services.calls
        judged = self._services.judge(self._truth)
        return judged | {"turns": len(calls), "of": len(self._wishes), "calls": sum(map(len, calls))}


class Bfcl(Environment):
    """Conversations of one category; `of_name` makes it."""

    category: ClassVar[str]

    def questions(self, rng: random.Random) -> Iterator[Question]:
        for entry, truth in rng.sample(_entries(self.category), len(_entries(self.category))):
            number = entry["id"].rpartition("_")[2]
            yield Question(
                self.category,
                _wishes(entry)[0],
                json.dumps(truth, ensure_ascii=False),
                {"id": entry["id"], "version": VERSION},
                split="heldout" if split_of(f"multi_turn {number}") == "heldout" else "train",
            )

    def open(self, task: Task) -> Conversation:
        return Conversation(*_entry(self.category, task.payload["id"]))

    def score(self, task: Task, answer: str | None, outcome: Any) -> Mapping[str, float]:
        """Success is what the checker accepts; `turns` is the share of the user's wishes that were come to."""
        return {"success": float(outcome["valid"]), "turns": outcome["turns"] / outcome["of"]}

    def expert(self, task: Task) -> Sequence[str]:
        """Return the right calls of the package, each in a turn."""
        turns: list[str] = []
        for calls in json.loads(task.answer):
            turns += [f"```tool_code\n{call}\n```" for call in calls]
            turns.append(_DONE)
        return turns


def of_name(name: str) -> type[Bfcl]:
    """Return the environment that `bfcl:CATEGORY` names.

    Raises SettingError for a category that there is not, and where the package is missing or another version of it is there.
    """
    category = name.removeprefix(PREFIX)
    if category in LEFT_OUT:
        raise SettingError(f"environment: {name}: {category} is left out: {LEFT_OUT[category]}")
    if category not in CATEGORIES:
        raise SettingError(f"environment: {name}: there is no {category[:60]!r}; there are {', '.join(CATEGORIES)}")
    if find_spec("bfcl_eval") is None:
        raise SettingError(f"environment: {name}: bfcl_eval is not installed, which this needs: {INSTALL}")
    if (found := version("bfcl-eval")) != VERSION:
        raise SettingError(f"environment: {name}: bfcl-eval is {found}, not {VERSION}: {INSTALL}")
    _entries(category)
    _package()
    return type("Bfcl", (Bfcl,), {"name": name, "category": category, "__module__": __name__})


def _package() -> SimpleNamespace:
    """The package's executor and its checker."""
    from bfcl_eval.eval_checker.multi_turn_eval.multi_turn_checker import multi_turn_checker
    from bfcl_eval.eval_checker.multi_turn_eval.multi_turn_utils import execute_multi_turn_func_call

    return SimpleNamespace(execute=execute_multi_turn_func_call, check=multi_turn_checker)


def _folder() -> Path:
    import bfcl_eval

    return Path(bfcl_eval.__file__).parent / "data"


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@lru_cache
def _entries(category: str) -> list[tuple[dict[str, Any], list[list[str]]]]:
    """The conversations of a category, each with its right calls, turn by turn."""
    file = f"BFCL_v4_{category}.json"
    right = {line["id"]: line["ground_truth"] for line in _lines(_folder() / "possible_answer" / file)}
    return [(entry, right[entry["id"]]) for entry in _lines(_folder() / file)]


def _entry(category: str, name: str) -> tuple[dict[str, Any], list[list[str]]]:
    return next(each for each in _entries(category) if each[0]["id"] == name)


@lru_cache
def _documents(service: str) -> list[dict[str, Any]]:
    """The functions of a service, as the package describes them."""
    from bfcl_eval.constants.executable_backend_config import MULTI_TURN_FUNC_DOC_FILE_MAPPING

    return _lines(_folder() / "multi_turn_func_doc" / MULTI_TURN_FUNC_DOC_FILE_MAPPING[service])


def _wishes(entry: Mapping[str, Any]) -> list[str]:
    return [message["content"] for (message,) in entry["question"]]


def _json_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The package's schema, with JSON Schema's names of types."""
    known = dict(schema)
    if "type" in known and (kind := _JSON_TYPES.get(known["type"], known["type"])):
        known["type"] = kind
    if isinstance(known.get("properties"), Mapping):
        known["properties"] = {name: _json_schema(each) for name, each in known["properties"].items()}
    if isinstance(known.get("items"), Mapping):
        known["items"] = _json_schema(known["items"])
    return known
