"""Counting things in a stockroom: questions from a file, a calculator that only counts, a verifier that reads "46 eggs"."""

from pathlib import Path
from typing import Any

from agentloop.environments import QuestionFile
from agentloop.records import Task
from agentloop.tools import Tool, ToolError
from agentloop.tools.calculator import Calculator


class Counting(Calculator):
    """The calculator, which refuses a result that is no number of things."""

    def call(self, /, *args: Any, **kwargs: Any) -> str:
        result = super().call(*args, **kwargs)
        if not result.isdigit():
            raise ToolError(f"{result} is no number of things")
        return result


class Stockroom(QuestionFile):
    name = "stockroom"
    path = Path(__file__).with_name("questions.jsonl")

    def tools(self, task: Task) -> dict[str, Tool]:
        return {Counting.name: Counting()}

    def verify(self, task: Task, answer: str | None) -> float:
        """Right is the exact number, alone or followed by what was counted."""
        return float(answer in (task.answer, f"{task.answer} {task.payload['counted']}"))
