"""The door of a server on loopback: an ASGI middleware that lets in who has the key, and no web page but the server's own.

Loopback keeps other machines out. It keeps out neither the other users of this machine nor the pages in the user's own
browser, which may send requests and open WebSockets to any port, and may call the port by a name of their own
(DNS rebinding).
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable, Container, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

HOSTS = (b"127.0.0.1", b"localhost")
"""What a server on loopback may be called. Its port may differ from the server's: that of a tunnel or a relay."""
_VIOLATION = 1008
"""A WebSocket is closed with it: "policy violation"."""
_LONGEST_PROOF = 4096
_PUBLIC_HEADERS = (
    # No other page may frame these or read them, and they report to nobody but this server (as some applications' pages do).
    (b"x-frame-options", b"DENY"),
    (b"content-security-policy", b"frame-ancestors 'none'; connect-src 'self' blob: data:"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)


class Door:
    """Refuses what has a foreign Host or Origin, and what lacks the key, before the application sees it."""

    def __init__(
        self,
        app: App,
        authorization: str,
        *,
        public: Callable[[str], bool] = lambda path: path == "/health",
        token: str | None = None,
        hosts: Container[bytes] | None = HOSTS,
    ) -> None:
        """`authorization` is the whole header that proves the key; `public` says which paths may be read without it; `hosts`
        are the names that requests may call the server by, None for any.

        A WebSocket without that header is refused, or, where there is a `token`, has to send it first of all, as
        {"type": "auth", "token": …}: browsers cannot give a WebSocket headers.
        """
        self._app = app
        self._authorization = authorization.encode()
        self._public = public
        self._token = token
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._request(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        if not self._own(headers):
            await _answer(send, 403, "Not from this host or page.")
        elif self._has_key(headers):
            await self._app(scope, receive, send)
        elif scope["method"] in ("GET", "HEAD") and self._public(scope["path"]):
            await self._app(scope, receive, _with_public_headers(send))
        else:
            await _answer(send, 401, "This needs the key.")

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        if self._own(headers) and self._has_key(headers):
            await self._app(scope, receive, send)
        elif self._own(headers) and self._token:
            channel = _Unproven(receive, send, self._token)
            await self._app(scope, channel.receive, channel.send)
        else:
            await receive()
            await send({"type": "websocket.close", "code": _VIOLATION})

    def _own(self, headers: dict[bytes, bytes]) -> bool:
        """True where the request calls this server by one of its names and comes from no page, or from its own."""
        host = headers.get(b"host", b"")
        known = self._hosts is None or host.partition(b":")[0] in self._hosts
        return known and headers.get(b"origin", b"http://" + host) == b"http://" + host

    def _has_key(self, headers: dict[bytes, bytes]) -> bool:
        return hmac.compare_digest(headers.get(b"authorization", b""), self._authorization)


class _Unproven:
    """A WebSocket on which the application hears and says nothing until the first message has proved the key."""

    def __init__(self, receive: Receive, send: Send, token: str) -> None:
        self._receive = receive
        self._send = send
        self._token = token
        self._proven = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "websocket.receive" and not self._proven:
            self._proven = _proves(message.get("text") or "", self._token)
            if not self._proven:
                await self._send({"type": "websocket.close", "code": _VIOLATION})
                return {"type": "websocket.disconnect", "code": _VIOLATION}
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "websocket.send" and not self._proven:
            message = {"type": "websocket.close", "code": _VIOLATION}
        await self._send(message)


def _proves(text: str, token: str) -> bool:
    try:
        said = json.loads(text) if len(text) <= _LONGEST_PROOF else None
    except (ValueError, RecursionError):
        return False
    return (
        isinstance(said, dict)
        and said.get("type") == "auth"
        and hmac.compare_digest(str(said.get("token")).encode(errors="replace"), token.encode())
    )


async def _answer(send: Send, status: int, detail: str) -> None:
    body = json.dumps({"detail": detail}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _with_public_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *_PUBLIC_HEADERS]}
        await send(message)

    return sending
