"""How an episode is put into tokens: Gemma's turns, with tools described in the prompt and results in user turns.

Gemma 3n has no system role and no tool role. Every piece is tokenised exactly once, when it is appended; what the model
produced is never rendered. Text from tasks and tools cannot forge a turn: special tokens in it are read as plain text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentloop.errors import ModelError
from agentloop.rollout.grammar import ANSWER, CALL_FENCE, FENCE, RESULT_FENCE
from agentloop.worlds.stage import WorldDescription
from agentloop.worlds.toolbox import ToolDescription

VERSION = 1
"""Raise it with any change to the text below: it names the policies whose prompts have that text."""

MAX_RESULT_CHARACTERS = 2000
_NOTHING = WorldDescription()


class PromptFormat:
    """Pieces of an episode as token ids, for any tokenizer with Gemma's turn tokens."""

    def __init__(self, tokenizer: Any, describe_tools: bool) -> None:
        """Raises ModelError if `tokenizer` (a transformers tokenizer) lacks one of Gemma's special tokens."""
        self._tokenizer = tokenizer
        self.describes_tools = describe_tools
        self._bos = self._special("<bos>")
        self._start = self._special("<start_of_turn>")
        self._end = self._special("<end_of_turn>")
        self._line_break, self._model = self._encode("\n"), self._encode("model\n")
        self.stop_token_ids: tuple[int, ...] = (self._end, self._special("<eos>"))

    @property
    def name(self) -> str:
        """Identifies the prompt's text; part of every policy's name."""
        return f"gemma-turns-{VERSION}-{'described' if self.describes_tools else 'bare'}"

    def opening(self, question: str, world: WorldDescription = _NOTHING) -> list[int]:
        """The first user turn and the start of the model's."""
        return self.first_turn(described(question, world) if self.describes_tools else question)

    def first_turn(self, text: str) -> list[int]:
        """A first user turn with `text` as it is, and the start of the model's."""
        return [self._bos, *self._user_turn(text)]

    def user_turn(self, text: str) -> list[int]:
        """Return what follows the model's turn: a user turn with `text` and the start of the model's next turn."""
        return [*self._line_break, *self._user_turn(text)]

    def tool_result(self, text: str, omitted: int = 0) -> list[int]:
        """Return what follows the model's turn: a user turn with the fenced result and the start of the model's next turn.

        `omitted`: characters of the result that `text` lacks already.
        """
        return self.user_turn(result_text(text, omitted))

    def observation(self, text: str, omitted: int = 0) -> list[int]:
        """Return what follows the model's turn where the world speaks: its words as a plain user turn, and the start of the
        model's next turn. `omitted`: as for `tool_result`."""
        return self.user_turn(_shortened(text, omitted))

    def spoken(self, text: str) -> list[int]:
        """A turn of the model's that was not sampled but is to be taught, its end included."""
        return [*self._encode(text), self._end]

    def turns_spoken(self, token_ids: Sequence[int]) -> int:
        """Return how many turns of the model an episode's sequence holds, which ends where the next one begins."""
        return (token_ids.count(self._end) - 1) // 2

    def conversation(self, token_ids: Sequence[int]) -> list[str]:
        """The texts of an episode's turns, which ends where the model's next one begins: user, model, user, …, user."""
        texts, start = [], 0
        for position, token in enumerate(token_ids):
            if token == self._start:
                start = position + 1
            elif token == self._end:
                texts.append(self.decode(token_ids[start:position]).partition("\n")[2])
        return texts

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text without special tokens."""
        return self._tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def shown(self, token_ids: Sequence[int]) -> str:
        """The text with special tokens, as the model reads it."""
        return self._tokenizer.decode(list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def _user_turn(self, text: str) -> list[int]:
        return [
            self._start,
            *self._encode(f"user\n{text}"),
            self._end,
            *self._line_break,
            self._start,
            *self._model,
        ]

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)

    def _special(self, token: str) -> int:
        index = self._tokenizer.convert_tokens_to_ids(token)
        if index is None or index == self._tokenizer.unk_token_id:
            raise ModelError(f"tokenizer: it has no token {token}; a Gemma tokenizer is needed")
        return index


def result_text(text: str, omitted: int = 0) -> str:
    """A tool's result as the model is shown it, fenced. `omitted`: characters of the result that `text` lacks already."""
    return f"{RESULT_FENCE}{_shortened(text, omitted)}\n{FENCE}"


def described(question: str, world: WorldDescription) -> str:
    """The first user turn's text where tools are described."""
    plain = world.answers and not world.speaks and world.instructions is None
    return f"{_instructions(world.tools) if plain else _introduction(world)}\n\n{question}"


def _instructions(tools: Sequence[ToolDescription]) -> str:
    if not tools:
        return f"Answer the question. End your turn with this line:\n{ANSWER}the answer alone"
    return (
        f"Answer the question with the help of these tools:\n\n{_listed(tools)}\n\n{_HOW_TO_CALL}"
        "You then get its result. When you know the answer, end your turn with this line:\n"
        f"{ANSWER}the answer alone"
    )


def _introduction(world: WorldDescription) -> str:
    """Of a world that is more than tools and an answer: each part where the world has it."""
    parts = [] if world.instructions is None else [world.instructions]
    if world.tools:
        parts.append(f"These tools are there:\n\n{_listed(world.tools)}")
        parts.append(f"{_HOW_TO_CALL}You then get its result.")
    if world.speaks and world.instructions is None:
        parts.append(f"{'Any other' if world.tools else 'Each'} turn of yours is answered, until the task is over.")
    if world.answers:
        parts.append(f"When you know the answer, end your turn with this line:\n{ANSWER}the answer alone")
    return "\n\n".join(parts)


_HOW_TO_CALL = (
    "To call a tool, end your turn with one call, its arguments written as literal values:\n"
    f"{CALL_FENCE}name(arguments)\n{FENCE}\n"
)


def _listed(tools: Sequence[ToolDescription]) -> str:
    return "\n".join(f"{tool.name}{tool.signature}\n    {tool.description}" for tool in tools)


def _shortened(text: str, omitted: int) -> str:
    left_out = len(text) + omitted - MAX_RESULT_CHARACTERS
    return text if left_out <= 0 else f"{text[:MAX_RESULT_CHARACTERS]}\n[{left_out} characters left out]"
