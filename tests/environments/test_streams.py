"""What was drawn of a stream of tasks is remembered, and nobody can tell."""

from __future__ import annotations

import pickle
import random
from collections.abc import Iterator

import pytest

from agentloop import environments
from agentloop.environments import Environment, Question
from agentloop.errors import SettingError
from agentloop.records import Task
from agentloop.tools import Tool


class Counting(Environment):
    """Questions that count how often they are drawn, and fail once where they are told to."""

    name = "counting"
    chapter = 8
    generated = True

    def __init__(self) -> None:
        self.drawn, self.fails_at = 0, 0

    def questions(self, rng: random.Random) -> Iterator[Question]:
        while True:
            self.drawn += 1
            if self.drawn == self.fails_at:
                raise ValueError("no luck")
            number = rng.randrange(10**9)
            yield Question("one", f"What is {number}?", str(number), {}, split="train" if number % 3 else "heldout")

    def tools(self, task: Task) -> dict[str, Tool]:
        return {}

    def verify(self, task: Task, answer: str | None) -> float:
        return float(answer == task.answer)


CALLS = [
    ("train", 3, 0, 0), ("train", 3, 0, 3), ("train", 2, 0, 6), ("train", 3, 0, 8), ("heldout", 5, 0, 0), ("train", 3, 1, 3),
    ("train", 3, 0, 3), ("train", 1, 0, 0), ("heldout", 5, 0, 4), ("heldout", 2, 1, 0), ("demonstration", 0, 0, 0),
]  # fmt: skip


@pytest.mark.parametrize("name", ["arithmetic", "database"])
def test_calls_one_after_the_other_say_what_each_says_alone(name):
    one = environments.get(name)
    assert [one.tasks(*call) for call in CALLS] == [environments.get(name).tasks(*call) for call in CALLS]


def test_what_was_drawn_is_not_drawn_again():
    one = Counting()
    first = one.tasks("train", 4, 0)
    before = one.drawn
    assert one.tasks("train", 2, 0, 1) == first[1:3] and one.drawn == before
    assert one.tasks("train", 2, 0, 3) == [first[3], Counting().tasks("train", 5, 0)[4]]
    assert before < one.drawn < 2 * before + 20


def test_a_stream_that_failed_is_begun_anew():
    one = Counting()
    one.tasks("train", 2, 0)
    one.fails_at = one.drawn + 1
    with pytest.raises(SettingError, match="no luck"):
        one.tasks("train", 4, 0)
    assert one.tasks("train", 4, 0) == Counting().tasks("train", 4, 0)


def test_it_travels_without_what_it_remembers():
    one = environments.get("arithmetic")
    expected = one.tasks("train", 2, 0)
    assert pickle.loads(pickle.dumps(one)).tasks("train", 2, 0) == expected
