"""Ways to the real server that can be cut and mended."""

import asyncio
from collections.abc import Awaitable, Callable

from agentloop.serving.client import CompletionClient, Endpoint
from agentloop.serving.server import ModelServer
from agentloop.settings import Serving


class Relay:
    """Passes every byte on and counts requests; can be cut, which refuses connections, and mended."""

    def __init__(self, server: ModelServer) -> None:
        self._server = server
        self._tasks: set[asyncio.Task] = set()
        self._listener: asyncio.Server | None = None
        self.port = 0
        self.requests = 0
        self.connections = 0
        self.answers_to_break = 0
        """So many of the next answers end after their first bytes."""
        self.unavailable = False
        """Completions are answered 503, as by a proxy that has lost its server, though probes are answered."""
        self.refused = 0

    async def mend(self) -> None:
        self._listener = await asyncio.start_server(self._connect, "127.0.0.1", self.port)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        self._listener.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.sleep(0.05)

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(f"http://127.0.0.1:{self.port}", self._server.api_key)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._tasks.add(asyncio.current_task())
        onward_reader, onward_writer = await asyncio.open_connection("127.0.0.1", self._server.port)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass(reader, onward_writer, back=writer))
                group.create_task(self._pass(onward_reader, writer))
        finally:
            self._tasks.discard(asyncio.current_task())
            writer.transport.abort()
            onward_writer.transport.abort()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, back: asyncio.StreamWriter | None = None
    ) -> None:
        """`back`: where answers go, given for the direction of requests."""
        while data := await reader.read(65536):
            completions = data.count(b"POST /inference/v1/generate") if back else 0
            if completions and self.unavailable:
                self.refused += 1
                back.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                break
            self.requests += completions
            if self.answers_to_break and not back:
                self.answers_to_break -= 1
                data = data[: data.index(b"\r\n\r\n") + 10]
                writer.write(data)
                break
            writer.write(data)
        writer.close()


def client_of(*endpoints: Endpoint, **serving) -> CompletionClient:
    return CompletionClient(endpoints, Serving(**serving))


def with_relays(server: ModelServer, number: int, test: Callable[..., Awaitable[None]]) -> None:
    """Run `test(relay, …)` with so many ways to the server."""

    async def run():
        relays = [Relay(server) for _ in range(number)]
        for relay in relays:
            await relay.mend()
        try:
            await test(*relays)
        finally:
            for relay in relays:
                await relay.cut()

    asyncio.run(run())
