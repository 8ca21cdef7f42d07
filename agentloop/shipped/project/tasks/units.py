"""An example of a task of one's own: lengths in old units, with a table to look units up in and a calculator."""

from pathlib import Path

from agentloop.environments import QuestionFile
from agentloop.records import Task
from agentloop.tools import FunctionTool, Tool, ToolError
from agentloop.tools.calculator import Calculator

METRES = {"furlong": 201.168, "chain": 20.1168, "rod": 5.0292}


def metres(unit: str) -> str:
    """Length of a unit in metres, for example metres("rod")."""
    if unit not in METRES:
        raise ToolError(f"unknown unit {unit}; known are {', '.join(METRES)}")
    return str(METRES[unit])


class Units(QuestionFile):
    name = "units"
    path = Path(__file__).with_name("units.jsonl")

    def tools(self, task: Task) -> dict[str, Tool]:
        return {tool.name: tool for tool in (FunctionTool(metres), Calculator())}
