"""The conversations of one episode as tokens: what an agent sends again is known by its text and keeps its ids.

After every answer the place that the conversation has come to is remembered. A request whose messages lead to such a place
and on from there appends what is new; nothing that is known is tokenised again. Anything else is a conversation of its own: a
history that was rewritten, a sub-agent, a request that was sent twice. Turns of the model's that it holds are shown there as
history; they are trained on where they were sampled, and nowhere else.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agentloop.naming import content_id
from agentloop.recording.chat import ChatMessage, ChatRequest
from agentloop.records import Turn
from agentloop.rollout.episode import Transcript
from agentloop.rollout.grammar import call_text
from agentloop.rollout.prompt import PromptFormat, described, result_text
from agentloop.worlds.stage import WorldDescription
from agentloop.worlds.toolbox import MAX_CHARACTERS


@dataclass(frozen=True)
class Place:
    """A place that a conversation has come to."""

    conversation: int
    """Index of the conversation."""
    tokens: int
    """Number of the conversation's tokens up to here."""
    turns: int
    generations: int
    """Turns that the model has had on the way here."""
    model_is_next: bool = False
    """True after a request: what follows is the model's turn."""


@dataclass
class Draft:
    """A request on its way to an answer: the tokens so far, of which nobody else knows yet."""

    transcript: Transcript
    known: Place | None
    """The place that it goes on from; None where it begins a conversation."""
    key: str
    """Name of the place where the request ends."""
    asked: Place
    """That place; its conversation is settled with the answer."""
    generations: int
    repetition: int
    """Number of the earlier requests that were the same."""

    @property
    def written(self) -> list[Turn]:
        """Return the turns of the model's that were sampled for this request."""
        return [turn for turn in self.transcript.turns if turn.role == "model"]


class Conversations:
    """All conversations of one episode."""

    def __init__(self, prompt: PromptFormat) -> None:
        self._prompt = prompt
        self._conversations: list[Transcript] = []
        self._places: dict[str, Place] = {}
        self._said: dict[str, tuple[list[int], Turn]] = {}
        """Turns that the model had, by the message that the agent got of each."""
        self._requests: Counter[str] = Counter()

    def draft(self, request: ChatRequest) -> Draft:
        """Return the request as tokens: the longest known beginning, and what is new."""
        messages = request.messages
        first = next((place for place, message in enumerate(messages) if message.role == "assistant"), len(messages))
        opening = "\n\n".join(message.text for message in messages[:first])
        tools = [tool.description for tool in request.tools] if self._prompt.describes_tools else []
        text = described(opening, WorldDescription(tuple(tools))) if tools else opening
        keys = [content_id("at", text.strip())]
        for message in messages[first:]:
            keys.append(content_id("at", [keys[-1], message.key]))
        count, known = self._known(keys, messages[first:])
        transcript = Transcript()
        if known is None:
            transcript.show("user", self._prompt.first_turn(text), text=opening)
        else:
            transcript = _copied(self._conversations[known.conversation], known)
        self._append(transcript, messages[first:][count:], messages)
        generations = known.generations if known else 0
        asked = Place(-1, len(transcript.token_ids), len(transcript.turns), generations, model_is_next=True)
        repetition, self._requests[keys[-1]] = self._requests[keys[-1]], self._requests[keys[-1]] + 1
        return Draft(transcript, known, keys[-1], asked, generations, repetition)

    def _known(self, keys: Sequence[str], messages: Sequence[ChatMessage]) -> tuple[int, Place | None]:
        """How many of the messages after the opening are known, and the place that they lead to."""
        for count in range(len(messages), -1, -1):
            place = self._places.get(keys[count])
            # turns alternate: only a turn of the model's follows a request, and never one of its own
            models_turn = count == len(messages) or messages[count].role == "assistant"
            if place is not None and place.model_is_next == models_turn:
                return count, place
        return 0, None

    def _append(
        self, transcript: Transcript, messages: Sequence[ChatMessage], conversation: Sequence[ChatMessage]
    ) -> None:
        names = {call.id: call.name for message in conversation for call in message.calls}
        for spoken, turn in itertools.groupby(messages, key=lambda message: message.role == "assistant"):
            if spoken:
                self._remind(transcript, list(turn))
            else:
                self._tell(transcript, list(turn), names)

    def _tell(self, transcript: Transcript, messages: Sequence[ChatMessage], names: dict[str, str]) -> None:
        """One user turn with what the agent says: results of tools, fenced, and its own words."""
        cut = [message.text[:MAX_CHARACTERS] for message in messages]
        shown = [
            result_text(text, len(message.text) - len(text)) if message.role == "tool" else message.text
            for message, text in zip(messages, cut, strict=True)
        ]
        only = messages[0] if len(messages) == 1 and messages[0].role == "tool" else None
        transcript.show(
            "tool" if only else "user",
            self.user_turn(transcript, "\n\n".join(shown)),
            text=only.text[:MAX_CHARACTERS] if only else "\n\n".join(shown),
            tool=names.get(only.answers) if only else None,
        )

    def _remind(self, transcript: Transcript, messages: Sequence[ChatMessage]) -> None:
        """A turn of the model's that is not sampled here: with its own ids, where the model has said it in this episode."""
        known = self._said.get(_name(messages[0])) if len(messages) == 1 else None
        if known is not None:
            ids, turn = known
            transcript.show("history", ids, text=turn.text, tool=turn.tool)
            return
        text = "\n".join(filter(None, map(_written, messages)))
        transcript.show("history", self._prompt.spoken(text), text=text)

    def user_turn(self, transcript: Transcript, text: str) -> list[int]:
        """Return the ids of a user turn that follows; a turn of the model's that was cut off is closed first."""
        stops = self._prompt.stop_token_ids
        closing = [] if transcript.token_ids[-1] in stops else [stops[0]]
        return closing + self._prompt.user_turn(text)

    def commit(self, draft: Draft, answer: ChatMessage | None) -> int:
        """Make the draft part of a conversation. Returns the conversation's index.

        `answer`: what the agent gets for the last turn; None where that led to nothing.
        """
        known, made = draft.known, draft.transcript
        extended = self._conversations[known.conversation] if known else None
        if known and extended and len(extended.token_ids) == known.tokens:
            index = known.conversation
            for name in ("token_ids", "mask", "logprobs"):
                getattr(extended, name).extend(getattr(made, name)[known.tokens :])
            extended.turns += made.turns[known.turns :]
        else:  # the first that goes this way, or one that leaves the way that another one has taken
            index = len(self._conversations)
            self._conversations.append(made)
        self._places[draft.key] = dataclasses.replace(draft.asked, conversation=index)
        if answer is None:
            return index
        here = Place(index, len(made.token_ids), len(made.turns), draft.generations)
        last = made.turns[-1]
        ids = made.token_ids[last.start : last.end]
        for form in (answer, dataclasses.replace(answer, text="")) if answer.calls else (answer,):
            self._places[content_id("at", [draft.key, form.key])] = here  # agents drop the words before a call
            self._said[_name(form)] = (ids, last)
        return index

    def unheard(self, index: int, turns: Sequence[Turn]) -> None:
        """Do not train on these turns of a conversation: the agent was gone before it had the answer."""
        transcript = self._conversations[index]
        for turn in turns:
            length = turn.end - turn.start
            transcript.mask[turn.start : turn.end] = [False] * length
            transcript.logprobs[turn.start : turn.end] = [0.0] * length

    def joined(self) -> tuple[Transcript, tuple[int, ...]]:
        """Return all conversations one after the other, and where each starts."""
        whole, starts = Transcript(), []
        for each in self._conversations:
            start = len(whole.token_ids)
            starts.append(start)
            whole.token_ids += each.token_ids
            whole.mask += each.mask
            whole.logprobs += each.logprobs
            whole.turns += [
                dataclasses.replace(turn, start=turn.start + start, end=turn.end + start) for turn in each.turns
            ]
        return whole, tuple(starts)


def _copied(conversation: Transcript, place: Place) -> Transcript:
    """The conversation up to a place, in which nothing counts as sampled."""
    copy = Transcript()
    copy.token_ids = conversation.token_ids[: place.tokens]
    copy.mask = [False] * place.tokens
    copy.logprobs = [0.0] * place.tokens
    copy.turns = [_past(turn) for turn in conversation.turns[: place.turns]]
    return copy


def _past(turn: Turn) -> Turn:
    """The turn as a conversation holds it that it did not happen in: a complaint is counted once."""
    return dataclasses.replace(turn, role="history" if turn.role == "model" else turn.role, error=None)


def _name(message: ChatMessage) -> str:
    return content_id("said", message.key)


def _written(message: ChatMessage) -> str:
    """The assistant's message as the model would have written it."""
    calls = (call_text(call.name, kwargs=_arguments(call.arguments)) for call in message.calls)
    return "\n".join(filter(None, (message.text.strip(), *calls)))


def _arguments(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
