"""The endpoint that an agent of one's own talks to: chat completions on loopback, with a key for each episode.

A request is its episode's by its key, which nobody but that episode's agent is given. Web pages are refused, with or without a
key, and so is every path but the two that are served.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson
from aiohttp import web

from agentloop.recording.chat import ChatMessage, ChatRequest, read_request
from agentloop.recording.episode import Answer, RecordedEpisode
from agentloop.recording.refusal import Refused
from agentloop.text import one_line_of

MODEL = "agentloop"
"""Name of the only model: the policy that the episode is of."""
_HOSTS = ("127.0.0.1", "localhost")
_MOST_BYTES = 64 << 20
_EVENTS = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
_RESPONSES = (
    "the Responses API is not served; use chat completions (OpenAI Agents SDK: "
    'set_default_openai_api("chat_completions"), or an OpenAIChatCompletionsModel)'
)


class RecordingServer:
    """Use as `async with RecordingServer() as server`."""

    def __init__(self) -> None:
        self._episodes: dict[bytes, RecordedEpisode] = {}
        self._url = ""

    @property
    def url(self) -> str:
        """Return the base URL for OpenAI's clients."""
        return self._url

    async def __aenter__(self) -> RecordingServer:
        application = web.Application(client_max_size=_MOST_BYTES)
        application.router.add_route("*", "/{path:.*}", self._respond)
        self._runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port = self._runner.addresses[0][1]
        self._url = f"http://127.0.0.1:{port}/v1"
        return self

    async def __aexit__(self, *_: Any) -> None:
        await self._runner.cleanup()

    @contextmanager
    def serving(self, episode: RecordedEpisode) -> Iterator[str]:
        """Answer the requests of an episode for the block; gives the key that they need."""
        key = f"sk-agentloop-{secrets.token_urlsafe(32)}"
        self._episodes[_digest(key)] = episode
        try:
            yield key
        finally:
            del self._episodes[_digest(key)]

    async def _respond(self, request: web.Request) -> web.StreamResponse:
        episode: RecordedEpisode | None = None
        try:
            episode = self._episode(request)
            if (request.method, request.path) == ("GET", "/v1/models"):
                return _json({"object": "list", "data": [_MODEL_CARD]})
            if (request.method, request.path) == ("GET", f"/v1/models/{MODEL}"):
                return _json(_MODEL_CARD)
            if request.path == "/v1/chat/completions":
                if request.method != "POST":
                    raise Refused(f"{request.method} is no way to ask for a completion: POST is", status=405)
                return await self._complete(request, episode)
            if request.path.startswith("/v1/responses"):
                raise Refused(_RESPONSES, status=404)
            path = one_line_of(request.path, most=80)
            raise Refused(f"{path} is not served; /v1/chat/completions and /v1/models are", status=404)
        except Refused as refused:
            if episode is not None:
                episode.refused[str(refused)] += 1
            return _error(refused)

    def _episode(self, request: web.Request) -> RecordedEpisode:
        """The episode that the request is of. Raises Refused for a web page, and for whoever has no key of a running one."""
        if request.host.partition(":")[0] not in _HOSTS or "Origin" in request.headers:
            raise Refused("not from this host, or from a web page", status=403)
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        found = self._episodes.get(_digest(key.strip())) if scheme.lower() == "bearer" else None
        if found is None:
            raise Refused(
                "this needs the key of an episode that is running (OPENAI_API_KEY)", status=401, code="invalid_api_key"
            )
        return found

    async def _complete(self, request: web.Request, episode: RecordedEpisode) -> web.StreamResponse:
        try:
            body = orjson.loads(await request.read())
        except orjson.JSONDecodeError as error:
            raise Refused(f"the body is no JSON ({error})") from None
        except web.HTTPRequestEntityTooLarge:
            raise Refused("the body is too large", status=413) from None
        asked = read_request(body)
        if asked.model != MODEL:
            name = one_line_of(asked.model, most=60)
            raise Refused(
                f"there is no model {name!r}; there is {MODEL!r} (OPENAI_MODEL)", status=404, code="model_not_found"
            )
        try:
            answer = await episode.answer(asked)
        except Refused:
            raise
        except Exception as error:  # the policy's: it ends the attempt, whatever the agent makes of it
            if not episode.over.done():
                episode.over.set_exception(error)
            raise Refused("the policy is out of reach; this attempt at the episode is over", status=503) from None
        if request.transport is None or request.transport.is_closing():
            episode.not_heard(answer)
        identity = f"chatcmpl-{secrets.token_hex(12)}"
        if asked.stream:
            return await _stream(request, asked, answer, identity)
        return _json(_completion(answer, identity))


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


_MODEL_CARD = {"id": MODEL, "object": "model", "created": 0, "owned_by": "agentloop"}


def _json(body: Any, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(body), status=status, content_type="application/json")


def _error(refused: Refused) -> web.Response:
    kind = "invalid_request_error" if refused.status < 500 else "server_error"
    error = {"message": str(refused), "type": kind, "param": refused.param, "code": refused.code}
    response = _json({"error": error}, refused.status)
    response.headers["x-should-retry"] = "false"  # OpenAI's clients would try again what stays as it is
    return response


def _usage(answer: Answer) -> dict[str, int]:
    prompt, completion = answer.prompt_tokens, answer.completion_tokens
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _message(message: ChatMessage) -> dict[str, Any]:
    if not message.calls:
        return {"role": "assistant", "content": message.text, "refusal": None}
    calls = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in message.calls
    ]
    return {"role": "assistant", "content": message.text or None, "refusal": None, "tool_calls": calls}


def _completion(answer: Answer, identity: str) -> dict[str, Any]:
    choice = {"index": 0, "message": _message(answer.message), "finish_reason": answer.finish_reason, "logprobs": None}
    return {
        "id": identity,
        "object": "chat.completion",
        "created": int(time.time()),
        "model": MODEL,
        "choices": [choice],
        "usage": _usage(answer),
    }


async def _stream(request: web.Request, asked: ChatRequest, answer: Answer, identity: str) -> web.StreamResponse:
    """The answer as events: it is whole already, so each part comes in one piece."""
    response = web.StreamResponse(headers=_EVENTS)
    await response.prepare(request)
    for chunk in _chunks(asked, answer, identity):
        await response.write(b"data: " + orjson.dumps(chunk) + b"\n\n")
    await response.write(b"data: [DONE]\n\n")
    await response.write_eof()
    return response


def _chunks(asked: ChatRequest, answer: Answer, identity: str) -> Iterator[dict[str, Any]]:
    about: dict[str, Any] = {
        "id": identity,
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": MODEL,
    }
    if asked.include_usage:
        about["usage"] = None

    def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        return about | {"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}]}

    message = _message(answer.message)
    yield chunk({"role": "assistant", "content": message["content"]})
    if "tool_calls" in message:
        yield chunk({"tool_calls": [{"index": place} | call for place, call in enumerate(message["tool_calls"])]})
    yield chunk({}, answer.finish_reason)
    if asked.include_usage:
        yield about | {"choices": [], "usage": _usage(answer)}
