"""An environment whose tools do everything that tools should not do."""

import asyncio
import os
import subprocess
import sys
import time
from enum import Enum
from typing import Any, Literal, Optional

from pydantic import BaseModel

from agentloop.environments import Environment, Question
from agentloop.tools import FunctionTool, ToolError


class Unit(Enum):
    METRE = "m"
    FOOT = "ft"


class City(BaseModel):
    name: str
    people: int = 0


def add(a: int, b: int | None = None, unit: Optional[str] = None, way: Literal["up", "down"] = "up") -> str:  # noqa: UP045
    """Sum."""
    return f"{a + (b or 0)} {unit} {way}"


def loosely(value: Any, note: str = None) -> str:
    """Anything."""
    return f"{value!r} {note}"


def of_cities(cities: list[City], unit: Unit = Unit.METRE, weights: dict[str, float] | None = None) -> str:
    """People of cities."""
    return f"{sum(city.people for city in cities)} {unit.value} {weights}"


async def later(text: str) -> str:
    """Waits."""
    await asyncio.sleep(0.01)
    return text


def count(by: int = 1) -> int:
    """Counts calls of this episode."""
    STATE["count"] += by
    return STATE["count"]


def complain(how: str) -> str:
    """Complains."""
    raise ToolError(how) if how == "tool" else ValueError(how)


def fail(how: str) -> str:
    """Fails."""
    if how == "key":
        return {}["missing"]
    if how == "exit":
        sys.exit(3)
    if how == "interrupt":
        raise KeyboardInterrupt
    if how == "recursion":
        return fail(how)
    if how == "unprintable":
        raise Unprintable
    raise RuntimeError("line one\nline two \ud83d")


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def die(how: int) -> str:
    """Ends its process."""
    os._exit(how) if how >= 0 else os.kill(os.getpid(), -how)


def hang(in_thread: bool = False) -> str:
    """Never returns, and leaves a child behind."""
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    while True:
        time.sleep(3600)


def flood(characters: int) -> str:
    """A long result."""
    return "x" * characters


def greedy(megabytes: int) -> str:
    """Takes memory."""
    return str(len(bytearray(megabytes << 20)))


def say(text: str) -> str:
    """What it is told, and noise on every stream."""
    print("noise" * 1000, flush=True)
    print("noise", file=sys.stderr, flush=True)
    os.write(1, b"noise")
    return text + "\ud83d\ude00 \udc00"


STATE = {"count": 0}
TOOLS = (add, loosely, of_cities, later, count, complain, fail, die, hang, flood, greedy, say)


class Failing(Environment):
    name = "failing"

    def questions(self, rng):
        for number in range(200):
            yield Question("all", f"What is {number}?", str(number), {"broken": number == 199})

    def tools(self, task):
        if task.payload["broken"]:
            raise LookupError("no such world")
        STATE["count"] = 0
        return {function.__name__: FunctionTool(function) for function in TOOLS}

    def verify(self, task, answer):
        return float(answer == task.answer)
