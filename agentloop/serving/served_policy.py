"""A policy that outlives its server: a vLLM that has died or hangs is replaced while a shard is collected."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from agentloop.errors import AgentloopError, ServerError, StartError
from agentloop.serving.client import Completion, CompletionClient
from agentloop.serving.policy_server import PolicyServer

_WATCH_SECONDS = 0.5
_MAX_RESTARTS = 3
"""Until a shard is done. A vLLM that ends more often does so for a reason that a restart does not mend."""


class ServedPolicy:
    """One adapter, or the base, behind a PolicyServer's vLLM. Use as `async with ServedPolicy(…) as policy`.

    Requests that are in flight when vLLM ends fail at once; whoever asks `ready` waits until the next one answers.
    """

    def __init__(self, server: PolicyServer, adapter: str | None, **sampling: Any) -> None:
        """`sampling`: what every request is sent with (temperature, top_p, stop_token_ids)."""
        self._server, self._adapter, self._sampling = server, adapter, sampling
        self._model = ""
        self._client: CompletionClient | None = None
        self._restarts = 0
        self._answered = True
        """False from a restart on, until the first answer."""
        self._lost: str | None = None
        """Why the policy is out of reach; None while it answers."""
        self.given_up = False
        """Whether `ready` has raised: for whoever asks again, it takes a new one."""
        self._mending = asyncio.Lock()
        self._watch: asyncio.Task[None] | None = None

    async def __aenter__(self) -> ServedPolicy:
        await self._connect()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._disconnect()

    async def __call__(self, prompt_ids: Sequence[int], *, max_tokens: int, seed: int, session: str) -> Completion:
        """Continue the prompt. Raises ServerError."""
        completion = await self._client.complete(
            self._model, prompt_ids, max_tokens=max_tokens, seed=seed, session=session, **self._sampling
        )
        self._answered = True
        return completion

    async def ready(self) -> None:
        """Return when the policy answers, after starting its server again where that is needed.

        Raises StartError where it does not start, or has answered nothing since it was started again, and ServerError
        where it has been lost more than `_MAX_RESTARTS` times while no shard was done.
        """
        if self._lost is None:
            return
        async with self._mending:
            if self._lost is None:
                return
            try:
                await self._mend(self._lost)
            except AgentloopError:
                self.given_up = True
                raise
            self._lost = None

    def shard_done(self) -> None:
        """A shard was collected: restarts so far do not count against the next ones."""
        self._restarts = 0

    async def lost(self) -> str | None:
        """After a request that failed: why the policy is out of reach, None where its server answers."""
        if self._lost is None:
            asked = self._client
            reason = await asyncio.to_thread(self._server.failure)
            if asked is self._client:  # else it is of a server that has been replaced meanwhile
                self._lose(reason)
        return self._lost

    async def _mend(self, reason: str) -> None:
        if self._restarts == _MAX_RESTARTS:
            raise ServerError(f"vLLM was lost {_MAX_RESTARTS + 1} times in one shard, the last time: {reason}")
        if not self._answered:
            raise StartError(f"vLLM was lost twice, and answered nothing in between: {reason}")
        self._restarts += 1
        self._answered = False
        print(f"vLLM is started again: {reason}")
        try:
            await self._disconnect()
            await self._connect()
        except asyncio.CancelledError:  # with the shard of who began it; it is for the next one to go on
            self._restarts -= 1
            self._answered = True
            raise

    async def _connect(self) -> None:
        self._model = await asyncio.to_thread(self._server.serve, self._adapter)
        self._client = await self._server.client().__aenter__()
        self._watch = asyncio.create_task(self._notice_end())

    async def _disconnect(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
        if self._client is not None:
            await self._client.__aexit__(None, None, None)
            self._client = None

    async def _notice_end(self) -> None:
        while (death := self._server.death()) is None:
            await asyncio.sleep(_WATCH_SECONDS)
        self._lose(death)

    def _lose(self, reason: str | None) -> None:
        if reason is not None and self._lost is None:
            self._lost = reason
            self._client.give_up(reason)
