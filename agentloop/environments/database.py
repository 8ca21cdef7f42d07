"""Questions about a small seeded database, answered with a read-only SQL tool: two or three queries each.

The truth is computed from the rows in Python, the demonstrations in SQL: each checks the other.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from agentloop.environments.arithmetic import EASY, HARD, NAMES, call_text, same_number
from agentloop.environments.environment import Demonstration, Question, ScriptedEnvironment
from agentloop.records import Task
from agentloop.tools import Tool
from agentloop.tools.sql import ReadOnlySQL

CITIES = ("Bonn", "Cork", "Lyon", "Oslo", "Rome")
GOODS = ("coffee", "flour", "honey", "milk", "rice", "salt", "sugar", "tea")
DAYS, ORDERS = 60, 40
SCHEMA = "people(name TEXT, city TEXT, age INTEGER), orders(name TEXT, item TEXT, quantity INTEGER, day INTEGER)"


@dataclass(frozen=True)
class Rows:
    """The content of one database. Ages and quantities are all different, so that no question has two answers."""

    people: tuple[tuple[str, str, int], ...]
    """name, city, age"""
    orders: tuple[tuple[str, str, int, int], ...]
    """name, item, quantity, day"""

    def script(self) -> tuple[str, ...]:
        return (
            "CREATE TABLE people (name TEXT, city TEXT, age INTEGER)",
            "CREATE TABLE orders (name TEXT, item TEXT, quantity INTEGER, day INTEGER)",
            f"INSERT INTO people VALUES {', '.join(map(str, self.people))}",
            f"INSERT INTO orders VALUES {', '.join(map(str, self.orders))}",
        )


def rows_of(seed: int) -> Rows:
    rng = random.Random(f"rows/{seed}")
    ages, quantities = rng.sample(range(18, 80), len(NAMES)), rng.sample(range(10, 100), ORDERS)
    people = tuple((name, rng.choice(CITIES), age) for name, age in zip(NAMES, ages))
    orders = tuple((rng.choice(NAMES), rng.choice(GOODS), quantity, rng.randint(1, DAYS)) for quantity in quantities)
    return Rows(people, orders)


@dataclass(frozen=True)
class Family:
    """A kind of question. In a plan `{item}` is a part of the question and `{0}` the result of the first query."""

    name: str
    question: str
    right: tuple[str, ...]
    habit: tuple[str, ...]
    shares: tuple[float, float]
    """Shares of right and of habitual demonstrations; the rest is noise."""
    truth: Callable[[Rows, dict[str, str]], str | None]
    """The answer, or None where the question has none on these rows or the habit finds it too."""


def _in_days(rows: Rows, parts: dict[str, str], item: str) -> list[tuple[str, int]]:
    """(name, quantity) of the item's orders within the question's days."""
    return [
        (name, quantity)
        for name, good, quantity, day in rows.orders
        if good == parts[item] and int(parts["first"]) <= day <= int(parts["last"])
    ]


def _home_of_largest(rows: Rows, parts: dict[str, str]) -> str | None:
    orders = sorted(_in_days(rows, parts, "item"), key=lambda order: order[1])
    if not orders:
        return None
    homes = {name: city for name, city, _ in rows.people}
    smallest, largest = homes[orders[0][0]], homes[orders[-1][0]]
    return largest if largest != smallest else None


def _of_the_oldest(rows: Rows, parts: dict[str, str]) -> str | None:
    by_age = sorted((age, name) for name, city, age in rows.people if city == parts["city"])
    if not by_age:
        return None
    youngest, oldest = (
        sum(quantity for buyer, _, quantity, day in rows.orders if buyer == name and day >= int(parts["first"]))
        for _, name in (by_age[0], by_age[-1])
    )
    return str(oldest) if oldest and oldest != youngest else None


def _difference(rows: Rows, parts: dict[str, str]) -> str | None:
    more, less = (sum(quantity for _, quantity in _in_days(rows, parts, item)) for item in ("item", "other"))
    return str(more - less) if more > less > 0 else None


def _ages(rows: Rows, parts: dict[str, str]) -> str | None:
    ages = {name: age for name, _, age in rows.people}
    return str(ages[parts["name"]] + ages[parts["friend"]] + int(parts["last"]))


_SUM = "SELECT sum(quantity) FROM orders WHERE item='{%s}' AND day BETWEEN {first} AND {last}"
_AGE = "SELECT age FROM people WHERE name='{%s}'"
_LARGEST = "SELECT name FROM orders WHERE item='{item}' AND day BETWEEN {first} AND {last} ORDER BY quantity"
_OLDEST = "SELECT name FROM people WHERE city='{city}' ORDER BY age"
_CITY = "SELECT city FROM people WHERE name='{0}'"
_BOUGHT = "SELECT sum(quantity) FROM orders WHERE name='{0}' AND day>={first}"

FAMILIES = (
    Family(
        "home_of_largest",
        "Where does the buyer of the largest order of {item} from day {first} to {last} live?",
        (_LARGEST + " DESC LIMIT 1", _CITY),
        (_LARGEST + " LIMIT 1", _CITY),
        HARD,
        _home_of_largest,
    ),
    Family(
        "of_the_oldest",
        "How much did the oldest person from {city} order from day {first} on?",
        (_OLDEST + " DESC LIMIT 1", _BOUGHT),
        (_OLDEST + " LIMIT 1", _BOUGHT),
        HARD,
        _of_the_oldest,
    ),
    Family(
        "difference",
        "How much more {item} than {other} was ordered from day {first} to {last}?",
        (_SUM % "item", _SUM % "other", "SELECT {0}-{1}"),
        (_SUM % "item", _SUM % "other", "SELECT {1}-{0}"),
        HARD,
        _difference,
    ),
    Family(
        "ages",
        "How old will {name} and {friend} be together if one of them gets {last} years older?",
        (_AGE % "name", _AGE % "friend", "SELECT {0}+{1}+{last}"),
        (_AGE % "name", _AGE % "friend", "SELECT {0}+{1}"),
        EASY,
        _ages,
    ),
)
_BY_NAME = {family.name: family for family in FAMILIES}


class Database(ScriptedEnvironment):
    name = "database"
    generated = True

    def draw(self, rng: random.Random) -> Question:
        family = rng.choice(FAMILIES)
        while True:
            seed = rng.randrange(2**31)
            rows = rows_of(seed)
            name, friend = rng.sample(NAMES, 2)
            item, other = rng.sample(GOODS, 2)
            first, last = sorted(rng.sample(range(1, DAYS + 1), 2))
            parts = {
                "name": name,
                "friend": friend,
                "item": item,
                "other": other,
                "city": rng.choice(CITIES),
                "first": str(first),
                "last": str(last),
            }
            answer = family.truth(rows, parts)
            if answer is not None:
                return Question(family.name, family.question.format(**parts), answer, {"seed": seed, "parts": parts})

    def tools(self, task: Task) -> dict[str, Tool]:
        return {ReadOnlySQL.name: ReadOnlySQL(rows_of(task.payload["seed"]).script(), SCHEMA)}

    def verify(self, task: Task, answer: str | None) -> float:
        if answer is None:
            return 0.0
        return float(answer.strip().casefold() == task.answer.casefold() or same_number(answer, task.answer))

    def expert(self, task: Task) -> tuple[str, ...]:
        return self._turns(task, _BY_NAME[task.family].right, task.payload["parts"])

    def demonstration(self, task: Task, rng: random.Random) -> Demonstration:
        family = _BY_NAME[task.family]
        right, habit = family.shares
        kind = rng.choices(("right", "habit", "noise"), (right, habit, 1 - right - habit))[0]
        parts = task.payload["parts"]
        if kind == "noise":
            return Demonstration(task, kind, self._noisy(task, family, parts, rng))
        turns = self.expert(task) if kind == "right" else self._turns(task, family.habit, parts)
        return Demonstration(task, kind, turns)

    def _noisy(self, task: Task, family: Family, parts: dict[str, str], rng: random.Random) -> tuple[str, ...]:
        """The right plan with one mistake: another day, an answer too early, or a column that does not exist."""
        slip = rng.choice(("day", "early", "broken"))
        if slip == "day":
            return self._turns(task, family.right, {**parts, "first": str(rng.randint(1, int(parts["last"])))})
        if slip == "early":
            return self._turns(task, family.right[:-1], parts)
        turns = self._turns(task, family.right, parts)
        # The tool complains and the next turn does it right.
        return (turns[0].replace(" FROM", "s FROM", 1), *turns)

    def _turns(self, task: Task, plan: tuple[str, ...], parts: dict[str, str]) -> tuple[str, ...]:
        tool, results = self.tools(task)[ReadOnlySQL.name], []
        turns = []
        for step in plan:
            sql = step.format(*results, **parts)
            turns.append(call_text("query", sql))
            results.append(tool.call(sql))
        return (*turns, f"Answer: {results[-1]}")
