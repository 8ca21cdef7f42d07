"""Scripts: what the model is to say at a task, turn by turn, and the policy that says it in a real episode."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from agentloop.records import Task
from agentloop.rollout.episode import session_of
from agentloop.rollout.prompt import PromptFormat


@dataclass(frozen=True)
class Script:
    """One way to solve a task."""

    task: Task
    turns: tuple[str, ...]
    """Calls as the model writes them, then the answer."""
    results: tuple[str, ...] | None = None
    """What the tools said, where they are not to be called again; None: they are called."""


@dataclass(frozen=True)
class Spoken:
    """A turn that was not sampled, for which reason its log probabilities are unknown and stored as 0."""

    token_ids: Sequence[int]
    finish_reason: str = "stop"

    @classmethod
    def of(cls, text: str, prompt: PromptFormat, *, max_tokens: int) -> Spoken:
        """`text` in the student's tokens, cut off where the episode has no room for it, as a sampled turn would be."""
        token_ids = prompt.spoken(text)
        return cls(token_ids) if len(token_ids) <= max_tokens else cls(token_ids[:max_tokens], "length")

    @property
    def logprobs(self) -> list[float]:
        return [0.0] * len(self.token_ids)


class ScriptedPolicy:
    """Says each episode's script, whatever it is shown. An episode that is tried again begins its script again."""

    def __init__(self, scripts: Mapping[str, Script], prompt: PromptFormat) -> None:
        """`scripts` by the episode's session."""
        self._scripts, self._prompt = scripts, prompt

    async def __call__(self, prompt_ids: Sequence[int], *, max_tokens: int, seed: int, session: str) -> Spoken:
        turns, spoken = self._scripts[session].turns, self._prompt.turns_spoken(prompt_ids)
        # a script that has no answer, or none that was understood, has nothing more to say
        return Spoken.of(turns[spoken] if spoken < len(turns) else "", self._prompt, max_tokens=max_tokens)

    async def ready(self) -> None: ...

    async def lost(self) -> None: ...


def numbered(scripts: Iterable[Script]) -> list[tuple[Script, int]]:
    """Each script with the sample index of its episode: those of one task are counted from 0."""
    counts: dict[str, int] = {}
    found = []
    for script in scripts:
        sample = counts.get(script.task.id, 0)
        counts[script.task.id] = sample + 1
        found.append((script, sample))
    return found


def by_session(scripts: Iterable[Script], *, policy: str, seed: int) -> dict[str, Script]:
    """The scripts by the session of the episode that plays them."""
    return {session_of(policy, script.task, sample, seed): script for script, sample in numbered(scripts)}
