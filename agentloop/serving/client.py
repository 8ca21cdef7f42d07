"""Completions from one or more vLLM endpoints: token ids in, token ids and log probabilities out.

A session (an episode) stays at one endpoint, where its prefix is cached; a new one goes where least is in flight. Only a
connection that failed is tried again: the same request with the same seed gives the same answer. Whatever else goes wrong
is a ServerError, an infrastructure failure that the caller retries or records, never a score.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson

from agentloop.errors import ServerError
from agentloop.settings import Serving

_ATTEMPTS = 4
_FIRST_DELAY, _LONGEST_DELAY = 0.1, 2.0
_FAILURES_TO_SET_ASIDE = 3
_PROBE_DELAY, _LONGEST_PROBE_DELAY, _PROBE_TIMEOUT = 0.5, 30.0, 5.0
_SESSIONS_REMEMBERED = 1 << 16


@dataclass(frozen=True)
class Endpoint:
    url: str
    api_key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Completion:
    """What the model produced."""

    token_ids: list[int]
    """The stop token included, where the model produced it."""
    logprobs: list[float]
    """Log probability of each token under the raw policy, before temperature and top_p. [len(token_ids)]"""
    finish_reason: str
    """"stop" where the model ended its turn, "length" where it was cut off."""


class _Seat:
    """An endpoint with what this client knows about it."""

    def __init__(self, endpoint: Endpoint, capacity: int) -> None:
        self.url = endpoint.url.rstrip("/")
        self.headers = {"Authorization": f"Bearer {endpoint.api_key}", "Content-Type": "application/json"}
        self.slots = asyncio.Semaphore(capacity)
        self.waiting = 0
        """Requests in flight and requests that wait for a slot."""
        self.failures = 0
        """In a row."""
        self.probe_at = 0.0
        self.probe_delay = _PROBE_DELAY

    @property
    def set_aside(self) -> bool:
        return self.failures >= _FAILURES_TO_SET_ASIDE

    def succeeded(self) -> None:
        self.failures, self.probe_delay = 0, _PROBE_DELAY

    def failed(self) -> None:
        self.failures += 1
        if self.set_aside:
            self.probe_at = time.monotonic() + self.probe_delay
            self.probe_delay = min(2 * self.probe_delay, _LONGEST_PROBE_DELAY)


class CompletionClient:
    """Use as `async with CompletionClient(endpoints, settings.serving) as client`, in one event loop."""

    def __init__(self, endpoints: Sequence[Endpoint], serving: Serving) -> None:
        """At most serving.max_num_seqs requests are in flight at each endpoint: more would only wait in its queue."""
        self._seats = [_Seat(endpoint, serving.max_num_seqs) for endpoint in endpoints]
        self._timeout = serving.request_seconds
        self._homes: OrderedDict[str, _Seat] = OrderedDict()
        self._http: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> CompletionClient:
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60),
            timeout=aiohttp.ClientTimeout(total=self._timeout),
        )
        return self

    async def __aexit__(self, *_: Any) -> None:
        await self._http.close()

    async def complete(
        self,
        model: str,
        prompt_ids: Sequence[int],
        *,
        max_tokens: int,
        temperature: float = 1.0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop_token_ids: Sequence[int] = (),
        session: str | None = None,
    ) -> Completion:
        """Continue `prompt_ids` with `model`, which is an adapter's id or ModelServer.model_name. Raises ServerError."""
        choice = await self._request(
            {
                "model": model,
                "prompt": list(prompt_ids),
                "max_tokens": max_tokens,
                "temperature": temperature,
                "top_p": top_p,
                "seed": seed,
                "stop_token_ids": list(stop_token_ids),
                "logprobs": 0,
                "return_token_ids": True,
            },
            session,
        )
        return Completion(choice["token_ids"], choice["logprobs"]["token_logprobs"], choice["finish_reason"])

    async def prompt_logprobs(self, model: str, token_ids: Sequence[int]) -> list[float]:
        """Log probability of each token given those before it. [len(token_ids) - 1]. Raises ServerError."""
        choice = await self._request(
            {
                "model": model,
                "prompt": list(token_ids),
                "max_tokens": 1,
                "temperature": 0.0,
                "prompt_logprobs": 0,
            },
            None,
        )
        rows = choice["prompt_logprobs"][1:]
        return [row[str(token)]["logprob"] for row, token in zip(rows, token_ids[1:], strict=True)]

    async def _request(self, body: dict[str, Any], session: str | None) -> dict[str, Any]:
        """The first choice of the answer."""
        payload = orjson.dumps(body)
        for attempt in range(_ATTEMPTS):
            seat = await self._seat(session)
            seat.waiting += 1
            try:
                async with seat.slots:
                    return await self._post(seat, payload)
            except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as error:
                # the second where the connection broke in the middle of an answer
                seat.failed()
                failure = str(error) or type(error).__name__
            finally:
                seat.waiting -= 1
            await asyncio.sleep(pause(attempt))
        raise ServerError(f"{seat.url}: {_ATTEMPTS} connections failed, the last: {failure}")

    async def _post(self, seat: _Seat, payload: bytes) -> dict[str, Any]:
        try:
            async with self._http.post(f"{seat.url}/v1/completions", data=payload, headers=seat.headers) as response:
                content = await response.read()
        except TimeoutError:
            raise ServerError(f"{seat.url}: no answer within serving.request_seconds = {self._timeout:g}") from None
        if response.status == 200:
            seat.succeeded()
            return orjson.loads(content)["choices"][0]
        if response.status >= 500:
            seat.failed()
        raise ServerError(f"{seat.url}: {response.status} {_message(content)}")

    async def _seat(self, session: str | None) -> _Seat:
        """Where the next request goes. Endpoints that were set aside are asked now and then whether they are back."""
        now = time.monotonic()
        due = [seat for seat in self._seats if seat.set_aside and seat.probe_at <= now]
        if due:
            await asyncio.gather(*map(self._probe, due))
        ready = [seat for seat in self._seats if not seat.set_aside]
        if not ready:
            raise ServerError(f"no endpoint answers: {', '.join(seat.url for seat in self._seats)}")
        home = self._homes.get(session)
        if home is None or home.set_aside:
            home = min(ready, key=lambda seat: seat.waiting)
        if session is not None:
            self._homes[session] = home
            self._homes.move_to_end(session)
            if len(self._homes) > _SESSIONS_REMEMBERED:
                self._homes.popitem(last=False)
        return home

    async def _probe(self, seat: _Seat) -> None:
        seat.probe_at = time.monotonic() + seat.probe_delay
        try:
            async with self._http.get(
                f"{seat.url}/health", timeout=aiohttp.ClientTimeout(total=_PROBE_TIMEOUT)
            ) as response:
                healthy = response.status == 200
        except (aiohttp.ClientConnectionError, TimeoutError):
            healthy = False
        seat.succeeded() if healthy else seat.failed()


def pause(attempt: int) -> float:
    """Seconds to wait after failed attempt number `attempt` (from 0): twice as long each time, and not all at once."""
    return min(_FIRST_DELAY * 2**attempt, _LONGEST_DELAY) * random.uniform(0.5, 1.0)


def _message(content: bytes) -> str:
    """vLLM's complaint, in one line."""
    try:
        text = orjson.loads(content)["error"]["message"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        text = content.decode(errors="replace")
    return " ".join(text.split())[:500]
