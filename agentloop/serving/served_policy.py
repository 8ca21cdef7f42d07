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

    Requests that are in flight when vLLM ends fail at once; whoever asks `ready` waits until the next one answers. Of several
    servers the others are asked instead, also by requests that were in flight, while another is started in its place.
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
        self._replacing: asyncio.Task[None] | None = None
        """Replaces a server while others answer."""

    async def __aenter__(self) -> ServedPolicy:
        await self._connect()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._disconnect()

    async def __call__(
        self,
        prompt_ids: Sequence[int],
        *,
        max_tokens: int,
        seed: int,
        session: str,
        temperature: float | None = None,
    ) -> Completion:
        """Continue the prompt, at another `temperature` where one is given. Raises ServerError."""
        sampling = self._sampling if temperature is None else self._sampling | {"temperature": temperature}
        completion = await self._client.complete(
            self._model, prompt_ids, max_tokens=max_tokens, seed=seed, session=session, **sampling
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
        if self._replacing is not None and self._replacing.done():
            self._replacing = None

    async def lost(self) -> str | None:
        """After a request that failed: why the policy, or one of its servers, is out of reach; None where all answer."""
        if self._lost is None:
            asked = self._client
            faults = await asyncio.to_thread(self._server.failures)
            if asked is self._client and faults:  # else they are of servers that have been replaced meanwhile
                self._fail(faults)
                return faults[min(faults)]
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
        for task in (self._watch, self._replacing):
            if task is not None:
                task.cancel()
        self._replacing = None
        if self._client is not None:
            await self._client.__aexit__(None, None, None)
            self._client = None

    async def _notice_end(self) -> None:
        while len(deaths := self._server.deaths()) < self._server.size:
            if deaths:
                self._fail(deaths)
            await asyncio.sleep(_WATCH_SECONDS)
        self._fail(deaths)

    def _fail(self, faults: dict[int, str]) -> None:
        """The policy is lost with the last of its servers; before, what has failed is replaced beside the others."""
        reason = faults[min(faults)]
        if len(faults) == self._server.size:
            self._lose(reason)
        elif self._replacing is None and self._lost is None:
            self._replacing = asyncio.create_task(self._replace(reason))

    async def _replace(self, reason: str) -> None:
        if self._restarts == _MAX_RESTARTS:
            print(f"vLLM is not started again, the other servers go on without: {reason}")
            return  # until a shard is done
        self._restarts += 1
        print(f"vLLM is started again while the other servers go on: {reason}")
        try:
            await asyncio.to_thread(self._server.serve, self._adapter)
            self._client.use(self._server.endpoints)
        except AgentloopError as error:
            print(f"vLLM does not start again: {error}")
        self._replacing = None

    def _lose(self, reason: str | None) -> None:
        if reason is not None and self._lost is None:
            self._lost = reason
            self._client.give_up(reason)
