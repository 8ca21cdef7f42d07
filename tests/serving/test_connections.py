"""The client's connections against servers that say what they are told to: every way in which HTTP lets an answer be written."""

import asyncio

import pytest

from agentloop.serving import connections
from agentloop.serving.connections import ConnectionLost, Connections

BODY = b'{"a": 1}'
WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n" + BODY


class Server:
    """Answers each request of a connection with the next of `answers`; None closes the connection instead."""

    def __init__(self, *answers: bytes | None, step: int = 1 << 16, close: bool = False) -> None:
        self._answers, self._step, self._close = list(answers), step, close
        self.requests: list[bytes] = []
        self.connections = 0
        self.cut = asyncio.Event()

    async def __aenter__(self) -> Connections:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        self.client = Connections(f"http://127.0.0.1:{self.port}/below/", "secret")
        return self.client

    async def __aexit__(self, *_) -> None:
        self.client.close()
        self._server.close()

    async def _serve(self, reader, writer) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().partition(b"content-length:")[2].split()[0])
                self.requests.append(head + await reader.readexactly(length))
                answer = self._answers.pop(0)
                if answer is None:
                    break
                for start in range(0, len(answer), self._step):
                    writer.write(answer[start : start + self._step])
                    await writer.drain()
                    await asyncio.sleep(0)
                if self._close:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            self.cut.set()
        writer.close()


def answered(*answers, **options):
    """What a client is answered in turn, and the server."""

    async def run():
        server = Server(*answers, **options)
        async with server as client:
            return [await client.request("POST", "/x", b"body") for _ in answers], server

    return asyncio.run(run())


@pytest.mark.parametrize("step", [1, 7, 1 << 16])
@pytest.mark.parametrize(
    "answer",
    [
        WHOLE,
        b"HTTP/1.1 100 Continue\r\n\r\n" + WHOLE,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n"
        + BODY[:3]
        + b"\r\n5;x=y\r\n"
        + BODY[3:]
        + b"\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n8\r\n" + BODY + b"\r\n0\r\nX-Sum: 1\r\n\r\n",
    ],
)
def test_an_answer_is_whole_however_it_comes_and_the_connection_stays(answer, step):
    found, server = answered(answer, WHOLE, step=step)
    assert found == [(200, BODY)] * 2 and server.connections == 1
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /below/x HTTP/1.1\r\n") and body == b"body"
    assert {b"Authorization: Bearer secret", f"Host: 127.0.0.1:{server.port}".encode()} <= set(head.split(b"\r\n"))


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 8\r\n\r\n" + BODY,
        b"HTTP/1.0 200 OK\r\nContent-Length: 8\r\n\r\n" + BODY,
        b"HTTP/1.1 200 OK\r\n\r\n" + BODY,
    ],
)
def test_a_connection_that_does_not_stay_is_not_used_again(answer):
    found, server = answered(answer, answer, close=True)
    assert found == [(200, BODY)] * 2 and server.connections == 2


def test_a_refusal_is_an_answer():
    found, _ = answered(b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nno", b"HTTP/1.1 204 No Content\r\n\r\n")
    assert found == [(404, b"no"), (204, b"")]


@pytest.mark.parametrize(
    "answer, reason",
    [
        (None, "the server closed the connection"),
        (WHOLE[:-1], "the server closed the connection"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "what came is not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n", "what came is not HTTP"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "what came is not HTTP"),
    ],
)
def test_what_breaks_off_or_is_no_http_is_a_lost_connection(answer, reason):
    with pytest.raises(ConnectionLost, match=reason):
        answered(answer, close=True)


def test_nobody_listens():
    async def run():
        async with Server() as client:
            pass
        again = Connections(f"http://127.0.0.1:{client._port}", "")
        await again.request("GET", "/health")

    with pytest.raises(ConnectionLost, match="refused|Connect call failed"):
        asyncio.run(run())


def test_an_idle_connection_that_was_closed_or_is_old_is_replaced(monkeypatch):
    async def run():
        async with (server := Server(WHOLE, WHOLE, WHOLE)) as client:
            await client.request("POST", "/x")
            client._idle[0]._transport.abort()  # as the server's end, told in between
            await asyncio.sleep(0)
            await client.request("POST", "/x")
            assert server.connections == 2
            monkeypatch.setattr(connections, "_IDLE_SECONDS", 0.0)
            await client.request("POST", "/x")
            assert server.connections == 3

    asyncio.run(run())


def test_who_is_cancelled_cuts_the_connection_and_closing_ends_what_is_in_flight():
    async def run():
        async with (server := Server(b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\n")) as client:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await client.request("POST", "/x")
            await server.cut.wait()
            waiting = asyncio.create_task(client.request("POST", "/x"))
            while len(server.requests) < 2:
                await asyncio.sleep(0.001)
            client.close()
            with pytest.raises(ConnectionLost, match="closed"):
                await waiting
            with pytest.raises(ConnectionLost, match="closed"):
                await client.request("POST", "/x")

    asyncio.run(run())
