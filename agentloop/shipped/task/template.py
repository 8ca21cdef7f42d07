"""Template: questions from template.jsonl beside this file, the tools that the agent gets for them, and who checks the answers.

Replace the questions, the tools and, where an answer is more than a number or a few words, `verify`. Then:

    agentloop check tasks/template.py
"""

from collections.abc import Sequence
from datetime import date
from pathlib import Path

from agentloop.environments import QuestionFile
from agentloop.records import Task
from agentloop.tools import FunctionTool, Tool, by_name

WEEKDAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()


def days_between(first: str, last: str) -> int:
    """Days from one date to another, for example days_between("2024-02-27", "2024-03-02")."""
    # what is raised as ValueError or ToolError is told to the model, which may try again
    return (date.fromisoformat(last) - date.fromisoformat(first)).days


def weekday(day: str) -> str:
    """Day of the week of a date, for example weekday("2024-03-02")."""
    return WEEKDAYS[date.fromisoformat(day).weekday()]


class TemplateTask(QuestionFile):
    """One JSON line is one task: `question` and `answer`; `family` names its kind; the rest is `task.payload`."""

    name = "template"
    path = Path(__file__).with_name("template.jsonl")

    def tools(self, task: Task) -> dict[str, Tool]:
        """Return fresh tools for one episode."""
        return by_name(FunctionTool(days_between), FunctionTool(weekday))

    # def verify(self, task: Task, answer: str | None) -> float:
    #     """Return 1.0 where the answer is right, 0.0 where it is not. Without this, numbers are compared as numbers and
    #     anything else as words."""

    def expert(self, task: Task) -> Sequence[str] | None:
        """Return what an expert says, turn by turn: `agentloop teach` uses it. Leave it out where there is none."""
        dates = ", ".join(f'"{each}"' for each in task.payload["dates"])
        tool = "weekday" if task.family == "weekday" else "days_between"
        return [f"```tool_code\n{tool}({dates})\n```", f"Answer: {task.answer}"]
