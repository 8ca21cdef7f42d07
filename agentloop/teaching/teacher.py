"""A teacher behind any OpenAI-compatible endpoint (/v1/chat/completions): a policy whose words become the student's tokens.

For every turn it is sent the conversation so far. What it says is put into the student's tokens and judged like anything that
a model says; its mistakes go back to it. The key is sent to the endpoint and nowhere else, also not into a message.
"""

from __future__ import annotations

import ast
import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp

from agentloop import backoff
from agentloop.errors import ServerError, TeacherError
from agentloop.loopback import is_local
from agentloop.rollout.grammar import ANSWER, FENCE, RESULT_FENCE, GrammarError, ToolCall, call_text, parse
from agentloop.rollout.prompt import PromptFormat, described
from agentloop.settings import Teach
from agentloop.teaching.script import Spoken
from agentloop.text import encodable, one_line_of
from agentloop.worlds.stage import WorldDescription
from agentloop.worlds.toolbox import ToolDescription

_ATTEMPTS = 4
_FIRST_DELAY, _LONGEST_DELAY = 0.5, 60.0
_FATAL = (401, 402, 403, 404, 405, 410)
"""Answers that another conversation, or another try, would get as well."""
_BUSY = 429
_NOT_EVERYWHERE = {"max_tokens": "max_completion_tokens", "temperature": None, "seed": None}
"""What some endpoints refuse, and what they take instead."""
_KINDS = {"str": "string", "int": "integer", "float": "number", "bool": "boolean", "list": "array", "dict": "object"}
_HINT = f"\n\nWhen you know the answer, end your message with this line:\n{ANSWER}the answer alone"


@dataclass
class Usage:
    """The use that was made of the endpoint. Tokens as it counts them."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0


class Endpoint:
    """Chat completions at one URL. Use as `async with Endpoint(…) as endpoint`, in one event loop."""

    def __init__(self, url: str, teach: Teach) -> None:
        self.url = url
        self.usage = Usage()
        self._teach = teach
        self._key = teach.key()
        self._http: aiohttp.ClientSession | None = None
        self._refused: set[str] = set()
        """Of _NOT_EVERYWHERE."""
        self._free_at = 0.0
        """Until then nobody asks: the endpoint said so (time.monotonic)."""

    async def __aenter__(self) -> Endpoint:
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self._http = aiohttp.ClientSession(
            headers=headers,
            trust_env=not is_local(self.url),
            timeout=aiohttp.ClientTimeout(total=self._teach.request_seconds),
        )
        return self

    async def __aexit__(self, *_: Any) -> None:
        await self._http.close()

    async def only_model(self) -> str:
        """Return what the endpoint calls the one model that it serves.

        Raises TeacherError where there is another number of them.
        """
        url = f"{self.url.removesuffix('/chat/completions')}/models"
        answer = await self._asked("GET", url, None)
        try:
            names = [model["id"] for model in answer["data"]]
        except (KeyError, TypeError):
            raise TeacherError(f"{url}: names no models; set teach.teacher_model") from None
        if len(names) != 1:
            shown = ", ".join(map(str, names[:10])) or "none"
            raise TeacherError(f"{url}: serves {len(names)} models ({shown}); set teach.teacher_model")
        return names[0]

    async def complete(self, body: dict[str, Any]) -> tuple[dict[str, Any], str]:
        """The message that continues the conversation, and why it ended.

        Raises TeacherError where nothing that is asked would be answered, ServerError where this is not.
        """
        while True:
            try:
                answer = await self._asked("POST", self.url, self._adapted(body))
                break
            except ServerError as error:
                refused = [name for name in _NOT_EVERYWHERE if name in str(error) and name not in self._refused]
                if not refused:
                    raise
                self._refused.update(refused)
                print(f"{error}: asked without {' and '.join(refused)} from now on")
        try:
            choice = answer["choices"][0]
            message, reason = choice["message"], choice.get("finish_reason") or "stop"
            if not isinstance(message, dict):
                raise TypeError
        except (KeyError, IndexError, TypeError):
            raise TeacherError(f"{self.url}: the answer is no chat completion: {self._shown(answer)}") from None
        counted = answer.get("usage") or {}
        self.usage.prompt_tokens += counted.get("prompt_tokens") or 0
        self.usage.completion_tokens += counted.get("completion_tokens") or 0
        return message, reason

    def _adapted(self, body: dict[str, Any]) -> dict[str, Any]:
        """The request without what the endpoint has refused."""
        named = {_NOT_EVERYWHERE[name] if name in self._refused else name: value for name, value in body.items()}
        return {name: value for name, value in named.items() if name is not None}

    async def _asked(self, method: str, url: str, body: dict[str, Any] | None) -> Any:
        attempt = 0
        while True:
            await self._wait_until_free()
            self.usage.requests += 1
            try:
                async with self._http.request(method, url, json=body, allow_redirects=False) as response:
                    content = await response.read()
            except TimeoutError:
                failure = f"no answer within teach.request_seconds = {self._teach.request_seconds:g}"
            except aiohttp.ClientError as error:
                failure = self._shown(str(error) or type(error).__name__)
            except ValueError as error:  # nothing that could be asked
                raise TeacherError(f"{url}: {self._shown(error)}") from None
            else:
                if response.status == 200:
                    return self._parsed(url, content)
                failure = f"{response.status} {self._complaint(content)}"
                if response.status == _BUSY and not _spent(content):
                    self._hold(response.headers.get("Retry-After"), attempt)
                    attempt += 1
                    continue  # however often: waiting is what it asks for
                self._refuse(url, response.status, failure)
            attempt += 1
            if attempt >= _ATTEMPTS:
                raise TeacherError(f"{url}: {failure} ({_ATTEMPTS} tries)")
            await asyncio.sleep(backoff.pause(attempt, first=_FIRST_DELAY, longest=_LONGEST_DELAY))

    def _refuse(self, url: str, status: int, failure: str) -> None:
        """Raises what another try would not mend."""
        if status in (401, 403):
            raise TeacherError(
                f"{url}: {failure} (the key is that of the environment variable {self._teach.key_variable})"
            )
        if status in _FATAL or status == _BUSY or 300 <= status < 400:
            raise TeacherError(f"{url}: {failure}")
        if status < 500:
            raise ServerError(f"{url}: {failure}")

    async def _wait_until_free(self) -> None:
        while (left := self._free_at - time.monotonic()) > 0:
            await asyncio.sleep(left)

    def _hold(self, retry_after: str | None, attempt: int) -> None:
        seconds = _seconds(retry_after)
        if seconds is None:
            seconds = backoff.pause(attempt, first=_FIRST_DELAY, longest=_LONGEST_DELAY)
        self._free_at = max(self._free_at, time.monotonic() + seconds)
        if seconds >= 10:
            print(f"{self.url}: asks to wait {seconds:.0f} s")

    def _parsed(self, url: str, content: bytes) -> Any:
        try:
            answer = json.loads(content)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise TeacherError(f"{url}: the answer is not a JSON object: {self._complaint(content)}")
        return answer

    def _complaint(self, content: bytes) -> str:
        try:
            found = json.loads(content)
            found = found["error"]["message"] if isinstance(found["error"], dict) else found["error"]
        except (ValueError, KeyError, TypeError, RecursionError):
            found = content.decode(errors="replace")
        return self._shown(found)

    def _shown(self, said: object) -> str:
        """On one line, and without the key, which some endpoints repeat."""
        text = one_line_of(said, most=100_000)
        return one_line_of(text.replace(self._key, "…") if self._key else text, most=300)


class Teacher:
    """The policy. An episode may be introduced by `meet` before its first turn; else its opening is what the student reads."""

    def __init__(self, endpoint: Endpoint, model: str, teach: Teach, prompt: PromptFormat) -> None:
        self._endpoint, self._model, self._teach, self._prompt = endpoint, model, teach, prompt
        self._openings: dict[str, tuple[str, list[dict[str, Any]] | None]] = {}
        """The first message and the tools to be sent, by session."""
        self._lost: TeacherError | None = None

    def meet(self, session: str, question: str, world: WorldDescription) -> None:
        """Note what an episode begins with, whatever the student's own prompt is."""
        if self._teach.calls == "native":
            before = "" if world.instructions is None else f"{world.instructions}\n\n"
            hint = _HINT if world.answers else ""
            self._openings[session] = (f"{before}{question}{hint}", [_schema(tool) for tool in world.tools])
        else:
            self._openings[session] = (described(question, world) if self._teach.calls == "text" else question, None)

    async def __call__(self, prompt_ids: Sequence[int], *, max_tokens: int, seed: int, session: str) -> Spoken:
        """The teacher's next turn in the student's tokens. Raises TeacherError, ServerError."""
        texts = self._prompt.conversation(prompt_ids)
        opening, tools = self._openings.get(session, (texts[0], None))
        body = {
            "model": self._model,
            "messages": _native(opening, texts[1:]) if tools is not None else _plain(opening, texts[1:]),
            "temperature": self._teach.temperature,
            "max_tokens": self._teach.max_turn_tokens,
            "seed": seed,
        }
        try:
            message, reason = await self._endpoint.complete(body | ({"tools": tools} if tools else {}))
        except TeacherError as error:
            self._lost = self._lost or error
            raise
        text = _said(message)
        if reason == "length":
            return Spoken(self._prompt.spoken(text)[:-1][:max_tokens], "length")
        return Spoken.of(text, self._prompt, max_tokens=max_tokens)

    async def ready(self) -> None:
        """Raises TeacherError where the endpoint answers nothing."""
        if self._lost is not None:
            raise self._lost

    async def lost(self) -> str | None:
        return None if self._lost is None else str(self._lost)


def _plain(opening: str, later: Sequence[str]) -> list[dict[str, Any]]:
    """What was said after the opening alternates: the model, a tool's result, the model, …"""
    roles = ("assistant", "user")
    return [
        {"role": "user", "content": opening},
        *({"role": roles[place % 2], "content": text} for place, text in enumerate(later)),
    ]


def _native(opening: str, later: Sequence[str]) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = [{"role": "user", "content": opening}]
    for place in range(0, len(later), 2):
        said, result = later[place], later[place + 1].removeprefix(RESULT_FENCE).removesuffix(f"\n{FENCE}")
        try:
            call = parse(said)
        except GrammarError:
            call = None
        if not isinstance(call, ToolCall):  # a mistake, and what it was told
            messages += [{"role": "assistant", "content": said}, {"role": "user", "content": result}]
            continue
        name = f"call_{place // 2}"
        function = {"name": call.name, "arguments": json.dumps(call.kwargs, ensure_ascii=False)}
        before = said.partition(FENCE)[0].strip()
        messages += [
            {
                "role": "assistant",
                "content": before or None,
                "tool_calls": [{"id": name, "type": "function", "function": function}],
            },
            {"role": "tool", "tool_call_id": name, "content": result},
        ]
    return messages


def _said(message: dict[str, Any]) -> str:
    """The message as the student would write it; of several calls the first, for a turn has one."""
    content = message.get("content")
    text = encodable(content).replace("\0", "").strip() if isinstance(content, str) else ""
    calls = message.get("tool_calls")
    if not isinstance(calls, list) or not calls:
        return text
    try:
        function = calls[0]["function"]
        arguments = json.loads(function.get("arguments") or "{}")
        call = call_text(function["name"], (), dict(arguments))
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        call = one_line_of(calls[0], most=300)  # the student's grammar refuses it, as it would the student's own
    call = encodable(call)
    return f"{text}\n{call}" if text else call


def _schema(tool: ToolDescription) -> dict[str, Any]:
    """A tool for the endpoint's `tools`, from its Python signature."""
    function = {"name": tool.name, "description": tool.description, "parameters": _parameters(tool.signature)}
    return {"type": "function", "function": function}


def _parameters(signature: str) -> dict[str, Any]:
    try:
        given = ast.parse(f"def tool{signature}: ...").body[0].args
    except (SyntaxError, ValueError):  # a default whose text is no Python
        return {"type": "object"}
    named = [*given.posonlyargs, *given.args, *given.kwonlyargs]
    positional = [*given.posonlyargs, *given.args]
    needed = [arg.arg for arg in positional[: len(positional) - len(given.defaults)]]
    needed += [arg.arg for arg, default in zip(given.kwonlyargs, given.kw_defaults, strict=True) if default is None]
    properties = {arg.arg: _kind(arg.annotation) for arg in named}
    return {"type": "object", "properties": properties, "required": needed}


def _kind(annotation: ast.expr | None) -> dict[str, str]:
    name = ast.unparse(annotation).partition("[")[0] if annotation is not None else ""
    return {"type": _KINDS[name]} if name in _KINDS else {}


def _spent(content: bytes) -> bool:
    """429 also says that there is no money left, which no waiting mends."""
    return b"insufficient_quota" in content


def _seconds(retry_after: str | None) -> float | None:
    """Of a Retry-After header, which has seconds or a date; None where it says nothing that is understood."""
    if not retry_after:
        return None
    try:
        return min(max(float(retry_after), 0.0), 3600.0)
    except ValueError:
        pass
    try:
        until = parsedate_to_datetime(retry_after)
    except (TypeError, ValueError):
        return None
    return min(max((until - datetime.now(UTC if until.tzinfo else None)).total_seconds(), 0.0), 3600.0)
