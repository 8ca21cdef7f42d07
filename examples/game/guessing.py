"""Guess my number: a world that speaks, ends the episode itself, and gives credit for a game that was half won."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from agentloop.environments import Environment, Observation, Question, Session
from agentloop.records import Task

NUMBERS = range(1, 51)
GUESSES = 6


class Game(Session):
    """One game. The model says a number, and is told whether mine is higher or lower."""

    instructions = "I think of a whole number from 1 to 50. Guess it: say one number each turn, and nothing else."
    answers = False

    def __init__(self, secret: int) -> None:
        self.secret = secret
        self.guesses = 0
        self.won = False
        self.possible = NUMBERS

    def observe(self, turn: str) -> Observation:
        guess = turn.strip()
        if not guess.isdecimal() or int(guess) not in NUMBERS:
            return Observation("say a number from 1 to 50")
        self.guesses += 1
        if int(guess) == self.secret:
            self.won = True
            return Observation("right", reward=1.0, done=True)
        low, high = self.possible.start, self.possible.stop
        if int(guess) < self.secret:
            self.possible, hint = range(max(low, int(guess) + 1), high), "higher"
        else:
            self.possible, hint = range(low, min(high, int(guess))), "lower"
        ruled_out = 1 - len(self.possible) / (high - low)
        return Observation(hint, reward=ruled_out / 10, done=self.guesses == GUESSES)

    def outcome(self) -> dict[str, Any]:
        return {"won": self.won, "guesses": self.guesses, "possible": len(self.possible)}


class Guessing(Environment):
    name = "guessing"

    def questions(self, rng: random.Random) -> Iterator[Question]:
        while True:
            game = rng.randrange(10**6)
            secret = random.Random(game).choice(NUMBERS)
            yield Question("numbers", f"Game {game}", str(secret), {"secret": secret})

    def open(self, task: Task) -> Game:
        return Game(task.payload["secret"])

    def score(self, task: Task, answer: str | None, outcome: Any) -> dict[str, float]:
        """Success is a game that was won; one that was not has up to 0.4 for what its guesses ruled out."""
        ruled_out = 1 - (outcome["possible"] - 1) / (len(NUMBERS) - 1)
        return {
            "success": 1.0 if outcome["won"] else 0.4 * ruled_out,
            "thrift": 1 - outcome["guesses"] / GUESSES if outcome["won"] else 0.0,
        }

    def expert(self, task: Task) -> list[str]:
        """The middle of what is possible, until it is right."""
        game = Game(task.payload["secret"])
        said = []
        while True:
            said.append(str(game.possible[len(game.possible) // 2]))
            if game.observe(said[-1]).done:
                return said
