"""What the agent may call. A tool trusts no argument; the process it runs in bounds its time, memory and output."""

from agentloop.tools.arguments import bind
from agentloop.tools.function import FunctionTool
from agentloop.tools.tool import Tool, ToolError

__all__ = ["FunctionTool", "Tool", "ToolError", "bind"]
