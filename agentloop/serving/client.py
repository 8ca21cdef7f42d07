"""Completions from one or more vLLM endpoints: token ids in, token ids and log probabilities out.

A session (an episode) stays at one endpoint, where its prefix is cached; a new one goes where its opening prompt was read
before, by another sample of its task, unless clearly less is in flight elsewhere. Only a
connection that failed is tried again: the same request with the same seed gives the same answer. Whatever else goes wrong
is a ServerError, an infrastructure failure that the caller retries or records, never a score.

An endpoint that failed is set aside until it answers a probe. However many requests fail meanwhile, it is one outage, with
one probe at a time; those that have nowhere else to go wait for its end.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from agentloop import backoff
from agentloop.errors import ServerError
from agentloop.serving.connections import ConnectionLost, Connections
from agentloop.settings import Serving

GENERATE = "/inference/v1/generate"
"""Tokens in, tokens out: less work than /v1/completions for the API server, which at many requests holds the GPU up."""
COMPLETIONS = "/v1/completions"
FINAL_ONLY = 2
"""vLLM's RequestOutputKind: outputs are collected until the request has ended."""
_ATTEMPTS = 4
_FIRST_DELAY, _LONGEST_DELAY = 0.1, 2.0
_PROBE_SECONDS = 5.0
_OUTAGE_SECONDS = 30.0
"""So long a request waits where no endpoint answers: long enough for a restart of whatever stands between, and a vLLM that
has died is not hidden for long."""
_SESSIONS_REMEMBERED = 1 << 16
_LEANING = 4
"""Requests that an endpoint may have more in flight than another, and still get a session whose opening prompt it has read."""


@dataclass(frozen=True)
class Endpoint:
    url: str
    api_key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Completion:
    """The tokens that the model produced for one request."""

    token_ids: list[int]
    """The stop token included, where the model produced it."""
    logprobs: list[float]
    """Log probability of each token under the raw policy, before temperature and top_p. [len(token_ids)]"""
    finish_reason: str
    """"stop" where the model ended its turn, "length" where it was cut off."""


class _Seat:
    """An endpoint with what this client knows about it."""

    def __init__(self, endpoint: Endpoint, capacity: int) -> None:
        self.endpoint = endpoint
        self.url = endpoint.url.rstrip("/")
        self.connections = Connections(self.url, endpoint.api_key)
        self.slots = asyncio.Semaphore(capacity)
        self.waiting = 0
        """Requests in flight and requests that wait for a slot."""
        self.down_since = 0.0
        self.outage: asyncio.Task[None] | None = None
        """Ends when the endpoint answers again."""
        self.gone = False
        """For good."""

    @property
    def set_aside(self) -> bool:
        return self.gone or (self.outage is not None and not self.outage.done())


class CompletionClient:
    """Use as `async with CompletionClient(endpoints, settings.serving) as client`, in one event loop."""

    def __init__(self, endpoints: Sequence[Endpoint], serving: Serving) -> None:
        """At most serving.max_num_seqs requests are in flight at each endpoint: more would only wait in its queue."""
        self._capacity = serving.max_num_seqs
        self._seats = [_Seat(endpoint, self._capacity) for endpoint in endpoints]
        self._timeout = serving.request_seconds
        self._patience = min(_OUTAGE_SECONDS, serving.request_seconds)
        self._homes: OrderedDict[str, _Seat] = OrderedDict()
        """Where the requests of a session go."""
        self._openings: OrderedDict[int, _Seat] = OrderedDict()
        """Where a session went last that began with this prompt (its hash): the samples of one task share their prefix."""
        self._given_up: str | None = None
        self._closed = False

    async def __aenter__(self) -> CompletionClient:
        return self

    def use(self, endpoints: Sequence[Endpoint]) -> None:
        """Ask these endpoints from now on. What is in flight at others is asked again at one of these."""
        before = {seat.endpoint: seat for seat in self._seats}
        self._seats = [before.pop(endpoint, None) or _Seat(endpoint, self._capacity) for endpoint in endpoints]
        for seat in before.values():
            if seat.outage is not None:
                seat.outage.cancel()
            seat.gone = True
            seat.connections.close()

    def give_up(self, reason: str) -> None:
        """Fail every request, those in flight at once, with a ServerError that says why: the servers will not come back."""
        self._given_up = reason
        for seat in self._seats:
            if seat.set_aside:
                seat.outage.cancel()
        self._close()

    async def __aexit__(self, *_: Any) -> None:
        outages = [seat.outage for seat in self._seats if seat.set_aside]
        for outage in outages:
            outage.cancel()
        await asyncio.gather(*outages, return_exceptions=True)
        self._close()

    def _close(self) -> None:
        self._closed = True
        for seat in self._seats:
            seat.connections.close()

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
        sampling = {
            "max_tokens": max_tokens,
            "temperature": temperature,
            "top_p": top_p,
            "seed": seed,
            "stop_token_ids": list(stop_token_ids),
            "logprobs": 0,
            # Text that nobody reads and steps that nobody watches take most of the API server's time.
            "detokenize": False,
            "output_kind": FINAL_ONLY,
        }
        body = {"model": model, "token_ids": list(prompt_ids), "sampling_params": sampling}
        choice = (await self._request(GENERATE, body, session, prompt_ids))["choices"][0]
        logprobs = [token["logprob"] for token in choice["logprobs"]["content"]]
        return Completion(choice["token_ids"], logprobs, choice["finish_reason"])

    async def prompt_logprobs(self, model: str, token_ids: Sequence[int]) -> list[float]:
        """Log probability of each token given those before it. [len(token_ids) - 1]. Raises ServerError."""
        body = {"model": model, "prompt": list(token_ids), "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0}
        rows = (await self._request(COMPLETIONS, body, None, token_ids))["choices"][0]["prompt_logprobs"][1:]
        return [row[str(token)]["logprob"] for row, token in zip(rows, token_ids[1:], strict=True)]

    async def _request(
        self, path: str, body: dict[str, Any], session: str | None, prompt: Sequence[int]
    ) -> dict[str, Any]:
        payload = orjson.dumps(body)
        for attempt in range(_ATTEMPTS):
            seat = await self._seat(session, prompt)
            if self._given_up is not None:
                break
            seat.waiting += 1
            try:
                async with seat.slots:
                    return await self._post(seat, path, payload)
            except ConnectionLost as error:
                self._set_aside(seat)
                failure = str(error)
            finally:
                seat.waiting -= 1
            if self._given_up is not None:
                break
            await asyncio.sleep(pause(attempt))
        if self._given_up is not None:
            raise ServerError(self._given_up)
        raise ServerError(f"{seat.url}: {_ATTEMPTS} connections failed, the last: {failure}")

    async def _post(self, seat: _Seat, path: str, payload: bytes) -> dict[str, Any]:
        try:
            async with asyncio.timeout(self._timeout):
                status, content = await seat.connections.request("POST", path, payload)
        except TimeoutError:
            self._set_aside(seat)
            raise ServerError(f"{seat.url}: no answer within serving.request_seconds = {self._timeout:g}") from None
        if status == 200:
            return orjson.loads(content)
        if status >= 500:
            self._set_aside(seat)
        raise ServerError(f"{seat.url}: {status} {_message(content)}")

    async def _seat(self, session: str | None, prompt: Sequence[int]) -> _Seat:
        """Where the next request goes, as soon as there is an endpoint that answers. Raises ServerError."""
        # However long an outage has lasted, whoever comes now waits for one more probe.
        earliest = time.monotonic() + _LONGEST_DELAY
        while not (ready := [seat for seat in self._seats if not seat.set_aside]):
            latest = max(seat.down_since for seat in self._seats) + self._patience
            left = max(earliest, latest) - time.monotonic()
            if left <= 0:
                raise ServerError(f"no endpoint answers: {', '.join(seat.url for seat in self._seats)}")
            outages = [seat.outage for seat in self._seats]
            await asyncio.wait(outages, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        home = self._homes.get(session)
        if home is None or home.set_aside:
            home = min(ready, key=lambda seat: seat.waiting)
            if session is not None and len(self._seats) > 1:
                opening = hash(tuple(prompt))
                usual = self._openings.get(opening)
                if usual is not None and not usual.set_aside and usual.waiting - home.waiting < _LEANING:
                    home = usual
                _remember(self._openings, opening, home)
        if session is not None:
            _remember(self._homes, session, home)
        return home

    def _set_aside(self, seat: _Seat) -> None:
        """Ask the endpoint until it answers. Requests that fail meanwhile fail of the same outage."""
        if not seat.set_aside and not self._closed:
            seat.down_since = time.monotonic()
            seat.outage = asyncio.create_task(self._await_answer(seat))

    async def _await_answer(self, seat: _Seat) -> None:
        for attempt in itertools.count():
            if await self._answers(seat):
                return
            await asyncio.sleep(pause(attempt))

    async def _answers(self, seat: _Seat) -> bool:
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                status, _ = await seat.connections.request("GET", "/health")
                return status == 200
        except (ConnectionLost, TimeoutError):
            return False


def _remember(homes: OrderedDict[Any, _Seat], key: Any, seat: _Seat) -> None:
    homes[key] = seat
    homes.move_to_end(key)
    if len(homes) > _SESSIONS_REMEMBERED:
        homes.popitem(last=False)


def pause(attempt: int) -> float:
    """Seconds to wait after failed attempt number `attempt` (from 0)."""
    return backoff.pause(attempt, first=_FIRST_DELAY, longest=_LONGEST_DELAY)


def _message(content: bytes) -> str:
    """vLLM's complaint, in one line."""
    try:
        text = orjson.loads(content)["error"]["message"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        text = content.decode(errors="replace")
    return " ".join(text.split())[:500]
