"""A policy that says what it is told to, in the tokens of the tiny model."""

import dataclasses

from agentloop.rollout.prompt import PromptFormat
from agentloop.serving.client import Completion


@dataclasses.dataclass
class Asked:
    prompt_ids: list[int]
    max_tokens: int
    seed: int


class Scripted:
    """Says the texts one after the other; the last one again and again. A text with `…` at its end is cut off there."""

    def __init__(self, prompt: PromptFormat, *texts: str) -> None:
        self._prompt, self._texts = prompt, list(texts)
        self.asked: list[Asked] = []
        self.given: list[Completion] = []

    async def __call__(self, prompt_ids, *, max_tokens, seed, session):
        self.asked.append(Asked(list(prompt_ids), max_tokens, seed))
        text = self._texts.pop(0) if len(self._texts) > 1 else self._texts[0]
        ids = self._prompt.spoken(text.removesuffix("…"))
        reason = "stop"
        if text.endswith("…"):
            ids, reason = ids[:-1], "length"
        if len(ids) > max_tokens:
            ids, reason = ids[:max_tokens], "length"
        self.given.append(Completion(ids, [-0.5 - place / 64 for place in range(len(ids))], reason))
        return self.given[-1]
