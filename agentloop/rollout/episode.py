"""One episode: a policy, a task and its world, until the policy answers, the world ends it or a limit is reached.

The token sequence only ever grows. What the model produced and what it was shown are appended as ids and never rendered
or tokenised again, so that what is trained on is exactly what was sampled.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from agentloop.naming import content_id
from agentloop.records import Role, Sampling, Status, Task, Trajectory, Turn
from agentloop.rollout.grammar import CallError, FinalAnswer, GrammarError, ToolCall, parse
from agentloop.rollout.prompt import PromptFormat
from agentloop.text import said_replaced
from agentloop.worlds.stage import WorldDescription
from agentloop.worlds.toolbox import Reply

_CALL_ONLY = "end your turn with a call"
"""A mistake where there is no answer to be given."""


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
    """The session of one episode, wherever it lives."""

    @property
    def plain(self) -> bool:
        """Return True where there is nothing but tools: it need not be described where the prompt does not."""

    async def describe(self) -> WorldDescription: ...

    async def call(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Reply: ...

    async def observe(self, turn: str) -> Reply | None:
        """Return what the session says to a turn; None where it ends the episode without a word."""

    async def outcome(self) -> Any:
        """Return what the session knows at the end, as JSON."""


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
    """Run one episode. Mistakes of the model go back to it as tool results; only infrastructure failures raise.

    Where the world speaks, a turn that is no call is put to it, and what it says is the next user turn. It is also told of a
    final answer, which ends the episode whatever it says.
    """
    started = time.perf_counter()
    transcript = Transcript()
    about = WorldDescription() if not prompt.describes_tools and world.plain else await world.describe()
    transcript.show("user", prompt.opening(task.question, about), text=task.question)
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
        parsed = read(text, about)
        if isinstance(parsed, GrammarError):
            transcript.produce(generation, text)
            transcript.show("tool", prompt.tool_result(str(parsed)), text=str(parsed), error=str(parsed))
            status = "malformed" if turn + 1 == sampling.max_turns else status
            continue
        if isinstance(parsed, ToolCall):
            transcript.produce(generation, text, call=parsed)
            reply = await world.call(parsed.name, parsed.args, parsed.kwargs)
            if parsed.replaced:
                reply = replace(reply, text=reply.text + said_replaced(parsed.replaced))
            transcript.hear("tool", reply, prompt.tool_result, tool=parsed.name)
            if reply.done:
                status = "ended"
                break
            continue
        transcript.produce(generation, text)
        heard = await world.observe(text) if about.speaks else None
        if isinstance(parsed, FinalAnswer):
            answer, status = parsed.text, "answered"
            if heard is not None:
                transcript.hear("user", replace(heard, done=True), prompt.observation)
            break
        if heard is not None:
            transcript.hear("user", heard, prompt.observation)
        if heard is None or heard.done:
            status = "ended"
            break

    outcome = await world.outcome() if about.has_outcome else None
    return transcript.trajectory(
        task,
        sample,
        policy=policy,
        sampling=sampling,
        seed=seed,
        status=status,
        answer=answer,
        seconds=time.perf_counter() - started,
        outcome=outcome,
    )


class Remark:
    """A turn to a world that speaks: neither a call nor an answer, and no mistake."""


def read(text: str, world: WorldDescription) -> ToolCall | FinalAnswer | Remark | GrammarError:
    """Return what a turn of the model is in this world; as an error, which is not raised, what the model is to be told.

    A world that speaks takes whatever is no call and no answer. A call that cannot be read remains a mistake where there are
    tools; in a world without tools the fence of a call is text like any other.
    """
    try:
        parsed = parse(text)
    except GrammarError as error:
        if world.speaks and not (world.tools and isinstance(error, CallError)):
            return Remark()
        return error if world.answers or isinstance(error, CallError) else GrammarError(_CALL_ONLY)
    if isinstance(parsed, FinalAnswer) and not world.answers:
        return Remark() if world.speaks else GrammarError(_CALL_ONLY)
    return Remark() if isinstance(parsed, ToolCall) and world.speaks and not world.tools else parsed


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

    def trajectory(self, task: Task, sample: int, **about: Any) -> Trajectory:
        """Return the episode with these tokens and turns. `about`: the trajectory's other fields."""
        return Trajectory(
            task=task,
            sample=sample,
            token_ids=tuple(self.token_ids),
            mask=tuple(self.mask),
            logprobs=tuple(self.logprobs),
            turns=tuple(self.turns),
            **about,
        )

    def show(
        self, role: Role, ids: Sequence[int], *, text: str, tool: str | None = None, error: str | None = None
    ) -> None:
        start = len(self.token_ids)
        self.token_ids += ids
        self.mask += [False] * len(ids)
        self.logprobs += [0.0] * len(ids)
        self.turns.append(Turn(role, text, start, len(self.token_ids), tool=tool, error=error))

    def hear(
        self, role: Role, reply: Reply, tokens: Callable[[str, int], Sequence[int]], *, tool: str | None = None
    ) -> None:
        """Append what the world replied, and note the reward of the model's turn before it. The last word of an episode that is
        over has no tokens: the model is not shown it."""
        if reply.reward is not None:
            self.turns[-1] = replace(self.turns[-1], reward=reply.reward)
        self.show(
            role,
            () if reply.done else tokens(reply.text, reply.omitted),
            text=f"{reply.text}\n[{reply.omitted} characters left out]" if reply.omitted else reply.text,
            tool=tool,
            error=reply.text if reply.complaint else None,
        )

    def produce(self, generation: Generation, text: str, call: ToolCall | None = None) -> None:
        start = len(self.token_ids)
        self.token_ids += generation.token_ids
        self.mask += [True] * len(generation.token_ids)
        self.logprobs += generation.logprobs
        arguments = json.dumps([list(call.args), call.kwargs], ensure_ascii=False) if call else None
        name = call.name if call else None
        self.turns.append(Turn("model", text, start, len(self.token_ids), tool=name, arguments=arguments))
