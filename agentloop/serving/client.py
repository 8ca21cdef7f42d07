"""A client of one or more vLLM servers: token ids in, token ids and logprobs out, nothing tokenised on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from agentloop.errors import ServerError
from agentloop.settings import Serving

CONNECT_ATTEMPTS = 3
BACKOFF_SECONDS = 0.2


@dataclass(frozen=True)
class Endpoint:
    url: str
    api_key: str


@dataclass(frozen=True)
class Completion:
    token_ids: tuple[int, ...]
    """The stop token included, where the model produced it."""
    logprobs: tuple[float, ...]
    """Of the produced tokens under the raw distribution, before temperature."""
    finish_reason: str
    """"stop" or "length"."""


class CompletionClient:
    """Requests spread over the endpoints, each session on one of them. Use as an async context manager."""

    def __init__(self, endpoints: Sequence[Endpoint], serving: Serving) -> None:
        self._endpoints, self._serving = list(endpoints), serving
        self._in_flight = [0] * len(self._endpoints)
        self._homes: dict[str, int] = {}

    async def __aenter__(self) -> CompletionClient:
        self._http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), trust_env=False,
                                           timeout=aiohttp.ClientTimeout(total=self._serving.request_seconds))
        return self

    async def __aexit__(self, *_: Any) -> None:
        await self._http.close()

    async def complete(self, model: str, prompt_ids: Sequence[int], *, max_tokens: int, temperature: float, top_p: float, seed: int,
                       stop_token_ids: Sequence[int], session: str | None = None) -> Completion:
        """Raises ServerError where no endpoint answers or one answers with an error."""
        body = {"model": model, "prompt": list(prompt_ids), "max_tokens": max_tokens, "temperature": temperature, "top_p": top_p,
                "seed": seed, "stop_token_ids": list(stop_token_ids), "logprobs": 0, "return_token_ids": True,
                "skip_special_tokens": False}
        choice = (await self._post(body, session))["choices"][0]
        return Completion(tuple(choice["token_ids"]), tuple(choice["logprobs"]["token_logprobs"]), choice["finish_reason"])

    async def prompt_logprobs(self, model: str, token_ids: Sequence[int]) -> list[float]:
        """Log probability of each token given those before it. [len(token_ids) - 1]"""
        body = {"model": model, "prompt": list(token_ids), "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0}
        rows = (await self._post(body, None))["choices"][0]["prompt_logprobs"]
        return [row[str(token)]["logprob"] for token, row in zip(token_ids[1:], rows[1:], strict=True)]

    async def _post(self, body: dict[str, Any], session: str | None) -> dict[str, Any]:
        place = self._home(session)
        endpoint = self._endpoints[place]
        self._in_flight[place] += 1
        try:
            for attempt in range(1, CONNECT_ATTEMPTS + 1):
                try:
                    async with self._http.post(f"{endpoint.url}/v1/completions", data=orjson.dumps(body), headers={
                            "Content-Type": "application/json", "Authorization": f"Bearer {endpoint.api_key}"}) as response:
                        content = await response.read()
                        if response.status != 200:
                            raise ServerError(f"vLLM answered {response.status}: {content[:300].decode(errors='replace')}")
                        return orjson.loads(content)
                except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as error:
                    if attempt == CONNECT_ATTEMPTS:
                        raise ServerError(f"vLLM at {endpoint.url} does not answer: {error!r}") from error
                    await asyncio.sleep(BACKOFF_SECONDS * 2**attempt)
        finally:
            self._in_flight[place] -= 1
        raise AssertionError("unreachable")

    def _home(self, session: str | None) -> int:
        idlest = min(range(len(self._endpoints)), key=self._in_flight.__getitem__)
        return idlest if session is None else self._homes.setdefault(session, idlest)
