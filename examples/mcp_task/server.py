"""An MCP server with one tool, as anybody may have one: `python server.py` speaks over standard input and output."""

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

from agentloop import tools
from agentloop.tools.calculator import Calculator

server = MCPServer("counting")


@server.tool()
def calculate(expression: str) -> str:
    """Value of an expression of whole numbers, for example calculate("3*(4+5)")."""
    try:
        return Calculator().call(expression)
    except tools.ToolError as error:
        raise ToolError(str(error)) from None


if __name__ == "__main__":
    server.run()
