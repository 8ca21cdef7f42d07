"""One episode: a policy, a task and its tools, until the policy answers or a limit is reached.

The token sequence only ever grows. What the model produced and what it was shown are appended as ids and never rendered
or tokenised again, so that what is trained on is exactly what was sampled.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from agentloop.naming import content_id
from agentloop.records import Role, Sampling, Status, Task, Trajectory, Turn
from agentloop.rollout.grammar import FinalAnswer, GrammarError, ToolCall, parse
from agentloop.rollout.prompt import PromptFormat
from agentloop.text import said_replaced
from agentloop.worlds.toolbox import Reply, ToolDescription


class Generation(Protocol):
    """The tokens that a policy produced for one turn."""

    @property
    def token_ids(self) -> Sequence[int]:
        """The stop token included, where the model produced it."""

    @property
    def logprobs(self) -> Sequence[float]:
        """Log probability of each token under the raw policy, before temperature and top_p. [len(token_ids)]"""

    @property
    def finish_reason(self) -> str:
        """ "stop" where the model ended its turn, "length" where it was cut off."""


class World(Protocol):
    """The tools of one episode, wherever they live."""

    async def describe(self) -> Sequence[ToolDescription]: ...

    async def call(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Reply: ...


class Generate(Protocol):
    """A policy: continues `prompt_ids`. `session` is the same for all turns of an episode (prefix cache)."""

    async def __call__(self, prompt_ids: Sequence[int], *, max_tokens: int, seed: int, session: str) -> Generation: ...


async def run_episode(
    task: Task,
    sample: int,
    *,
    policy: str,
    generate: Generate,
    prompt: PromptFormat,
    world: World,
    sampling: Sampling,
    seed: int,
) -> Trajectory:
    """Run one episode. Mistakes of the model go back to it as tool results; only infrastructure failures raise."""
    started = time.perf_counter()
    transcript = Transcript()
    tools = await world.describe() if prompt.describes_tools else ()
    transcript.show("user", prompt.opening(task.question, tools), text=task.question)
    session = session_of(policy, task, sample, seed)
    answer: str | None = None
    status: Status = "turn_limit"

    for turn in range(sampling.max_turns):
        allowance = min(sampling.max_turn_tokens, sampling.max_tokens - len(transcript.token_ids))
        if allowance <= 0:
            status = "token_limit"
            break
        generation = await generate(
            transcript.token_ids, max_tokens=allowance, seed=turn_seed(session, turn), session=session
        )
        text = prompt.decode(generation.token_ids)
        if generation.finish_reason != "stop":
            transcript.produce(generation, text)
            status = "token_limit"
            break
        try:
            parsed = parse(text)
        except GrammarError as error:
            transcript.produce(generation, text)
            transcript.show("tool", prompt.tool_result(str(error)), text=str(error), error=str(error))
            status = "malformed" if turn + 1 == sampling.max_turns else status
            continue
        if isinstance(parsed, FinalAnswer):
            transcript.produce(generation, text)
            answer, status = parsed.text, "answered"
            break
        transcript.produce(generation, text, call=parsed)
        reply = await world.call(parsed.name, parsed.args, parsed.kwargs)
        said = reply.text + said_replaced(parsed.replaced)
        transcript.show(
            "tool",
            prompt.tool_result(said, reply.omitted),
            text=f"{said}\n[{reply.omitted} characters left out]" if reply.omitted else said,
            tool=parsed.name,
            error=said if reply.complaint else None,
        )

    return Trajectory(
        policy=policy,
        task=task,
        sample=sample,
        sampling=sampling,
        seed=seed,
        status=status,
        answer=answer,
        token_ids=tuple(transcript.token_ids),
        mask=tuple(transcript.mask),
        logprobs=tuple(transcript.logprobs),
        turns=tuple(transcript.turns),
        seconds=time.perf_counter() - started,
    )


def session_of(policy: str, task: Task, sample: int, seed: int) -> str:
    """The name that all turns and tools of an episode share, whichever attempt it is."""
    return content_id("episode", [policy, task.id, sample, seed])


def turn_seed(session: str, *turn: int) -> int:
    """A seed for each turn, derived from names alone: the same episode gives the same draws on every run."""
    return int(content_id("s", [session, *turn])[2:10], 16) & 0x7FFFFFFF


class Transcript:
    """The growing token sequence with its mask, logprobs and turns."""

    def __init__(self) -> None:
        self.token_ids: list[int] = []
        self.mask: list[bool] = []
        self.logprobs: list[float] = []
        self.turns: list[Turn] = []

    def show(
        self, role: Role, ids: Sequence[int], *, text: str, tool: str | None = None, error: str | None = None
    ) -> None:
        start = len(self.token_ids)
        self.token_ids += ids
        self.mask += [False] * len(ids)
        self.logprobs += [0.0] * len(ids)
        self.turns.append(Turn(role, text, start, len(self.token_ids), tool=tool, error=error))

    def produce(self, generation: Generation, text: str, call: ToolCall | None = None) -> None:
        start = len(self.token_ids)
        self.token_ids += generation.token_ids
        self.mask += [True] * len(generation.token_ids)
        self.logprobs += generation.logprobs
        arguments = json.dumps([list(call.args), call.kwargs], ensure_ascii=False) if call else None
        name = call.name if call else None
        self.turns.append(Turn("model", text, start, len(self.token_ids), tool=name, arguments=arguments))
