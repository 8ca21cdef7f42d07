"""An MCP server of the official package whose tools do what servers do, and what they should not do.

python mcp_server.py            speaks over standard input and output
python mcp_server.py PORTFILE   answers at a port of its own, which it writes to the file
"""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import mcp_types
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import BaseModel, Field

server = MCPServer("tests")
state = {"count": 0}


class City(BaseModel):
    name: str
    people: int = 0


@server.tool()
def add(a: int, b: int | None = None, way: Literal["up", "down"] = "up") -> str:
    """Sum of two numbers."""
    return f"{a + (b or 0)} {way}"


@server.tool()
def of_cities(
    cities: Annotated[list[City], Field(description="the cities, at most three", max_length=3)],
    weights: dict[str, float] | None = None,
    note: Any = None,
) -> str:
    """People of all cities.

    Counted twice a year.
    """
    return f"{sum(city.people for city in cities)} {weights} {note}"


@server.tool()
def count(by: int = 1) -> str:
    """Counts calls."""
    state["count"] += by
    return str(state["count"])


@server.tool()
def fail(how: str) -> str:
    """Raises."""
    raise ToolError(how) if how else ValueError("what the package does not tell")


@server.tool()
def hang() -> str:
    """Never returns, and leaves a child behind."""
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3601)"])
    while True:
        time.sleep(3601)


@server.tool()
def die(code: int) -> str:
    """Ends the server."""
    print("last words", file=sys.stderr, flush=True)
    os._exit(code)


@server.tool()
def rubbish() -> str:
    """Writes where only messages may be written."""
    os.write(state["output"], b"Hello, I am a log line\n")
    time.sleep(3601)
    return ""


@server.tool(structured_output=False)
def picture(caption: str = "") -> list[mcp_types.TextContent | mcp_types.ImageContent]:
    """A picture."""
    image = mcp_types.ImageContent(type="image", data="AAAA", mime_type="image/png")
    return [mcp_types.TextContent(type="text", text=caption), image] if caption else [image]


@server.tool()
def structured() -> mcp_types.CallToolResult:
    """Structured content alone."""
    return mcp_types.CallToolResult(content=[], structured_content={"people": [1, 2], "name": "Köln"})


@server.tool()
def texts() -> mcp_types.CallToolResult:
    """Two texts and a document."""
    document = mcp_types.TextResourceContents(uri="file:///a", text="inside")
    blocks = [mcp_types.TextContent(type="text", text=text) for text in ("one", "two")]
    return mcp_types.CallToolResult(
        content=[*blocks, mcp_types.EmbeddedResource(type="resource", resource=document)], structured_content={"a": 1}
    )


@server.tool()
def variables() -> str:
    """Names of the variables that it has, and its process group."""
    return f"{sorted(os.environ)} {os.environ.get('MODE')} {os.getpgrp()}"


@server.tool(name="not-a-name")
def not_a_name() -> str:
    """Has a name that a call cannot be written with."""
    return "called"


@server.tool()
def with_keyword(lambda_: Annotated[int, Field(alias="lambda")]) -> str:
    """Has a parameter with a name that a call cannot be written with."""
    return str(lambda_)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        listener.close()
        Path(sys.argv[1]).write_text(str(port))
        server.run("streamable-http", host="127.0.0.1", port=port)
    else:
        state["output"] = os.dup(1)
        server.run("stdio")
        while "STUBBORN" in os.environ:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(3601)
