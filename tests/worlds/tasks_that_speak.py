"""An environment whose sessions do what their task's payload says: speak, count, fail, hang, hold something."""

import os
import time
from pathlib import Path

from agentloop.environments import Environment, Observation, Question, Session
from agentloop.tools import FunctionTool

SAYS = {
    "text": "more",
    "reward": Observation("warm", reward=0.25),
    "over": Observation("it is over", reward=1, done=True),
    "nothing": None,
    "long": "x" * 30_000,
    "half": "\ud83d",
    "number": 5,
    "no text": Observation(7),
    "no reward": Observation("x", reward="much"),
    "endless": Observation("x", reward=float("nan")),
}
OUTCOMES = {
    "set": {1, 2},
    "nan": {"value": float("nan")},
    "huge": "x" * 30_000,
    "tuple": {"moves": (1, 2), "half": "\ud83d"},
    "none": None,
}


class Counting(Session):
    """Counts its turns."""

    def __init__(self, payload):
        self.payload = payload
        self.turns = []
        self.answers = payload.get("answers", True)
        self.instructions = payload.get("instructions")
        if payload.get("tools"):
            self.tools = {tool.__name__: FunctionTool(tool) for tool in (self.push, self.win)}

    def push(self) -> str:
        """Push it."""
        return f"pushed after {len(self.turns)} turns"

    def win(self) -> Observation:
        """Win."""
        return Observation("won", reward=2, done=True)

    def observe(self, turn):
        self.turns.append(turn)
        if turn == "fail":
            raise KeyError("x")
        if turn == "exit":
            raise SystemExit(3)
        if turn == "die":
            os._exit(4)
        if turn == "hang":
            time.sleep(3600)
        return SAYS.get(turn, f"{len(self.turns)} turns")

    def outcome(self):
        what = self.payload.get("outcome")
        if what == "fail":
            raise LookupError("no outcome")
        if what == "hang":
            time.sleep(3600)
        return OUTCOMES.get(what, {"turns": self.turns})

    def close(self):
        if "close" in self.payload:
            Path(self.payload["close"]).write_text(f"{len(self.turns)}", encoding="utf-8")


class Speaking(Environment):
    name = "speaking"

    def questions(self, rng):
        for number in range(200):
            yield Question("all", f"What is {number}?", str(number), {})

    def open(self, task):
        if task.payload.get("open") == "fail":
            raise LookupError("no such world")
        if task.payload.get("open") == "none":
            return {}
        return Counting(task.payload)

    def score(self, task, answer, outcome):
        return {
            "success": 1.0 if answer == task.answer else min(len(outcome["turns"]) / 4, 0.9),
            "brevity": 1 / (1 + len(outcome["turns"])),
        }
