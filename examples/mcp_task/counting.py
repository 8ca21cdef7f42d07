"""Counting eggs in boxes, with the tools of an MCP server."""

import random
import sys
from collections.abc import Iterator
from pathlib import Path

from agentloop.environments import Environment, Question
from agentloop.records import Task
from agentloop.tools import Tool, by_name
from agentloop.tools.mcp import McpServer


class Counting(Environment):
    name = "counting"
    # shared: it keeps nothing, so that the episodes of a process may use one, one after the other
    server = McpServer([sys.executable, Path(__file__).with_name("server.py")], only=["calculate"], shared=True)

    def questions(self, rng: random.Random) -> Iterator[Question]:
        while True:
            held, boxes, found = rng.randint(2, 60), rng.randint(2, 9), rng.randint(2, 60)
            text = f"A box holds {held} eggs. Anna has {boxes} boxes and finds {found} eggs. How many eggs are that?"
            yield Question("found", text, str(held * boxes + found), {})

    def tools(self, task: Task) -> dict[str, Tool]:
        return by_name(*self.server.tools())

    def verify(self, task: Task, answer: str | None) -> float:
        return float(answer == task.answer)
