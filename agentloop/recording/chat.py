"""A chat completion request as OpenAI's clients send it: read, checked and brought into one form.

Clients write the same conversation in many ways: `content` as a text, as parts, as null or left out; arguments of a call with
other spaces or another order of keys; fields that say nothing. What is compared and recorded is this form.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from agentloop.naming import canonical_json
from agentloop.recording.refusal import Refused
from agentloop.recording.request_tools import RequestTool, read_tools
from agentloop.text import encodable, one_line_of

Role = Literal["system", "user", "assistant", "tool"]

_ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}
_IGNORED = frozenset(
    "temperature top_p seed presence_penalty frequency_penalty user store metadata parallel_tool_calls service_tier "
    "reasoning_effort verbosity prompt_cache_key prompt_cache_retention safety_identifier prediction".split()
)
"""Options without effect: the campaign decides how the policy is sampled, and a turn has one call."""
_READ = frozenset(
    "model messages tools tool_choice stream stream_options max_tokens max_completion_tokens stop n logprobs "
    "response_format modalities".split()
)


@dataclass(frozen=True)
class Call:
    """A tool call in an assistant's message."""

    id: str
    name: str
    arguments: str
    """JSON, in one form where it is valid."""


@dataclass(frozen=True)
class ChatMessage:
    """One message of a conversation."""

    role: Role
    text: str
    calls: tuple[Call, ...] = ()
    answers: str = ""
    """Id of the call that a tool's message answers."""

    @property
    def key(self) -> list[Any]:
        """Return what makes it the same message as another one: not the ids of calls, nor spaces around the text."""
        return [self.role, self.text.strip(), [[call.name, call.arguments] for call in self.calls]]


@dataclass(frozen=True)
class ChatRequest:
    """A request that can be answered."""

    model: str
    messages: tuple[ChatMessage, ...]
    tools: tuple[RequestTool, ...] = ()
    choice: str = "auto"
    """`auto`, `none`, `required`, or the name of the tool that is to be called."""
    stream: bool = False
    include_usage: bool = False
    """True where a stream is to end with the counts of tokens."""
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()


def read_request(body: Any) -> ChatRequest:
    """Return the request that this JSON value is. Raises Refused, naming the field."""
    if not isinstance(body, dict):
        raise Refused("the body is no JSON object")
    given = {name: value for name, value in body.items() if value is not None}
    if unknown := sorted(given.keys() - _READ - _IGNORED):
        raise _unsupported(unknown[0])
    if given.get("n", 1) != 1:
        raise _unsupported("n", "one answer is given to each request")
    if given.get("logprobs", False) is not False:
        raise _unsupported("logprobs")
    if given.get("modalities", ["text"]) != ["text"]:
        raise _unsupported("modalities", "only text")
    form = given.get("response_format", {"type": "text"})
    if not isinstance(form, dict) or form.get("type") != "text":
        raise _unsupported("response_format", "what the model writes is not constrained; let it call a tool instead")
    model, messages = given.get("model"), given.get("messages")
    if not isinstance(model, str):
        raise Refused("model: a text is needed", param="model")
    if not isinstance(messages, list) or not messages:
        raise Refused("messages: a list with one message at least is needed", param="messages")
    read = tuple(_message(each, f"messages[{place}]") for place, each in enumerate(messages))
    if read[-1].role == "assistant":
        raise Refused("messages: the last one is the assistant's, there is nothing to answer", param="messages")
    tools = read_tools(given.get("tools", []))
    options = given.get("stream_options", {})
    return ChatRequest(
        model,
        read,
        tools,
        _choice(given.get("tool_choice", "auto"), tools),
        stream=_flag(given, "stream"),
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
        max_tokens=_limit(given),
        stop=_stop(given.get("stop", [])),
    )


def _unsupported(option: str, why: str = "") -> Refused:
    return Refused(
        f"{one_line_of(option, most=60)} is not supported by agentloop's endpoint{f': {why}' if why else ''}",
        code="unsupported_parameter",
        param=option,
    )


def _flag(given: Mapping[str, Any], name: str) -> bool:
    value = given.get(name, False)
    if not isinstance(value, bool):
        raise Refused(f"{name}: true or false is needed", param=name)
    return value


def _limit(given: Mapping[str, Any]) -> int | None:
    values = [given[name] for name in ("max_completion_tokens", "max_tokens") if name in given]
    for value in values:
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise Refused("max_tokens: a whole number from 1 on is needed", param="max_tokens")
    return min(values, default=None)


def _stop(stop: Any) -> tuple[str, ...]:
    texts = [stop] if isinstance(stop, str) else stop
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise Refused("stop: a text, or a list of texts, is needed", param="stop")
    return tuple(text for text in texts if text)


def _choice(choice: Any, tools: Sequence[RequestTool]) -> str:
    """The choice as ChatRequest has it; without tools there is none."""
    if choice in ("auto", "none", "required"):
        return choice if tools else "none"
    function = choice.get("function") if isinstance(choice, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if name not in [tool.name for tool in tools]:
        raise Refused("tool_choice: auto, none, required or one of the tools is needed", param="tool_choice")
    return name


def _message(message: Any, place: str) -> ChatMessage:
    if not isinstance(message, dict):
        raise Refused(f"{place}: is no JSON object", param="messages")
    given = message.get("role")
    role = _ROLES.get(given) if isinstance(given, str) else None
    if role is None:
        raise Refused(
            f"{place}.role: {one_line_of(given, most=60)!r} is none of {', '.join(_ROLES)}",
            param="messages",
        )
    text = _text(message.get("content"), place)
    if role == "tool":
        return ChatMessage(role, text, answers=str(message.get("tool_call_id", "")))
    if role == "assistant":
        if message.get("function_call") is not None:
            raise Refused(f"{place}.function_call: tool_calls are needed instead", param="messages")
        calls = message.get("tool_calls") or []
        if not isinstance(calls, list):
            raise Refused(f"{place}.tool_calls: a list is needed", param="messages")
        return ChatMessage(role, text, tuple(_call(each, f"{place}.tool_calls") for each in calls))
    return ChatMessage(role, text)


def _text(content: Any, place: str) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return encodable(content)
    texts = []
    for part in content if isinstance(content, list) else [None]:
        kind = part.get("type") if isinstance(part, dict) else None
        text = part.get(kind) if isinstance(part, dict) and kind in ("text", "refusal") else None
        if not isinstance(text, str):
            raise Refused(
                f"{place}.content: only text is supported, not {one_line_of(kind, most=60)}", param="messages"
            )
        texts.append(text)
    return encodable("".join(texts))


def _call(call: Any, place: str) -> Call:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise Refused(f"{place}: a function with a name is needed", param="messages")
    arguments = function.get("arguments")
    return Call(str(call.get("id", "")), function["name"], same_form(arguments if isinstance(arguments, str) else ""))


def same_form(arguments: str) -> str:
    """The JSON text of a call's arguments with its keys in order and no spaces; text that is no JSON as it is."""
    try:
        return encodable(canonical_json(json.loads(arguments or "{}")))
    except (ValueError, RecursionError):
        return encodable(arguments.strip())
