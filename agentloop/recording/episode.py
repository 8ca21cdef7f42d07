"""One episode of an agent of one's own: its requests are answered by the policy, within the episode's limits.

The agent sees OpenAI's messages, the model its own format: tools described in the first turn, a call in a fence, a last line
with the answer. Where the model writes a call that cannot be read, that names no tool or that does not fit the schema, it is
told so and writes again, as with this project's own agent; the agent learns of none of it.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from agentloop.naming import content_id
from agentloop.recording.chat import Call, ChatMessage, ChatRequest, same_form
from agentloop.recording.conversations import Conversations, Draft
from agentloop.recording.refusal import Refused
from agentloop.records import Sampling, Status, Turn
from agentloop.rollout.episode import Generate, Transcript, turn_seed
from agentloop.rollout.grammar import CALL_FENCE, FinalAnswer, GrammarError, ToolCall, parse
from agentloop.rollout.prompt import PromptFormat, result_text
from agentloop.tools import ToolError

_REFUSALS = 8
"""Requests past a limit that are refused before the agent is ended: sub-agents may be told of it at the same time."""


@dataclass(frozen=True)
class Answer:
    """An answer as the agent gets it, and the turns of the model's that were recorded for it."""

    message: ChatMessage
    finish_reason: str
    """`stop`, `tool_calls` or `length`."""
    prompt_tokens: int
    completion_tokens: int
    conversation: int = field(repr=False)
    turns: tuple[Turn, ...] = field(repr=False)


@dataclass(frozen=True)
class _Written:
    """The tokens of one turn, as far as they count."""

    token_ids: list[int]
    logprobs: list[float]
    finish_reason: str


class _Complaint(Exception):
    """What the model is told of a turn that cannot be passed on."""

    def __init__(self, message: str, call: ToolCall | None = None) -> None:
        super().__init__(message)
        self.call = call


class RecordedEpisode:
    """Answers the requests of one episode and keeps what was said."""

    def __init__(self, *, generate: Generate, prompt: PromptFormat, sampling: Sampling, session: str) -> None:
        self._generate, self._prompt, self._sampling, self._session = generate, prompt, sampling, session
        self.conversations = Conversations(prompt)
        self.limit: Status | None = None
        """The limit that the agent was told of."""
        self.refused: Counter[str] = Counter()
        """Other requests that were not answered, by what was said."""
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done where nothing that the agent still asks would be answered; with an exception where the policy failed."""
        self._turns = itertools.count(1)
        self._beyond = 0

    async def answer(self, request: ChatRequest) -> Answer:
        """Return the policy's answer. Raises Refused past a limit, and whatever the policy raises."""
        draft = self.conversations.draft(request)
        made = draft.transcript
        tokens = len(made.token_ids)
        while True:
            try:
                completion = await self._turn(draft, request)
            except Refused:
                if draft.written:  # what could not be read is part of the episode, as every mistake is
                    self.conversations.commit(draft, None)
                    self.limit = "malformed"
                raise
            text = _cut(self._prompt.decode(completion.token_ids), request.stop)
            if completion.finish_reason != "stop":
                if request.max_tokens is None or len(completion.token_ids) < request.max_tokens:
                    self.limit = "token_limit"
                made.produce(completion, text)
                message, reason = ChatMessage("assistant", text), "length"
                break
            try:
                message, call = self._understood(text, request, draft)
            except _Complaint as complaint:
                self._complain(made, completion, text, complaint)
                continue
            made.produce(completion, text, call=call)
            reason = "tool_calls" if message.calls else "stop"
            break
        written = tuple(draft.written)
        index = self.conversations.commit(draft, message)
        return Answer(message, reason, tokens, sum(turn.end - turn.start for turn in written), index, written)

    def not_heard(self, answer: Answer) -> None:
        """The agent had hung up: nobody acted on the answer, so it is not trained on."""
        self.conversations.unheard(answer.conversation, answer.turns)

    async def _turn(self, draft: Draft, request: ChatRequest) -> _Written:
        """One turn of the model's, up to the first stop text. Raises Refused where there is none left."""
        made, sampling = draft.transcript, self._sampling
        room = sampling.max_tokens - len(made.token_ids)
        if room <= 0:
            raise self._past("token_limit", f"agent.max_tokens = {sampling.max_tokens}: the conversation is that long")
        if next(self._turns) > sampling.max_turns:
            raise self._past("turn_limit", f"agent.max_turns = {sampling.max_turns}: the model has had its turns")
        allowance = min(room, sampling.max_turn_tokens, request.max_tokens or room)
        repeated = (draft.repetition,) if draft.repetition else ()
        seed = turn_seed(self._session, draft.generations, *repeated)
        draft.generations += 1
        generation = await self._generate(made.token_ids, max_tokens=allowance, seed=seed, session=self._session)
        return _stopped(generation, request.stop, self._prompt)

    def _past(self, limit: Status, message: str) -> Refused:
        self.limit = limit
        self._beyond += 1
        if self._beyond >= _REFUSALS and not self.over.done():
            self.over.set_result(None)
        return Refused(message, code="context_length_exceeded" if limit == "token_limit" else limit)

    def _understood(self, text: str, request: ChatRequest, draft: Draft) -> tuple[ChatMessage, ToolCall | None]:
        """The agent's message, and the call in it. Raises _Complaint."""
        if not request.tools:
            return ChatMessage("assistant", text.strip()), None
        try:
            parsed = parse(text)
        except GrammarError as error:
            if CALL_FENCE.strip() in text:
                raise _Complaint(str(error)) from None
            parsed = FinalAnswer(text.strip())  # words without a call are an answer, as they stand
        if isinstance(parsed, FinalAnswer):
            return self._answered(parsed.text, request, draft), None
        if request.choice == "none":
            raise _Complaint("error: no tool may be called now", parsed)
        tools = {tool.description.name: tool for tool in request.tools}
        if request.choice in [tool.name for tool in request.tools]:
            tools = {name: tool for name, tool in tools.items() if tool.name == request.choice}
        tool = tools.get(parsed.name)
        if tool is None:
            there = ", ".join(sorted(tools))
            raise _Complaint(f"error: there is no tool named {parsed.name}; there are: {there}", parsed)
        try:
            arguments = tool.arguments(parsed)
        except ToolError as error:
            raise _Complaint(f"error: {error}", parsed) from None
        said = text.partition(CALL_FENCE)[0].strip()
        return ChatMessage("assistant", said, (self._call(tool.name, arguments, draft),)), parsed

    def _answered(self, text: str, request: ChatRequest, draft: Draft) -> ChatMessage:
        """The final answer as the agent's message. Where the agent wants a call, it is one to the tool that takes answers."""
        if request.choice in ("auto", "none"):
            return ChatMessage("assistant", text)
        for tool in request.tools:
            arguments = tool.answered(text)
            if tool.name == "final_answer" and arguments is not None and request.choice in ("required", tool.name):
                return ChatMessage("assistant", "", (self._call(tool.name, arguments, draft),))
        raise _Complaint("end your turn with a call")

    def _call(self, name: str, arguments: str, draft: Draft) -> Call:
        identity = content_id("call", [self._session, draft.key, draft.generations, draft.repetition])
        return Call(identity, name, same_form(arguments))

    def _complain(self, made: Transcript, completion: _Written, text: str, complaint: _Complaint) -> None:
        call, said = complaint.call, str(complaint)
        made.produce(completion, text, call=call)
        ids = self.conversations.user_turn(made, result_text(said))
        made.show("tool", ids, text=said, tool=call.name if call else None, error=said)


def _cut(text: str, stops: tuple[str, ...]) -> str:
    """The text up to the first of the stop texts."""
    ends = [text.index(stop) for stop in stops if stop in text]
    return text[: min(ends)] if ends else text


def _stopped(generation: Any, stops: tuple[str, ...], prompt: PromptFormat) -> _Written:
    """The tokens up to the one that completes a stop text, as if the model had been stopped there."""
    ids, logprobs = list(generation.token_ids), list(generation.logprobs)
    text = prompt.decode(ids) if stops else ""
    if not any(stop in text for stop in stops):
        return _Written(ids, logprobs, generation.finish_reason)
    low, high = 1, len(ids)  # the shortest beginning that holds one
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if any(stop in prompt.decode(ids[:middle]) for stop in stops) else (middle + 1, high)
    return _Written(ids[:low], logprobs[:low], "stop")
