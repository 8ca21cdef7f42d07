"""The nouns of the system, each named by its content.

A record is a frozen dataclass of plain values. The fields that define a record make its name (agentloop/naming.py), so that
the same inputs give the same name on every machine and a step that is already done is recognised.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from agentloop.naming import content_id

Split = Literal["train", "heldout", "demonstration"]
Status = Literal["answered", "malformed", "turn_limit", "token_limit", "time_limit", "failed"]
Role = Literal["user", "model", "tool"]
"""Whose turn it is."""
Decision = Literal["promote", "keep", "needs_more_data"]


@dataclass(frozen=True)
class Task:
    """One question with the answer that its environment's verifier expects."""

    environment: str
    family: str
    question: str
    answer: str
    split: Split
    payload: dict[str, Any] = field(default_factory=dict)
    """What the environment needs to set up the episode (a database seed, say); JSON."""

    @cached_property
    def id(self) -> str:
        return content_id("task", [self.environment, self.question, self.payload])


@dataclass(frozen=True)
class Sampling:
    """How a policy is sampled and when an episode ends. Part of a trajectory's name."""

    temperature: float = 1.0
    top_p: float = 1.0
    max_turns: int = 6
    """Model turns in an episode."""
    max_turn_tokens: int = 64
    """Tokens that one model turn may produce."""
    max_tokens: int = 512
    """Tokens of the whole episode, prompt and tool results included."""


@dataclass(frozen=True)
class Policy:
    """What acts: a base model, an adapter on it or none, and the prompt format."""

    base: str
    """Fingerprint of the base model's weights and tokenizer (`base_…`)."""
    adapter: str | None
    """Adapter id (`adapter_…`)."""
    prompt: str
    """Name and version of the prompt format."""

    @cached_property
    def id(self) -> str:
        return content_id("policy", self)


@dataclass(frozen=True)
class Quantization:
    """How the linears of a base are held that is trained on."""

    in_4bit: bool
    """In NF4; else in 16 bit."""
    in_16bit: tuple[str, ...] = ()
    """Where in NF4, those left in 16 bit all the same: `layers.0.self_attn.q_proj` and the like, sorted."""

    @classmethod
    def of(cls, training: Mapping[str, Any]) -> Quantization:
        """That of an adapter, from the training settings it is stored with."""
        return cls(training["load_in_4bit"], tuple(training.get("in_16bit", ())))

    def settings(self) -> dict[str, Any]:
        """What an adapter is named by, as JSON: the inverse of `of`."""
        return {"load_in_4bit": self.in_4bit} | ({"in_16bit": list(self.in_16bit)} if self.in_16bit else {})

    @property
    def kind(self) -> Literal["none", "dynamic", "nf4"]:
        if not self.in_4bit:
            return "none"
        return "dynamic" if self.in_16bit else "nf4"

    def named(self, base: str) -> str:
        """The name of what `base` (`base_…`) is once quantised and dequantised: another model."""
        if not self.in_4bit:
            return base
        return f"{base}-{content_id('nf4', list(self.in_16bit)) if self.in_16bit else 'nf4'}"


NONE, NF4 = Quantization(False), Quantization(True)


@dataclass(frozen=True)
class Turn:
    """One contiguous span of an episode's token sequence, written by one author."""

    role: Role
    text: str
    start: int
    """First token of the span in the trajectory's `token_ids`."""
    end: int
    """One past its last token."""
    tool: str | None = None
    """Model turn: name of the tool called. Tool turn: name of the tool that answered."""
    arguments: str | None = None
    """Model turn: the call's arguments as JSON."""
    error: str | None = None
    """Tool turn: what the tool or the parser complained about, as the model was told."""


@dataclass(frozen=True)
class Attempt:
    """One failed try at an episode: an infrastructure failure, not a result."""

    error: str
    seconds: float


@dataclass(frozen=True)
class Trajectory:
    """One finished episode: the ids that the model saw and produced, as they are trained on.

    With the status `failed` it is an episode that infrastructure kept from finishing: it has no tokens, only attempts, and
    is never scored.
    """

    policy: str
    task: Task
    sample: int
    """Index of this sample among those of the same task and policy."""
    sampling: Sampling
    seed: int
    status: Status
    answer: str | None
    """Final answer as parsed; None where the episode ended without one."""
    token_ids: tuple[int, ...]
    mask: tuple[bool, ...]
    """True at the tokens that the model produced: the only ones that are trained on. [len(token_ids)]"""
    logprobs: tuple[float, ...]
    """Log probability of each produced token under the raw (untempered) policy; 0.0 where mask is False. [len(token_ids)]"""
    turns: tuple[Turn, ...]
    seconds: float
    attempts: tuple[Attempt, ...] = ()

    @cached_property
    def id(self) -> str:
        return trajectory_id(self.policy, self.task.id, self.sample, self.sampling, self.seed)


def trajectory_id(policy: str, task: str, sample: int, sampling: Sampling, seed: int) -> str:
    """Name of the trajectory that this sample of this task would get: known before it is run."""
    return content_id("traj", [policy, task, sample, sampling, seed])


@dataclass(frozen=True)
class Score:
    """One number about one trajectory, from one version of one scorer."""

    trajectory: str
    scorer: str
    version: int
    value: float


@dataclass(frozen=True)
class Dataset:
    """An ordered choice of trajectories and the recipe that chose them."""

    trajectories: tuple[str, ...]
    recipe: str
    parameters: dict[str, Any]

    @cached_property
    def id(self) -> str:
        return content_id("data", [list(self.trajectories), self.recipe, self.parameters])


@dataclass(frozen=True)
class Adapter:
    """LoRA weights, named by everything that determines them."""

    base: str
    dataset: str
    training: dict[str, Any]
    """The training settings as JSON."""
    seed: int
    code: str
    """Version of the training code (`agentloop.training.CODE_VERSION`)."""
    parent: str | None = None
    """Adapter that training started from; None for a fresh one."""

    @cached_property
    def id(self) -> str:
        return content_id("adapter", self)


@dataclass(frozen=True)
class Interval:
    """A point estimate with its confidence interval."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Evaluation:
    """Success of one policy on held-out tasks. `successes[i][j]`: task i, sample j."""

    policy: str
    tasks: tuple[str, ...]
    samples: int
    seed: int
    successes: tuple[tuple[bool, ...], ...]
    sampling: Sampling = Sampling()

    @cached_property
    def id(self) -> str:
        about = [self.policy, list(self.tasks), self.samples, self.seed]
        # no part of the name at first, so that it is none while it has its default
        return content_id("eval", about if self.sampling == Sampling() else [*about, self.sampling])


@dataclass(frozen=True)
class GuardResult:
    """Champion against challenger on held-out tasks of another environment, at which it must not be worse."""

    environment: str
    champion: str
    """Evaluation id."""
    challenger: str
    """Evaluation id."""
    difference: Interval
    bound: float
    """What the difference surely exceeds."""
    margin: float
    """A loss of less than this is not held against the challenger."""

    @property
    def passed(self) -> bool:
        return self.bound > -self.margin


@dataclass(frozen=True)
class Verdict:
    """Champion against challenger on the same tasks and seeds."""

    decision: Decision
    champion: str
    """Evaluation id."""
    challenger: str
    """Evaluation id."""
    champion_success: Interval
    challenger_success: Interval
    difference: Interval
    mcnemar_p: float
    reason: str
    """One sentence for a person."""
    look: int = 1
    """Which look at the results of this challenger it was, from 1."""
    looks: int = 1
    """How many there might have been."""
    alpha: float | None = None
    """Level of this look's test; None in verdicts of a time without looks."""
    guards: tuple[GuardResult, ...] = ()
    """What was examined beside the campaign's own tasks."""
