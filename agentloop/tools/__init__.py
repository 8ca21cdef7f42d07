"""What the agent may call. Each tool is safe on its own: it needs no sandbox and trusts no argument."""

from agentloop.tools.function import FunctionTool
from agentloop.tools.tool import Tool, ToolError, bind

__all__ = ["FunctionTool", "Tool", "ToolError", "bind"]
