"""Tools that the agent may call: functions of one's own, a calculator, SQL, Python, files, search, those of MCP servers.

A tool trusts no argument; the process that it runs in bounds its time, memory and output.
"""

from agentloop.tools.arguments import Arguments
from agentloop.tools.function import FunctionTool
from agentloop.tools.observation import Observation
from agentloop.tools.tool import Tool, ToolError, by_name

__all__ = ["Arguments", "FunctionTool", "Observation", "Tool", "ToolError", "by_name"]
