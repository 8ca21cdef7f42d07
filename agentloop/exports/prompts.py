"""The fixed texts by which an export is compared with its trainer: prose, code, numbers, another language, a conversation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentloop.model_directory import chat_template

TEXTS = (
    "The river had frozen before anyone in the village remembered to bring in the boats. For three days the children "
    "walked across it to school, and on the fourth the ice began to sing.",
    "SELECT c.name, COUNT(o.id) AS orders\nFROM customers c JOIN orders o ON o.customer_id = c.id\n"
    "WHERE o.total >= 100.5  -- and not 99\nGROUP BY c.name;",
    "def double(x):\n    if x is None:\n        return 0\n\n    return 2 * x\n",
    "Im März kostete der Käse 12,50 €, im Mai schon 13,75 €. 東京は今日も雨です。",
)
_CONVERSATION = (
    ("What is 12 * 7 + 5?", '```tool_code\ncalculate("12*7+5")\n```'),
    ("```tool_output\n89\n```", "Answer: 89"),
    ("And how many of 30 apples are left when 12 have been eaten?", ""),
)
"""(question, answer) in turn; the last answer is the model's to give."""
MOST_TOKENS = 160
"""Of one prompt: in a tokenizer without words each byte is a token."""


@dataclass(frozen=True)
class Prompts:
    """Texts, what the trainer reads them as, and a conversation as it is trained on."""

    texts: tuple[str, ...]
    """Special tokens are written in the last one, the conversation, but for the <bos> that begins each."""
    token_ids: tuple[tuple[int, ...], ...]
    most_tokens: int = MOST_TOKENS
    """Number of tokens of each text that log probabilities are asked for."""

    @property
    def asked(self) -> tuple[tuple[int, ...], ...]:
        """The prompts as far as log probabilities are asked for them."""
        return tuple(ids[: self.most_tokens] for ids in self.token_ids)

    @property
    def conversation(self) -> str:
        return self.texts[-1]


def prompts(tokenizer: Any, most_tokens: int = MOST_TOKENS) -> Prompts:
    """Return the fixed prompts as this tokenizer (transformers') and its chat template have them."""
    conversation = rendered(tokenizer, tokenizer.chat_template or chat_template.GEMMA)
    bos = [tokenizer.bos_token_id]
    texts = (*TEXTS, conversation)
    return Prompts(
        texts, tuple((*bos, *tokenizer.encode(text, add_special_tokens=False)) for text in texts), most_tokens
    )


def rendered(tokenizer: Any, template: str) -> str:
    """Return the conversation by a chat template, the start of the model's answer included, without <bos>."""
    text = tokenizer.apply_chat_template(messages(), chat_template=template, tokenize=False, add_generation_prompt=True)
    return text.removeprefix(tokenizer.bos_token)


def messages() -> list[Mapping[str, str]]:
    """Return the conversation as chat templates take it."""
    turns: list[Mapping[str, str]] = []
    for question, answer in _CONVERSATION:
        turns.append({"role": "user", "content": question})
        if answer:
            turns.append({"role": "assistant", "content": answer})
    return turns


def conversation() -> Sequence[tuple[str, str]]:
    """Return (question, answer) in turn; the last answer is empty."""
    return _CONVERSATION
