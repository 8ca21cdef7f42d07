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
Status = Literal["answered", "ended", "malformed", "turn_limit", "token_limit", "time_limit", "failed", "not_sampled"]
Role = Literal["user", "model", "tool", "history"]
"""Whose turn it is. `history`: a turn of the model's that an agent of one's own has shown it again, or has written for it; it
was not sampled at this place."""
SOLVED = 0.5
"""From this score `success` on an episode is solved. Selection, pass@k, the gate, the report and the views all mean this; a
query has the number itself, which a test compares."""
Decision = Literal["promote", "keep", "needs_more_data"]
ExportForm = Literal["adapter", "merged", "gguf", "gguf-adapter"]
"""Form in which an adapter leaves the house: for PEFT, as a whole model, as GGUF, as GGUF beside its base."""


@dataclass(frozen=True)
class Task:
    """One question with the answer that its environment's verifier expects."""

    environment: str
    """Name of the environment that it comes from."""
    family: str
    """Name of the kind of question."""
    question: str
    """The question as the model reads it."""
    answer: str
    """The right answer, as the verifier expects it."""
    split: Split
    """`train`, `heldout`, or `demonstration` in environments that have such tasks."""
    payload: dict[str, Any] = field(default_factory=dict)
    """JSON that the environment needs to set up the episode: a database seed, say."""

    @cached_property
    def id(self) -> str:
        """`task_…`: hash of environment, question and payload."""
        return content_id("task", [self.environment, self.question, self.payload])


@dataclass(frozen=True)
class Sampling:
    """The way a policy is sampled, and when an episode ends. Part of a trajectory's name."""

    temperature: float = 1.0
    """Sampling temperature; 0 takes the most probable token."""
    top_p: float = 1.0
    """Probability mass of the tokens that are sampled from."""
    max_turns: int = 6
    """Turns that the model gets in an episode."""
    max_turn_tokens: int = 64
    """Tokens that one turn of the model may have."""
    max_tokens: int = 512
    """Tokens of the whole episode, prompt and tool results included."""


@dataclass(frozen=True)
class Policy:
    """A base model, an adapter on it or none, and the prompt format: together they act."""

    base: str
    """Fingerprint of the base model's weights and tokenizer (`base_…`)."""
    adapter: str | None
    """Adapter id (`adapter_…`); None for the base alone."""
    prompt: str
    """Name and version of the prompt format."""

    @cached_property
    def id(self) -> str:
        """`policy_…`: hash of all fields."""
        return content_id("policy", self)


@dataclass(frozen=True)
class Quantization:
    """The way the linear layers of a base are held while it is trained on: in 16 bit, in NF4, or in NF4 with exceptions."""

    in_4bit: bool
    """True: the linears are in NF4; false: in 16 bit."""
    in_16bit: tuple[str, ...] = ()
    """Names of the linears that stay in 16 bit although `in_4bit` is true, sorted: `layers.0.self_attn.q_proj`."""

    @classmethod
    def of(cls, training: Mapping[str, Any]) -> Quantization:
        """Return the quantization that an adapter was trained with, from the training settings it is stored with."""
        return cls(training["load_in_4bit"], tuple(training.get("in_16bit", ())))

    def settings(self) -> dict[str, Any]:
        """Return the part of an adapter's training settings that says this, as JSON: the inverse of `of`."""
        return {"load_in_4bit": self.in_4bit} | ({"in_16bit": list(self.in_16bit)} if self.in_16bit else {})

    @property
    def kind(self) -> Literal["none", "dynamic", "nf4"]:
        """The value of `training.quantization` that asks for this."""
        if not self.in_4bit:
            return "none"
        return "dynamic" if self.in_16bit else "nf4"

    def named(self, base: str) -> str:
        """Return the fingerprint of `base` (`base_…`) once it is quantised and dequantised, which is another model."""
        if not self.in_4bit:
            return base
        return f"{base}-{content_id('nf4', list(self.in_16bit)) if self.in_16bit else 'nf4'}"


NONE, NF4 = Quantization(False), Quantization(True)


@dataclass(frozen=True)
class Turn:
    """One contiguous span of an episode's token sequence, written by one author."""

    role: Role
    """Author of the span."""
    text: str
    """The span as text."""
    start: int
    """Index of the span's first token in the trajectory's `token_ids`."""
    end: int
    """Index one past the span's last token."""
    tool: str | None = None
    """Model turn: name of the tool called. Tool turn: name of the tool that answered."""
    arguments: str | None = None
    """Model turn: the call's arguments as JSON."""
    error: str | None = None
    """Tool turn: complaint of the tool or the parser, as the model was told it."""
    reward: float | None = None
    """Model turn: reward that the world gave for it; None where it gave none."""


@dataclass(frozen=True)
class Attempt:
    """One failed try at an episode: an infrastructure failure, not a result."""

    error: str
    """The failure in one line."""
    seconds: float
    """Time that the attempt took."""


@dataclass(frozen=True)
class Trajectory:
    """One finished episode: the ids that the model saw and produced, as they are trained on.

    With the status `failed` it is an episode that infrastructure kept from finishing: it has no tokens, only attempts, and
    is never scored. With `not_sampled` it was never begun, for its task had been given up; it is nobody's failure.
    """

    policy: str
    """Id of the policy that acted (`policy_…`)."""
    task: Task
    """The task that was tried."""
    sample: int
    """Index of this sample among those of the same task and policy."""
    sampling: Sampling
    """How the policy was sampled."""
    seed: int
    """Seed of the campaign's sampling."""
    status: Status
    """How the episode ended: `answered`, `ended` (by its world, without an answer), at a limit, `malformed` (no call and no
    answer), `failed` or `not_sampled`."""
    answer: str | None
    """Final answer as parsed; None where the episode ended without one."""
    token_ids: tuple[int, ...]
    """All tokens of the episode in order: prompt, model turns and tool results."""
    mask: tuple[bool, ...]
    """True at the tokens that the model produced there: the only ones that are trained on. [len(token_ids)]"""
    logprobs: tuple[float, ...]
    """Log probability of each produced token under the raw (untempered) policy; 0.0 where mask is False. [len(token_ids)]"""
    turns: tuple[Turn, ...]
    """Spans of `token_ids`, in order and without gaps. What a world said last, when the episode was over, has no tokens: the
    model was not shown it."""
    seconds: float
    """Time that the episode took."""
    attempts: tuple[Attempt, ...] = ()
    """Tries that failed before this one, or all of them where the status is `failed`."""
    outcome: Any = None
    """What the session knew at the end, as JSON, for the environment's `score`; None where it has no outcome."""
    starts: tuple[int, ...] = (0,)
    """Index of the first token of each conversation in `token_ids`. An agent of one's own may lead several: sub-agents, and
    histories that it has rewritten. Each is a sequence of its own, which is trained on by itself."""

    @cached_property
    def id(self) -> str:
        """`traj_…`: hash of policy, task, sample, sampling and seed."""
        return trajectory_id(self.policy, self.task.id, self.sample, self.sampling, self.seed)


def trajectory_id(policy: str, task: str, sample: int, sampling: Sampling, seed: int) -> str:
    """Return the name of the trajectory that this sample of this task gets, which is known before it is run."""
    return content_id("traj", [policy, task, sample, sampling, seed])


@dataclass(frozen=True)
class Score:
    """One number about one trajectory, from one version of one scorer."""

    trajectory: str
    """Trajectory id (`traj_…`)."""
    scorer: str
    """Name of the scorer: `success` is the environment's verifier."""
    version: int
    """Version of the scorer."""
    value: float
    """The score; verifiers give 0 to 1."""


@dataclass(frozen=True)
class Dataset:
    """An ordered choice of trajectories and the recipe that chose them."""

    trajectories: tuple[str, ...]
    """Ids of the trajectories, in the order in which they become rows."""
    recipe: str
    """Name of the recipe."""
    parameters: dict[str, Any]
    """Values that the recipe's query was given, and a digest of the query."""
    rewards: tuple[float, ...] = ()
    """What each row was worth when it was chosen, where failures are among them; empty where all are successes, or pairs."""

    @cached_property
    def id(self) -> str:
        """`data_…`: hash of all fields."""
        rewards = [list(self.rewards)] if self.rewards else []
        return content_id("data", [list(self.trajectories), self.recipe, self.parameters, *rewards])


@dataclass(frozen=True)
class Adapter:
    """LoRA weights, named by everything that determines them."""

    base: str
    """Fingerprint of the base model (`base_…`)."""
    dataset: str
    """Id of the dataset that it was trained on (`data_…`)."""
    training: dict[str, Any]
    """The training settings as JSON."""
    seed: int
    """Seed of the initial weights and of the order of rows."""
    code: str
    """Version of the training code (`agentloop.training.CODE_VERSION`)."""
    parent: str | None = None
    """Id of the adapter that training started from; None for a fresh one."""

    @cached_property
    def id(self) -> str:
        """`adapter_…`: hash of all fields."""
        return content_id("adapter", self)


@dataclass(frozen=True)
class Interval:
    """A point estimate with its confidence interval."""

    estimate: float
    """The estimate itself."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""


@dataclass(frozen=True)
class Evaluation:
    """Success of one policy on held-out tasks."""

    policy: str
    """Id of the policy that was measured (`policy_…`)."""
    tasks: tuple[str, ...]
    """Ids of the tasks (`task_…`)."""
    samples: int
    """Episodes of each task."""
    seed: int
    """Seed of the sampling: the same for every policy that is compared."""
    successes: tuple[tuple[bool, ...], ...]
    """[tasks][samples]: the episode was solved."""
    sampling: Sampling = Sampling()
    """How the policy was sampled."""

    @cached_property
    def id(self) -> str:
        """`eval_…`: hash of policy, tasks, samples, seed and sampling."""
        about = [self.policy, list(self.tasks), self.samples, self.seed]
        # no part of the name at first, so that it is none while it has its default
        return content_id("eval", about if self.sampling == Sampling() else [*about, self.sampling])


@dataclass(frozen=True)
class Entry:
    """One challenger's entry in the life of its campaign, which gives it its level and its held-out tasks."""

    number: int = 1
    """Number among the challengers of the campaign, or among the times that a guard was asked, from 1."""
    block: int = 1
    """Number of the block of held-out tasks, from 1."""
    place: int = 1
    """Number among the challengers that the block is used for, from 1."""
    promotions: int = 0
    """Promotions by the challengers before it on the same block."""
    used_up: bool = False
    """True where the block should have been renewed and the environment has no further held-out tasks."""


@dataclass(frozen=True)
class GuardResult:
    """Champion against challenger on held-out tasks of another environment, at which it must not be worse."""

    environment: str
    """Name of the other environment."""
    champion: str
    """Id of the champion's evaluation there (`eval_…`)."""
    challenger: str
    """Id of the challenger's evaluation there (`eval_…`)."""
    difference: Interval
    """Success of the challenger less that of the champion."""
    bound: float
    """Lower confidence bound of the difference."""
    margin: float
    """Loss of success, as a share, that is not held against the challenger."""
    evidence: float | None = None
    """E-value against a loss of the margin; None in results from before the gate went by e-values."""
    needed: float | None = None
    """E-value that was needed; None in results from before."""

    @property
    def passed(self) -> bool:
        """Return True where the challenger is, with confidence, not worse by the margin."""
        return self.bound > -self.margin


@dataclass(frozen=True)
class Verdict:
    """Champion against challenger on the same tasks and seeds."""

    decision: Decision
    """`promote`, `keep`, or `needs_more_data` where another look follows."""
    champion: str
    """Id of the champion's evaluation (`eval_…`)."""
    challenger: str
    """Id of the challenger's evaluation (`eval_…`)."""
    champion_success: Interval
    """Share of episodes that the champion solved."""
    challenger_success: Interval
    """Share of episodes that the challenger solved."""
    difference: Interval
    """Success of the challenger less that of the champion, paired by task."""
    mcnemar_p: float
    """p-value of the exact McNemar test, which is shown and decides nothing."""
    reason: str
    """The verdict in one sentence for a person."""
    look: int = 1
    """Number of this look at the challenger's results, from 1."""
    looks: int = 1
    """Number of looks that there may be."""
    alpha: float | None = None
    """Level of this challenger's test, or of this look's in verdicts from before the gate went by e-values; None in verdicts
    from before there were several looks."""
    guards: tuple[GuardResult, ...] = ()
    """Results at the other environments that are guarded."""
    evidence: float | None = None
    """E-value that the gain exceeds the one asked for; None in verdicts from before the gate went by e-values."""
    needed: float | None = None
    """E-value that this challenger needed; None in verdicts from before."""
