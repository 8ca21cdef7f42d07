"""An MCP server that a command starts: messages over its standard input and output, one JSON line each.

The `mcp` package has such a transport too, which starts the server in a session of its own. This one leaves it in the process
group of the episode's world, so that whoever ends the world ends the server, whatever it hangs in.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import mcp_types
from anyio.abc import ByteReceiveStream, Process
from mcp.shared.message import SessionMessage

from agentloop.exit_codes import ending
from agentloop.text import one_line_of

PASSED = ("PATH", "TMPDIR")
"""Variables that every server gets: without the first most commands are not found, and the other is the world's own folder."""
_MAX_MESSAGE_BYTES = 16 << 20
_MAX_WORDS_BYTES = 4000
_GRACE_SECONDS = 2.0
"""For a server to end once its input is closed, and again once it was told to."""
_LAST_WORDS_SECONDS = 1.0

_GONE = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, OSError)


class ServerProcess:
    """One run of the command. Enter `streams` once."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], folder: Path | None) -> None:
        """`environment`: all that it gets beyond PASSED. `folder`: to start it in; None: this process's."""
        self._command = list(command)
        self._environment = {name: os.environ[name] for name in PASSED if name in os.environ} | dict(environment)
        self._folder = folder
        self._words = b""
        """The end of what it wrote to standard error."""
        self.fault: str | None = None
        """What it did instead of answering, once it has: `its process ended with exit code 1`."""

    @asynccontextmanager
    async def streams(self) -> AsyncIterator[tuple[Any, Any]]:
        """Give the streams of messages from and to the server, as `mcp.Client` takes them. The server ends with the block."""
        process = await anyio.open_process(
            self._command, env=self._environment, cwd=self._folder, stderr=subprocess.PIPE
        )
        heard, received = anyio.create_memory_object_stream[Any](0)
        sent, to_say = anyio.create_memory_object_stream[Any](0)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._listen, process, heard)
            tasks.start_soon(_speak, process, to_say)
            tasks.start_soon(self._read_words, process)
            try:
                yield received, sent
            finally:
                with anyio.CancelScope(shield=True):
                    received.close()
                    sent.close()
                    await _end(process)
                tasks.cancel_scope.cancel()

    async def _listen(self, process: Process, heard: Any) -> None:
        """Pass messages on until something comes that is none, or nothing more. Whoever waits for an answer is then told."""
        assert process.stdout
        line = b""
        async with heard:
            try:
                async for line in _lines(process.stdout):
                    if line.strip():
                        message = mcp_types.jsonrpc_message_adapter.validate_json(line, by_name=False)
                        await heard.send(SessionMessage(message))
                self.fault = await self._ended(process)
            except _GONE:
                return  # this side has closed
            except ValueError:
                said = one_line_of(line.decode(errors="replace"), most=100)
                self.fault = f"wrote to its standard output what is no MCP message: {said!r}"

    async def _read_words(self, process: Process) -> None:
        assert process.stderr
        with suppress(*_GONE):
            while True:
                self._words = (self._words + await process.stderr.receive())[-_MAX_WORDS_BYTES:]

    async def _ended(self, process: Process) -> str:
        """How, and its last words: what it wrote just before may still arrive."""
        with anyio.move_on_after(_LAST_WORDS_SECONDS):
            await process.wait()
            await anyio.sleep(0.05)
        if process.returncode is None:
            return "closed its standard output"
        lines = self._words.decode(errors="replace").strip().splitlines()
        return f"its process {ending(process.returncode)}" + (f": {one_line_of(lines[-1], most=200)}" if lines else "")


async def _lines(stream: ByteReceiveStream) -> AsyncIterator[bytes]:
    """Raises ValueError for a line without end."""
    buffer = bytearray()
    with suppress(anyio.EndOfStream):
        while True:
            part = await stream.receive()
            buffer += part
            if b"\n" in part:
                *lines, rest = buffer.split(b"\n")
                buffer = rest
                for line in lines:
                    yield bytes(line)
            if len(buffer) > _MAX_MESSAGE_BYTES:
                raise ValueError


async def _speak(process: Process, to_say: Any) -> None:
    assert process.stdin
    with suppress(*_GONE):
        async with to_say:
            async for each in to_say:
                text = each.message.model_dump_json(by_alias=True, exclude_unset=True)
                await process.stdin.send(text.encode() + b"\n")


async def _end(process: Process) -> None:
    """As the protocol asks: close its input, and where it does not end by that tell it to, and at last make it."""
    assert process.stdin
    with suppress(*_GONE):
        await process.stdin.aclose()
    for end in (process.terminate, process.kill, None):
        with anyio.move_on_after(_GRACE_SECONDS):
            while process.returncode is None:  # process.wait() would also wait for children that hold its pipes
                await anyio.sleep(0.01)
        if process.returncode is not None or end is None:
            break
        with suppress(ProcessLookupError):
            end()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            with suppress(*_GONE):
                await stream.aclose()
