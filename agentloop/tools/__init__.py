"""What the agent may call. A tool trusts no argument; the process it runs in bounds its time, memory and output."""

from agentloop.tools.arguments import Arguments
from agentloop.tools.function import FunctionTool
from agentloop.tools.tool import Tool, ToolError

__all__ = ["Arguments", "FunctionTool", "Tool", "ToolError"]
