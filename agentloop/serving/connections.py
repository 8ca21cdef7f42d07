"""HTTP/1.1 to one server, as much of it as requests for tokens need: connections stay open, an answer is read whole.

A general client spends more of the processor on a request than the rest of a turn does (benchmarks/rollout_load.py).
"""

from __future__ import annotations

import asyncio
import ssl
import time
from typing import cast
from urllib.parse import urlsplit

_IDLE_SECONDS = 4.0
"""After which a connection is not used again: servers close idle ones after 5 (uvicorn), and a request must not meet that."""


class ConnectionLost(Exception):
    """A connection that was refused or cut, or that brought something else than HTTP."""


class Connections:
    """Connections to one server, in one event loop; as many as there are requests at once."""

    def __init__(self, url: str, api_key: str) -> None:
        """`url`: `http://` or `https://`, with whatever all paths begin with."""
        parts = urlsplit(url)
        self._host, self._prefix = parts.hostname or "", parts.path.rstrip("/")
        self._ssl = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._ssl else 80)
        self._fields = (
            f"HTTP/1.1\r\nHost: {parts.netloc.rpartition('@')[2]}\r\nAuthorization: Bearer {api_key}\r\n"
            "Accept: */*\r\nContent-Type: application/json\r\nContent-Length: "
        )
        self._idle: list[_Connection] = []
        self._busy: set[_Connection] = set()
        self._closed = False

    async def request(self, method: str, path: str, payload: bytes = b"") -> tuple[int, bytes]:
        """Return status and body of the answer. If cancelled, the connection is cut, which tells the server.

        Raises ConnectionLost.
        """
        connection = self._rested() or await self._connected()
        self._busy.add(connection)
        try:
            if self._closed:
                raise ConnectionLost("the connections were closed")
            head = f"{method} {self._prefix}{path} {self._fields}{len(payload)}\r\n\r\n"
            answer = await connection.exchange(head.encode("latin-1") + payload)
        except BaseException:
            connection.cut()
            raise
        finally:
            self._busy.discard(connection)
        if connection.reusable:
            self._idle.append(connection)
        else:
            connection.cut()
        return answer

    def close(self) -> None:
        """Cut every connection, for good. Requests in flight end with ConnectionLost."""
        self._closed = True
        for connection in (*self._idle, *self._busy):
            connection.cut()
        self._idle.clear()

    def _rested(self) -> _Connection | None:
        """The connection that was used last, if it can be used again; those that cannot are dropped."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.lost and time.monotonic() - connection.rested_since < _IDLE_SECONDS:
                return connection
            connection.cut()
        return None

    async def _connected(self) -> _Connection:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(_Connection, self._host, self._port, ssl=self._ssl)
        except OSError as error:
            raise ConnectionLost(str(error)) from None
        return connection


class _Connection(asyncio.Protocol):
    """One request at a time and its answer."""

    def __init__(self) -> None:
        self.lost = False
        self.reusable = False
        self.rested_since = 0.0
        self._transport: asyncio.Transport
        self._received = bytearray()
        self._body: _Body | None = None
        """What is known of the answer's body, once its head has come."""
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    async def exchange(self, request: bytes) -> tuple[int, bytes]:
        self._answer = asyncio.get_running_loop().create_future()
        if self.lost:
            raise ConnectionLost("the server closed the connection")
        self._transport.write(request)
        return await self._answer

    def cut(self) -> None:
        self._transport.abort()
        self._fail("the connection was closed")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._answer is None or self._answer.done():
            self.cut()  # nobody has asked
            return
        self._received += data
        try:
            while self._body is None:
                head, found, rest = self._received.partition(b"\r\n\r\n")
                if not found:
                    return
                self._received = rest
                self._body = _Body.of(bytes(head))  # None for a word between, as `100 Continue`
            if (content := self._body.whole(self._received)) is not None:
                self._end(self._body, content)
        except ValueError as error:
            self._fail(f"what came is not HTTP: {error}")
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        if self._body is not None and self._body.until_closed and error is None:
            self._end(self._body, bytes(self._received))
        self._fail(str(error) if error else "the server closed the connection")

    def _end(self, body: _Body, content: bytes) -> None:
        self.reusable = body.stays_open and not self.lost
        self._body, self.rested_since = None, time.monotonic()
        self._received.clear()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result((body.status, content))

    def _fail(self, reason: str) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionLost(reason))


class _Body:
    """An answer's body, by what its head says of it."""

    def __init__(self, status: int, *, length: int | None, chunked: bool, stays_open: bool) -> None:
        self.status, self._length, self._chunked = status, length, chunked
        self.until_closed = length is None and not chunked
        self.stays_open = stays_open and not self.until_closed
        self._chunks: list[bytes] = []

    @classmethod
    def of(cls, head: bytes) -> _Body | None:
        """None where another head follows. Raises ValueError for what is none."""
        first, *lines = head.split(b"\r\n")
        version, _, rest = first.partition(b" ")
        if not version.startswith(b"HTTP/1."):
            raise ValueError(repr(bytes(first[:40])))
        status = int(rest[:3])
        if 100 <= status < 200:
            return None
        fields = {}
        for line in lines:
            name, _, value = line.partition(b":")
            fields[name.strip().lower()] = value.strip().lower()
        chunked = fields.get(b"transfer-encoding", b"").endswith(b"chunked")
        length = int(fields[b"content-length"]) if b"content-length" in fields and not chunked else None
        if status in (204, 304):
            length = 0
        stays_open = version == b"HTTP/1.1" and fields.get(b"connection") != b"close"
        return cls(status, length=length, chunked=chunked, stays_open=stays_open)

    def whole(self, received: bytearray) -> bytes | None:
        """The body, once all of it has come; what is taken of `received` is removed. Raises ValueError."""
        if self._chunked:
            return self._unchunked(received)
        if self._length is None or len(received) < self._length:
            return None
        return bytes(received[: self._length])

    def _unchunked(self, received: bytearray) -> bytes | None:
        while (end := received.find(b"\r\n")) >= 0:
            size = int(received[:end].partition(b";")[0], 16)
            following = end + 2 + size
            if size == 0:  # perhaps with fields behind it, up to an empty line
                return b"".join(self._chunks) if received.endswith(b"\r\n\r\n") else None
            if len(received) < following + 2:
                return None
            self._chunks.append(bytes(received[end + 2 : following]))
            del received[: following + 2]
        return None
