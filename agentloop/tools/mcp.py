"""Tools of an MCP server (Model Context Protocol), which a command starts or a URL reaches. Needs `agentloop[mcp]`."""

from __future__ import annotations

import importlib
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

from agentloop import extras
from agentloop.errors import SettingError
from agentloop.tools.tool import Tool, by_name

if TYPE_CHECKING:
    from agentloop.tools.mcp_session import Session

_SESSION = "agentloop.tools.mcp_session"
"""Needs the extra."""
_NOTHING: Mapping[str, str] = MappingProxyType({})


class McpServer:
    """An MCP server and which of its tools the agent gets. Nothing is started before `tools` is called.

    Make it once, as an attribute of the environment's class or in its module: what it needs is then imported before the
    worlds, the processes of the episodes, are forked. By default each episode has a server, or a connection, of its own.
    """

    _shared: ClassVar[dict[tuple[Any, ...], Session]] = {}
    """Open sessions that outlive an episode."""

    def __init__(
        self,
        command: Sequence[str | Path] | None = None,
        *,
        url: str | None = None,
        headers: Mapping[str, str] = _NOTHING,
        only: Collection[str] | None = None,
        rename: Mapping[str, str] = _NOTHING,
        env: Mapping[str, str] = _NOTHING,
        pass_env: Collection[str] = (),
        cwd: Path | str | None = None,
        shared: bool = False,
    ) -> None:
        """Name a server: the `command` that starts one which speaks over its standard input and output, or the `url` of one
        that runs (streamable HTTP), with the `headers` of every request.

        `only`: names of the tools that are offered, all by default. `rename`: other names for some, by the server's.
        A started server gets the variables `env`, those of this process that `pass_env` names, PATH and TMPDIR, and no others;
        `cwd` is its folder, the project's by default.

        `shared`: one server, or connection, for all episodes of a world's process, one after the other. What an episode
        leaves in it the next one finds, and which episodes meet in one process is a matter of chance: only for tools that
        keep nothing.

        Raises SettingError where the package `mcp` is missing, TypeError for arguments that do not go together.
        """
        if (command is None) == (url is None):
            raise TypeError("McpServer takes a command or a url")
        if isinstance(command, str) or isinstance(only, str) or isinstance(pass_env, str):
            raise TypeError(
                'McpServer takes lists of texts: McpServer(["uvx", "mcp-server-time"], only=["convert_time"])'
            )
        if url is None and headers:
            raise TypeError("McpServer: headers are for a url")
        if command is None and (env or pass_env or cwd is not None):
            raise TypeError("McpServer: env, pass_env and cwd are for a command")
        try:
            importlib.import_module(_SESSION)  # before worlds are forked
        except ModuleNotFoundError as error:
            line = extras.missing(error)
            if line is None:
                raise
            raise SettingError(line) from None
        self._command = tuple(os.fspath(word) for word in command or ())
        self._url, self._headers = url, dict(headers)
        self._only, self._rename = None if only is None else tuple(only), dict(rename)
        self._env, self._pass_env, self._cwd = dict(env), tuple(pass_env), None if cwd is None else Path(cwd)
        self._is_shared = shared

    def tools(self) -> tuple[Tool, ...]:
        """Connect, and return the tools in the server's order, for one episode: call it in the environment's `tools`.

        Raises TypeError, naming the tool, for one that a model could not call, that `only` names and the server lacks or that
        is there twice; SettingError for a variable that is not set; McpFault where the server fails.
        """
        from agentloop.tools.mcp_session import McpTool

        session = self._session()
        try:
            offered = [tool.name for tool in session.tools]
            for name in (*(self._only or ()), *self._rename):
                if name not in offered:
                    raise TypeError(f"tool {name}: {self._about} has none of that name; it has: {', '.join(offered)}")
            chosen = [tool for tool in session.tools if self._only is None or tool.name in self._only]
            tools = [McpTool(tool, self._rename.get(tool.name, tool.name), session, self._is_shared) for tool in chosen]
            by_name(*tools)  # refuses two of one name
        except BaseException:
            session.close()
            raise
        return tuple(tools)

    def _session(self) -> Session:
        from agentloop.tools.mcp_process import ServerProcess
        from agentloop.tools.mcp_session import Address, Session

        key = (os.getpid(), self._command, self._url, *map(str, (self._headers, self._env, self._pass_env, self._cwd)))
        session = self._shared.get(key) if self._is_shared else None
        if session is None or not session.is_open:
            server = (
                ServerProcess(self._command, self._environment(), self._cwd)
                if self._url is None
                else Address(self._url, self._headers)
            )
            session = Session(server, self._about)
            if self._is_shared:
                self._shared[key] = session
        return session

    def _environment(self) -> dict[str, str]:
        for name in self._pass_env:
            if name not in os.environ:
                raise SettingError(f"{self._about}: pass_env: the variable {name} is not set")
        return {name: os.environ[name] for name in self._pass_env} | self._env

    @property
    def _about(self) -> str:
        """The server in messages, which are stored: without what may be secret in a URL or among arguments."""
        if self._url is None:
            return f"MCP server {' '.join(Path(word).name for word in self._command[:2])}"
        address = urlsplit(self._url)
        return f"MCP server {address.scheme}://{address.netloc.rpartition('@')[2]}{address.path}"
