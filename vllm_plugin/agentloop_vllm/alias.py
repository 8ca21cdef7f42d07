"""Names that stand for what is served now, and for something else later: `--middleware agentloop_vllm.alias.Alias`.

    POST /v1/alias {"name": "champion", "model": "adapter_2"}

From then on a request for "champion" is one for "adapter_2", and its answer says so in "model"; /v1/models lists the name.
Requests that run are not touched: they end with the weights that they began with, and vLLM finds no other weights' keys and
values in its prefix cache, as it would if an adapter were replaced under its own name. Give `--middleware` the door after this:
vLLM asks the last one first.
"""

from __future__ import annotations

import json
from typing import Any

from agentloop_vllm.door import App, Message, Receive, Scope, Send

PATH = "/v1/alias"
_MODELS = "/v1/models"


class Alias:
    """Puts what an alias stands for in its place, in the JSON of every request that is posted."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._stands_for: dict[str, str] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method, path = scope.get("method"), scope.get("path")
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif (method, path) == ("POST", PATH):
            await self._set(await _body(receive), send)
        elif method == "POST" and self._stands_for:
            await self._ask(scope, receive, send)
        elif (method, path) == ("GET", _MODELS):
            await self._app(scope, receive, _Listing(send, self._stands_for))
        else:
            await self._app(scope, receive, send)

    async def _set(self, body: bytes, send: Send) -> None:
        asked = _object(body)
        name, model = asked.get("name"), asked.get("model")
        if not (name and model and isinstance(name, str) and isinstance(model, str)):
            message = 'an alias is set by {"name": …, "model": …}, both of them texts'
            await _answer(send, 400, {"error": {"message": message}})
            return
        self._stands_for[name] = model
        await _answer(send, 200, {"name": name, "model": model})

    async def _ask(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _body(receive)
        if any(
            json.dumps(name).encode() in body for name in self._stands_for
        ):  # most are long, and name it first of all
            asked = _object(body)
            model = self._stands_for.get(asked["model"]) if isinstance(asked.get("model"), str) else None
            if model is not None:
                body = json.dumps(asked | {"model": model}).encode()
                length = (b"content-length", str(len(body)).encode())
                headers = [length if name == b"content-length" else (name, value) for name, value in scope["headers"]]
                scope = {**scope, "headers": headers}
        await self._app(scope, _Again(body, receive), send)


class _Again:
    """Gives a body that was read already, then whatever else comes."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Message:
        if self._body is None:
            return await self._receive()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


class _Listing:
    """Adds the aliases to vLLM's list of models: each is a card like that of what it stands for, which is its parent."""

    def __init__(self, send: Send, stands_for: dict[str, str]) -> None:
        self._send = send
        self._stands_for = stands_for
        self._start: Message = {}
        self._body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            return
        self._body += message.get("body", b"")
        if message.get("more_body"):
            return
        body = self._body
        listed = _object(body)
        cards = {card["id"]: card for card in listed.get("data", ())}
        if cards:
            aliases = [
                cards[model] | {"id": name, "parent": model}
                for name, model in self._stands_for.items()
                if model in cards
            ]
            body = json.dumps(listed | {"data": [*cards.values(), *aliases]}).encode()
        headers = [each for each in self._start.get("headers", ()) if each[0].lower() != b"content-length"]
        headers.append((b"content-length", str(len(body)).encode()))
        await self._send({**self._start, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})


async def _body(receive: Receive) -> bytes:
    parts, more = [], True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = bool(message.get("more_body"))
    return b"".join(parts)


def _object(body: bytes) -> dict[str, Any]:
    """The JSON object; empty for anything else, about which vLLM has its own words."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


async def _answer(send: Send, status: int, content: dict[str, Any]) -> None:
    body = json.dumps(content).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
