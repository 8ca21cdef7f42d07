"""Questions that the shop's assistant gets, with their answers, and a few of them shown how to be answered.

The truth is computed from the sales in Python, the demonstrations in SQL: each checks the other.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sales import CUSTOMERS, DAYS, ITEMS, Sale, connect, sales

from agentloop.environments import Environment, Question
from agentloop.records import Task
from agentloop.tools import Tool


@dataclass(frozen=True)
class Family:
    """A kind of question."""

    name: str
    question: str
    queries: tuple[str, ...]
    """A right way: `{0}` is what the first query gives."""
    truth: Callable[[list[Sale], dict[str, str]], str | None]
    """The answer, by the sales of these days; None where there is none, or more than one."""


def _one(counted: dict[str, int]) -> str | None:
    """Who has most of all."""
    most = [name for name, count in counted.items() if count and count == max(counted.values())]
    return most[0] if len(most) == 1 else None


def _spent(made: list[Sale], about: dict[str, str]) -> str | None:
    total = sum(each.pieces * each.price for each in made if each.customer == about["customer"])
    return str(total) if total else None


def _most_pieces(made: list[Sale], about: dict[str, str]) -> str | None:
    return _one({item: sum(each.pieces for each in made if each.item == item) for item in ITEMS})


def _last_buyer(made: list[Sale], about: dict[str, str]) -> str | None:
    buyers = [each for each in made if each.item == about["item"]]
    return buyers[-1].city if len(buyers) > 1 and buyers[-1].city != buyers[0].city else None


def _regular(made: list[Sale], about: dict[str, str]) -> str | None:
    regular = _one({name: sum(each.customer == name for each in made) for name in CUSTOMERS})
    pieces = sum(each.pieces for each in made if each.customer == regular and each.item == about["item"])
    return str(pieces) if pieces else None


def _dearer(made: list[Sale], about: dict[str, str]) -> str | None:
    prices = [[each.price for each in made if each.item == about[name]] for name in ("item", "other")]
    if not all(prices) or max(prices[0]) <= min(prices[1]):
        return None
    return str(max(prices[0]) - min(prices[1]))


_THEN = "day BETWEEN {first} AND {last}"
FAMILIES = (
    Family(
        "spent",
        "How much did {customer} spend from day {first} to {last}?",
        (f"SELECT sum(pieces*price) FROM sales WHERE customer='{{customer}}' AND {_THEN}",),
        _spent,
    ),
    Family(
        "most_pieces",
        "Of which item did we sell most pieces from day {first} to {last}?",
        (f"SELECT item FROM sales WHERE {_THEN} GROUP BY item ORDER BY sum(pieces) DESC LIMIT 1",),
        _most_pieces,
    ),
    Family(
        "last_buyer",
        "Where does the last buyer of a {item} from day {first} to {last} live?",
        (
            f"SELECT customer FROM sales WHERE item='{{item}}' AND {_THEN} ORDER BY day DESC LIMIT 1",
            "SELECT city FROM sales WHERE customer='{0}' LIMIT 1",
        ),
        _last_buyer,
    ),
    Family(
        "regular",
        "How many {item} pieces did our most frequent customer buy from day {first} to {last}?",
        (
            f"SELECT customer FROM sales WHERE {_THEN} GROUP BY customer ORDER BY count(*) DESC LIMIT 1",
            f"SELECT sum(pieces) FROM sales WHERE customer='{{0}}' AND item='{{item}}' AND {_THEN}",
        ),
        _regular,
    ),
    Family(
        "dearer",
        "How much dearer was our dearest {item} than our cheapest {other} from day {first} to {last}?",
        (
            f"SELECT max(price) FROM sales WHERE item='{{item}}' AND {_THEN}",
            f"SELECT min(price) FROM sales WHERE item='{{other}}' AND {_THEN}",
            "SELECT {0}-{1}",
        ),
        _dearer,
    ),
)
_QUERIES = {family.name: family.queries for family in FAMILIES}


class Shop(Environment):
    name = "shop"
    generated = True

    def questions(self, rng: random.Random) -> Iterator[Question]:
        while True:
            family, shop = rng.choice(FAMILIES), rng.randrange(2**31)
            (item, other), (first, last) = rng.sample(ITEMS, 2), sorted(rng.sample(range(1, DAYS + 1), 2))
            about = {
                "customer": rng.choice(CUSTOMERS),
                "item": item,
                "other": other,
                "first": str(first),
                "last": str(last),
            }
            answer = family.truth([each for each in sales(shop) if first <= each.day <= last], about)
            if answer is not None:
                text = family.question.format(**about)
                yield Question(family.name, text, answer, {"shop": shop, "about": about})

    def tools(self, task: Task) -> dict[str, Tool]:
        return {}  # the assistant has its own

    def verify(self, task: Task, answer: str | None) -> float:
        return float(answer is not None and answer.strip().casefold() == task.answer.casefold())

    def expert(self, task: Task) -> list[str]:
        """Call the assistant's own tool, query by query, and say what the last one gives."""
        database, found, turns = connect(task.payload["shop"]), [], []
        for query in _QUERIES[task.family]:
            sql = query.format(*found, **task.payload["about"])
            turns.append(f"```tool_code\nquery(sql={sql!r})\n```")
            found.append(str(database.execute(sql).fetchone()[0]))
        return [*turns, f"Answer: {found[-1]}"]
