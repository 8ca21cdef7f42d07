"""One connection to an MCP server, used from code that is not `async`, and the tools that come with it."""

from __future__ import annotations

import inspect
import json
import keyword
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx2
import mcp_types
from anyio.from_thread import start_blocking_portal
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client

from agentloop.text import encodable, one_line, one_line_of
from agentloop.tools.json_schema import SchemaArguments
from agentloop.tools.mcp_process import ServerProcess
from agentloop.tools.tool import ToolError

_START_SECONDS = 100.0
"""For each answer until the tools are known; inside a world collect.tool_seconds is shorter as a rule."""
_MOST_TOOLS = 1000
_CONNECT_SECONDS = 30.0


class McpFault(Exception):
    """Raised where an MCP server ended, said rubbish or could not be reached. It ends this attempt at the episode."""


class McpTool:
    """A tool of an MCP server, as an episode has it."""

    def __init__(self, tool: mcp_types.Tool, name: str, session: Session, shared: bool) -> None:
        """`name`: the one that the model calls it by. `shared`: the session is for other episodes too. Raises TypeError,
        naming the tool, for one that a model could not call.
        """
        if not name.isidentifier() or keyword.iskeyword(name):
            raise TypeError(f"tool {name}: its name cannot be written in a call; leave it out by only=, or use rename=")
        try:
            self._arguments = SchemaArguments(tool.input_schema)
        except TypeError as error:
            raise TypeError(f"tool {name}: {error}") from None
        self.name = name
        lines = [inspect.cleandoc(tool.description or tool.title or ""), *self._arguments.notes]
        self.description = encodable("\n".join(lines))
        self.signature = self._arguments.signature
        self.shared = shared
        self._known_as, self._session = tool.name, session

    def call(self, /, *args: Any, **kwargs: Any) -> str:
        """Return what the server's tool answers, as text. Raises ToolError for arguments that do not fit its schema and for
        what the server calls an error, McpFault where there is no answer.
        """
        result = self._session.ask(self._known_as, self._arguments.bind(args, kwargs))
        if result.is_error:
            raise ToolError(text_of(result) or "the tool failed")
        return text_of(result)

    def close(self) -> None:
        """Close the session, which is that of the server's other tools too."""
        self._session.close()


@dataclass
class Address:
    """A server that is reached by a URL."""

    url: str
    """Where it answers."""
    headers: Mapping[str, str]
    """Headers of every request."""
    fault: str | None = None
    """Nothing: what goes wrong is in the exceptions."""

    @asynccontextmanager
    async def streams(self) -> AsyncIterator[tuple[Any, Any]]:
        """Give the streams of messages from and to the server, as `mcp.Client` takes them."""
        wait = httpx2.Timeout(_CONNECT_SECONDS, read=None)  # an answer is waited for as long as the world may wait
        async with (
            httpx2.AsyncClient(headers=dict(self.headers), timeout=wait) as http,
            streamable_http_client(self.url, http_client=http) as streams,
        ):
            yield streams


class Session:
    """A connection to a server, from its first message to its end. Calls are serial."""

    def __init__(self, server: ServerProcess | Address, about: str) -> None:
        """`about`: what messages call the server. Raises McpFault where it does not answer or cannot be started."""
        self._server, self._about = server, about
        self._open = ExitStack()
        self._closed = False
        try:
            self._portal = self._open.enter_context(start_blocking_portal(name="mcp"))
            client = Client(server.streams(), cache=None, read_timeout_seconds=_START_SECONDS)
            self._client = self._open.enter_context(self._portal.wrap_async_context_manager(client))
            self.tools = self._portal.call(self._list)
            """In the server's order."""
        except Exception as error:
            raise self._fault(error) from error
        except BaseException:
            self.close()
            raise

    def ask(self, name: str, arguments: dict[str, Any]) -> mcp_types.CallToolResult:
        """Call a tool by the name that the server knows. Raises ToolError where the server refuses the arguments, else
        McpFault.
        """
        call = partial(self._client.call_tool, name, arguments, read_timeout_seconds=math.inf)
        try:
            return self._portal.call(call)
        except MCPError as error:
            if error.code == mcp_types.INVALID_PARAMS:
                raise ToolError(one_line_of(error.message)) from None
            raise self._fault(error) from error
        except Exception as error:
            raise self._fault(error) from error

    @property
    def is_open(self) -> bool:
        """Return False once it was closed or has failed."""
        return not self._closed

    def close(self) -> None:
        """End the connection, and the server where a command started it. Closing twice does nothing."""
        self._closed = True
        with suppress(Exception):  # of a connection that is broken already
            self._open.close()

    async def _list(self) -> list[mcp_types.Tool]:
        tools: list[mcp_types.Tool] = []
        cursor = None
        while True:
            page = await self._client.list_tools(cursor=cursor)
            tools += page.tools
            cursor = page.next_cursor
            if not cursor:
                return tools
            if len(tools) > _MOST_TOOLS or not page.tools:
                raise McpFault(f"its list of tools does not end ({len(tools)} so far)")

    def _fault(self, error: BaseException) -> McpFault:
        """The error in one line. The session, in which anything may be wrong now, is closed."""
        fault = self._server.fault
        self.close()
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        said = one_line_of(error) if isinstance(error, MCPError | McpFault) else one_line(error)
        return McpFault(f"{self._about}: {fault or said}")


def text_of(result: mcp_types.CallToolResult) -> str:
    """Return a result as text: its texts, a line each, and what is no text by the name of its kind, `[image]`.

    Structured content stands for the text where there is none.
    """
    parts = []
    has_text = False
    for block in result.content:
        text = block.text if isinstance(block, mcp_types.TextContent) else None
        if isinstance(block, mcp_types.EmbeddedResource):
            text = getattr(block.resource, "text", None)
        has_text = has_text or text is not None
        parts.append(f"[{block.type}]" if text is None else text)
    if not has_text and result.structured_content is not None:
        parts.insert(0, json.dumps(result.structured_content, ensure_ascii=False))
    return "\n".join(parts)
