"""An OpenEnv environment in the interpreter that has openenv-core: its client, and its server where that is started here.

A server that is started here is imported once; each episode has one of its own, in its own process, which answers on a Unix
socket that nobody else can reach. A server behind a URL is another's affair. See `guest_process.py`.
"""

from __future__ import annotations

import asyncio
import http.client
import importlib
import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Coroutine, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from openenv.core.generic_client import GenericEnvClient
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

_WAIT_SECONDS = 10.0
"""For a server to take a connection, and for one that has its hands full to let go of another session."""
_ANSWER_SECONDS = 24 * 3600.0
"""Whoever asks is the one who stops waiting, and then ends this process."""
_MOST_BYTES = 100 << 20
_OF_EVERY_ACTION = "metadata"
"""A field of each action that says nothing to the environment."""
_GENERIC = ("Action", "CallToolAction", "ListToolsAction")
"""Titles of the action schemas of environments whose tools are to be asked for."""
_FULL_CODE = "CAPACITY_REACHED"
_FULL, _INVALID = f"(code: {_FULL_CODE})", "(code: VALIDATION_ERROR)"


class Refusal(Exception):
    """Raised for what cannot be reached, or cannot be played."""

    refusal = True


def prepare(config: dict[str, Any]) -> Guest:
    """Import the server where it is to be started here. `config`: `version` of openenv-core, `url` of a server or `app`, the
    application of one as `module:name`, and what is passed to `reset` besides the seed.

    Raises Refusal.
    """
    if (found := metadata.version("openenv-core")) != config["version"]:
        raise Refusal(f"openenv-core is {found} there, not {config['version']}")
    app = None
    if config["app"] is not None:
        os.environ["ENABLE_WEB_INTERFACE"] = "false"
        module, _, name = config["app"].partition(":")
        try:
            app = importlib.import_module(module)
            for part in name.split("."):
                app = getattr(app, part)
        except (ModuleNotFoundError, AttributeError) as error:
            raise Refusal(f"{config['app']}: {error}") from None
    return Guest(app, config["url"], config["reset"])


class Guest:
    """A server that can be connected to."""

    def __init__(self, app: Any, url: str | None, reset: dict[str, Any]) -> None:
        self._app, self._url, self._reset = app, url, reset
        self.about: dict[str, Any] = {}

    def survey(self) -> dict[str, Any]:
        """Return name, description and version that the server gives the environment."""
        return _get(self._place(), "/metadata")

    def openings(self, seeds: Sequence[int]) -> list[str]:
        """Return what is seen first of the episode of each seed."""
        client = _Client(self._place())
        try:
            return [shown(client.reset(seed, self._reset).observation) for seed in seeds]
        finally:
            client.close()

    def open(self, seed: int) -> Play:
        """Return the episode of the seed from its beginning."""
        return Play(self._place(), seed, self._reset)

    def _place(self) -> _Place:
        """Where the server answers: the URL's, or one that is started in this process."""
        return _Remote(self._url) if self._url is not None else _Local(self._app)


class _Place:
    """A server's address."""

    url: str

    def socket(self) -> socket.socket | None:
        """Return a connected socket; None where the URL says where to connect to."""
        return None


class _Remote(_Place):
    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")


class _Local(_Place):
    """A server in a thread of this process, the only one there. It ends with it."""

    url = "http://localhost"

    def __init__(self, app: Any) -> None:
        self._path = Path(tempfile.gettempdir()) / f"server-{os.getpid()}"  # in a folder that is this guest's alone
        self._path.unlink(missing_ok=True)
        settings = uvicorn.Config(app, uds=str(self._path), log_level="warning", lifespan="auto")
        self._server = uvicorn.Server(settings)
        thread = threading.Thread(target=self._server.run, daemon=True)
        thread.start()
        deadline = time.monotonic() + _WAIT_SECONDS
        while not self._server.started:
            if not thread.is_alive() or time.monotonic() > deadline:
                raise RuntimeError("its server did not start")
            time.sleep(0.002)

    def socket(self) -> socket.socket:
        connected = socket.socket(socket.AF_UNIX)
        connected.connect(str(self._path))
        return connected


class _OverSocket(GenericEnvClient):
    """OpenEnv's client over a socket that is connected already."""

    _ws: Any

    def __init__(self, connected: socket.socket, **options: Any) -> None:
        super().__init__("http://localhost", **options)
        self._connected = connected

    async def connect(self) -> _OverSocket:
        if self._ws is None:
            self._ws = await connect(self._ws_url, sock=self._connected, max_size=_MOST_BYTES)
        return self


class _Client:
    """OpenEnv's client, asked from code that is not `async`. Its loop has a thread, which answers the server's pings."""

    def __init__(self, place: _Place) -> None:
        self._place = place
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._client = self._fresh()

    def reset(self, seed: int, more: Mapping[str, Any]) -> Any:
        """Begin the episode of the seed, once a server that has its hands full takes it. Raises Refusal where it does not."""
        deadline = time.monotonic() + _WAIT_SECONDS
        while True:
            try:
                return self._run(self._client.reset(seed=seed, **more))
            except (RuntimeError, ConnectionClosed) as error:
                if not (str(error).endswith(_FULL) if isinstance(error, RuntimeError) else self._was_full()):
                    raise
            if time.monotonic() > deadline:
                raise Refusal(
                    "its server takes no further session; let it have more (max_concurrent_envs), or lower collect.concurrency"
                )
            self.close()
            time.sleep(0.1)
            self._client = self._fresh()

    def _was_full(self) -> bool:
        """Return True where that is what the server said before it closed the connection."""
        try:
            said = self._run(self._client._receive())
        except ConnectionClosed:
            return False
        return said.get("data", {}).get("code") == _FULL_CODE

    def step(self, action: dict[str, Any]) -> Any:
        return self._run(self._client.step(action))

    def close(self) -> None:
        self._run(self._client.close())

    def _fresh(self) -> GenericEnvClient:
        options = {"message_timeout_s": _ANSWER_SECONDS}
        connected = self._place.socket()
        return _OverSocket(connected, **options) if connected else GenericEnvClient(self._place.url, **options)

    def _run(self, what: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result()


def _get(place: _Place, path: str) -> dict[str, Any]:
    """Return what the server says at the path, as JSON. Raises Refusal where it does not answer with that."""
    address = urlsplit(place.url)
    kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
    connection = kind(address.hostname or "", address.port, timeout=_WAIT_SECONDS)
    try:
        if connected := place.socket():
            connection.sock = connected
        connection.request("GET", f"{address.path}{path}")
        response = connection.getresponse()
        if response.status != 200:
            raise Refusal(f"{place.url}{path} answers with {response.status}; is it an OpenEnv server?")
        return json.loads(response.read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Refusal(f"no OpenEnv server answers at {place.url}: {error or type(error).__name__}") from None
    finally:
        connection.close()


def shown(observation: Mapping[str, Any]) -> str:
    """Return an observation as the model reads it: a lone text as it is, else a line for each field that says something."""
    told = {name: value for name, value in observation.items() if value not in (None, "", [], {})}
    lines = {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for name, value in told.items()
    }
    return (
        next(iter(lines.values())) if len(lines) == 1 else "\n".join(f"{name}: {text}" for name, text in lines.items())
    )


class Play:
    """One episode: each call is a step."""

    def __init__(self, place: _Place, seed: int, reset: Mapping[str, Any]) -> None:
        schema = _get(place, "/schema")["action"]
        self._client = _Client(place)
        first = self._client.reset(seed, reset)
        if first.done:
            raise Refusal(f"the episode of seed {seed} is over before it begins")
        self._opening = shown(first.observation)
        self._by_name = schema.get("title") in _GENERIC
        self._documents = self._listed() if self._by_name else [_document(schema)]
        self._steps, self._reward, self._done = 0, 0.0, False

    def describe(self) -> dict[str, Any]:
        """Return what is seen first, and the tools: one whose parameters are the action's fields, or the server's own."""
        return {"opening": self._opening, "tools": self._documents}

    def call(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Take a step. An action that the server finds invalid is the model's mistake."""
        action = {"type": "call_tool", "tool_name": tool, "arguments": arguments} if self._by_name else arguments
        try:
            result = self._client.step(action)
        except RuntimeError as error:
            if not str(error).endswith(_INVALID):
                raise
            return {"text": "the action is invalid", "complaint": True, "reward": None, "done": False}
        reward = None if result.reward is None else float(result.reward)
        self._steps, self._reward, self._done = (
            self._steps + 1,
            self._reward + (reward or 0.0),
            self._done or bool(result.done),
        )
        text, complaint = _result(result.observation) if self._by_name else (shown(result.observation), False)
        return {"text": text, "complaint": complaint and not self._done, "reward": reward, "done": self._done}

    def outcome(self) -> dict[str, Any]:
        """Return the sum of the steps' rewards, how many there were, and True where the environment ended the episode."""
        return {"reward": self._reward, "steps": self._steps, "done": self._done}

    def close(self) -> None:
        self._client.close()

    def _listed(self) -> list[dict[str, Any]]:
        tools = self._client.step({"type": "list_tools"}).observation["tools"]
        return [
            {"name": each["name"], "description": each.get("description"), "schema": each["input_schema"]}
            for each in tools
        ]


def _document(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The action as a tool: its schema without what every action has."""
    own = {name: field for name, field in schema.get("properties", {}).items() if name != _OF_EVERY_ACTION}
    return {"name": "step", "description": schema.get("description"), "schema": {**schema, "properties": own}}


def _result(observation: Mapping[str, Any]) -> tuple[str, bool]:
    """What a tool of the server's has answered, and True where that is a complaint."""
    if error := observation.get("error"):
        return str(error.get("message", error) if isinstance(error, Mapping) else error), True
    result = observation.get("result")
    if isinstance(result, Mapping) and "data" in result:  # as fastmcp gives it
        result = result["data"]
    return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False, default=str), False
