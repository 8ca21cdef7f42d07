"""An environment whose tools are those of mcp_server.py, or of the server that a task's payload describes."""

import sys
from pathlib import Path

from agentloop.environments import Environment, Question
from agentloop.tools import by_name
from agentloop.tools.mcp import McpServer

COMMAND = [sys.executable, str(Path(__file__).with_name("mcp_server.py"))]
CALLABLE = (
    "texts", "add", "of_cities", "count", "fail", "hang", "die", "rubbish", "picture", "structured", "variables"
)  # fmt: skip


class OverMcp(Environment):
    name = "over_mcp"
    server = McpServer(COMMAND, only=CALLABLE, env={"MODE": "test"})

    def questions(self, rng):
        yield from (Question("all", f"What is {number} + 1?", f"{number + 1} up", {}) for number in range(50))

    def tools(self, task):
        server = McpServer(**task.payload) if task.payload else self.server
        return by_name(*server.tools())

    def verify(self, task, answer):
        return float(answer == task.answer)
