"""Arithmetic in several steps with a calculator: seven families of word problems and expressions, two or three calls each.

Every family has a plan that solves it and a bad habit: a plan that somebody careless follows. A demonstration follows the
one or the other, so that the tiny model starts out knowing both and mostly does the wrong thing.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from agentloop.environments.environment import Demonstration, Question, ScriptedEnvironment
from agentloop.records import Task
from agentloop.tools import Tool
from agentloop.tools.calculator import Calculator

NAMES = ("Anna", "Ben", "Carl", "Dora", "Emil", "Fay", "Gus", "Hana")
ITEMS = ("apples", "books", "cards", "eggs", "nuts", "pens", "shells", "stamps")


@dataclass(frozen=True)
class Family:
    """A kind of question. In a plan `{a}` is a number of the question and `{0}` the result of the first call."""

    name: str
    question: str
    numbers: dict[str, tuple[int, int]]
    """Smallest and largest value of each number."""
    right: tuple[str, ...]
    habit: tuple[str, ...]
    shares: tuple[float, float]
    """Shares of right and of habitual demonstrations; the rest is noise."""
    allowed: Callable[[dict[str, int]], bool] = lambda numbers: True


HARD, EASY = (0.30, 0.55), (0.75, 0.10)
"""In a hard family the habit outweighs right and noise together: else greedy decoding solves it from the start."""

FAMILIES = (
    Family(
        "leftover",
        "A box holds {a} {items}. {name} has {b} boxes and gives {c} {items} away. How many {items} are left?",
        {"a": (11, 60), "b": (2, 9), "c": (11, 60)},
        ("{a}*{b}", "{0}-{c}"),
        ("{a}*{b}", "{0}+{c}"),
        HARD,
    ),
    Family(
        "change",
        "{name} buys {a} {items} for {b} coins each and pays with {c} coins. How many coins come back?",
        {"a": (2, 9), "b": (11, 60), "c": (100, 600)},
        ("{a}*{b}", "{c}-{0}"),
        ("{a}*{b}", "{0}-{c}"),
        HARD,
        lambda numbers: numbers["a"] * numbers["b"] < numbers["c"],
    ),
    Family(
        "precedence",
        "What is {a} + {b} * {c}?",
        {"a": (11, 99), "b": (11, 60), "c": (2, 9)},
        ("{b}*{c}", "{a}+{0}"),
        ("{a}+{b}", "{0}*{c}"),
        HARD,
    ),
    Family(
        "average",
        "{name} counts {a}, {b} and {c} {items} on three days. How many are that on average?",
        {"a": (11, 99), "b": (11, 99), "c": (11, 99)},
        ("{a}+{b}", "{0}+{c}", "{1}/3"),
        ("{a}+{b}", "{0}+{c}"),
        HARD,
        lambda numbers: sum(numbers.values()) % 3 == 0,
    ),
    Family(
        "two_kinds",
        "{name} has {a} bags of {b} {items} and {c} bags of {d} {others}. How many things are that?",
        {"a": (2, 9), "b": (11, 60), "c": (2, 9), "d": (11, 60)},
        ("{a}*{b}", "{c}*{d}", "{0}+{1}"),
        ("{a}*{b}", "{c}*{d}", "{0}-{1}"),
        HARD,
    ),
    Family(
        "sum",
        "{name} has {a} {items}, finds {b} and buys {c}. How many {items} are that?",
        {"a": (11, 99), "b": (11, 99), "c": (11, 99)},
        ("{a}+{b}", "{0}+{c}"),
        ("{a}+{b}",),
        EASY,
    ),
    Family(
        "times",
        "{name} has {a} {items}. {friend} has {b} times as many and {c} more. How many has {friend}?",
        {"a": (11, 60), "b": (2, 9), "c": (11, 60)},
        ("{a}*{b}", "{0}+{c}"),
        ("{a}*{b}",),
        EASY,
    ),
)
_BY_NAME = {family.name: family for family in FAMILIES}


class Arithmetic(ScriptedEnvironment):
    name = "arithmetic"
    generated = True

    def draw(self, rng: random.Random) -> Question:
        family = rng.choice(FAMILIES)
        name, friend = rng.sample(NAMES, 2)
        items, others = rng.sample(ITEMS, 2)
        while True:
            numbers = {letter: rng.randint(*limits) for letter, limits in family.numbers.items()}
            answer, wrong = (_results(plan, numbers)[-1] for plan in (family.right, family.habit))
            if family.allowed(numbers) and answer != wrong:
                break
        text = family.question.format(name=name, friend=friend, items=items, others=others, **numbers)
        return Question(family.name, text, answer, {"numbers": numbers})

    def tools(self, task: Task) -> dict[str, Tool]:
        return {Calculator.name: Calculator()}

    def verify(self, task: Task, answer: str | None) -> float:
        return float(answer is not None and same_number(answer, task.answer))

    def expert(self, task: Task) -> tuple[str, ...]:
        return _turns(_BY_NAME[task.family].right, task.payload["numbers"])

    def demonstration(self, task: Task, rng: random.Random) -> Demonstration:
        family, numbers = _BY_NAME[task.family], task.payload["numbers"]
        right, habit = family.shares
        kind = rng.choices(("right", "habit", "noise"), (right, habit, 1 - right - habit))[0]
        if kind == "noise":
            return Demonstration(task, kind, _noisy(family, numbers, rng))
        return Demonstration(task, kind, self.expert(task) if kind == "right" else _turns(family.habit, numbers))


def same_number(answer: str, truth: str) -> bool:
    """Return True where both are the same decimal number: 46, 46.0 and +46 are."""
    try:
        return len(answer) <= 40 and Decimal(answer.strip()) == Decimal(truth)
    except InvalidOperation:
        return False


def _results(plan: tuple[str, ...], numbers: dict[str, int]) -> list[str]:
    calculator = Calculator()
    results: list[str] = []
    for step in plan:
        results.append(calculator.call(step.format(*results, **numbers)))
    return results


def _turns(plan: tuple[str, ...], numbers: dict[str, int]) -> tuple[str, ...]:
    results = _results(plan, numbers)
    calls = (call_text("calculate", step.format(*results, **numbers)) for step in plan)
    return (*calls, f"Answer: {results[-1]}")


def call_text(tool: str, argument: str) -> str:
    return f'```tool_code\n{tool}("{argument}")\n```'


def _noisy(family: Family, numbers: dict[str, int], rng: random.Random) -> tuple[str, ...]:
    """The right plan with one mistake: another operator, a number misread, an answer too early or a broken call."""
    plan = list(family.right)
    slip = rng.choice(("operator", "number", "early", "broken"))
    if slip == "operator":
        step = rng.randrange(len(plan))
        operator = next(sign for sign in plan[step] if sign in "+-*/")
        plan[step] = plan[step].replace(operator, rng.choice([sign for sign in "+-*" if sign != operator]))
    elif slip == "number":
        letter = rng.choice(sorted(numbers))
        numbers = {**numbers, letter: rng.randint(*family.numbers[letter])}
    elif slip == "early":
        plan = plan[:-1]
    turns = _turns(tuple(plan), numbers)
    if slip == "broken":
        # The tool complains and the next turn does it right.
        broken = turns[0].replace('")', rng.choice(('+")', '*")', ')")')))
        return (broken, *turns)
    return turns
