"""The figures of a proof, each with its name and what it is: for the terminal, the page and comparisons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from agentloop.proof.proof import at
from agentloop.proof.short_campaign import NOTHING_TO_LEARN, SOLVED_NOTHING
from agentloop.report.comparison import percent, points, probability
from agentloop.report.summary import DECISIONS

Kind = Literal["rate", "seconds", "gib", "count", "nats", "share", "points", "probability", "text", "interval"]


@dataclass(frozen=True)
class Figure:
    place: str
    """Dotted, in proof.json."""
    name: str
    kind: Kind
    about: str
    """What it is, for somebody who reads it alone."""
    flattering: bool = False
    """True for the best case, which no user's run gets as a whole."""

    def text(self, proof: Mapping[str, Any]) -> str:
        value = at(proof, self.place)
        return "–" if value is None else _TEXTS[self.kind](value)

    @property
    def comparable(self) -> bool:
        """Return True where the ratio of two of them says something."""
        return self.kind in ("rate", "seconds", "gib")


_CANARY = (
    (
        "passed",
        "served as trained",
        "text",
        "the canary's judgement: base and adapter answer as the trainer computes them",
    ),
    ("base_mean", "base off by", "nats", "mean difference between served and trained log probabilities, base model"),
    ("adapter_mean", "adapter off by", "nats", "the same under the adapter"),
    ("effect_mean", "effect of the adapter", "nats", "how far it moves the trainer's own log probabilities"),
    ("share", "of it served", "share", "100 % for all of it; none where the effect drowns in rounding"),
    ("tolerance", "tolerance", "nats", "follows from the trainer's own rounding"),
)


def _canary(part: str) -> tuple[Figure, ...]:
    return tuple(Figure(f"{part}.canary.{field}", name, kind, about) for field, name, kind, about in _CANARY)


def _swap(part: str, meanwhile: str) -> tuple[Figure, ...]:
    marks = f"{part}.seconds_from_last_step_to"
    return (
        Figure(
            f"{marks}.first_token", "new adapter answers after", "seconds", f"from training's last step; {meanwhile}"
        ),
        Figure(
            f"{marks}.trainer_ended",
            "of it, trainer ended after",
            "seconds",
            "adapter and yardstick written, process gone",
        ),
        Figure(f"{marks}.served_again", "of it, vLLM answers after", "seconds", "with the base model"),
        Figure(
            f"{part}.make_room_seconds", "vLLM makes room in", "seconds", "until the card's memory is the trainer's"
        ),
        Figure(f"{part}.held_while_training_gib", "vLLM keeps of the card", "gib", "while the trainer has it"),
        Figure(
            f"{part}.seconds_to_first_step",
            "trainer's first step ends after",
            "seconds",
            "from its start, compiled before: what each later training of a user pays",
        ),
    )


SECTIONS: tuple[tuple[str, tuple[Figure, ...]], ...] = (
    (
        "Training",
        (
            Figure(
                "training.tokens_per_second",
                "tokens per second, whole epoch",
                "rate",
                "from launch to the saved adapter: start, compilation, captures and saving included",
            ),
            Figure(
                "training.steady_tokens_per_second",
                "tokens per second, steady state",
                "rate",
                "the median step alone, without start, first steps and saving: the flattering figure",
                flattering=True,
            ),
            Figure("training.seconds", "whole epoch", "seconds", "from launch to the saved adapter"),
            Figure(
                "training.seconds_to_first_step",
                "first step ends after",
                "seconds",
                "process started, model loaded and quantised, kernels compiled",
            ),
            Figure("training.step_seconds.mean", "mean step", "seconds", "all steps, the first included"),
            Figure(
                "training.step_seconds.median",
                "median step",
                "seconds",
                "half of the steps take longer",
                flattering=True,
            ),
            Figure(
                "training.process_memory_gib",
                "peak memory of the process",
                "gib",
                "of the card, as nvidia-smi shows it; none on the CPU",
            ),
            Figure("training.base_held_in", "base held in", "text", "while it is trained on"),
            Figure(
                "training.rows.source",
                "rows",
                "text",
                "stored trajectories where there are enough, else synthetic ones of log-normal length",
            ),
            Figure("training.rows.tokens", "tokens", "count", "of the epoch"),
            Figure("training.rows.supervised_share", "supervised", "share", "share of the tokens that are trained on"),
            Figure("training.rows.batches", "batches", "count", "packed; one optimizer step each"),
        ),
    ),
    (
        "Serving",
        (
            Figure("serving.start_seconds", "vLLM answers after", "seconds", "cold: nothing compiled before"),
            Figure(
                "serving.dequantised_seconds",
                "dequantised base made in",
                "seconds",
                "once for each model; none where the base is not trained in 4 bit",
            ),
            Figure(
                "serving.rate.base.tokens_per_second",
                "output tokens per second, base",
                "rate",
                "of episodes through this project's agent and client, the first round included",
            ),
            Figure(
                "serving.rate.adapter.tokens_per_second",
                "output tokens per second, adapter",
                "rate",
                "of episodes through this project's agent and client, with the epoch's adapter",
            ),
            Figure(
                "serving.rate.adapter.after_first_round_tokens_per_second",
                "after the first round, adapter",
                "rate",
                "without the first requests, which compile and fill caches",
                flattering=True,
            ),
            Figure("serving.rate.adapter.in_flight", "episodes in flight", "count", "collect.concurrency"),
            Figure("serving.rate.adapter.mean_prompt_tokens", "mean prompt", "count", "tokens of a request"),
            Figure(
                "serving.rate.adapter.mean_output_tokens",
                "mean answer",
                "count",
                "tokens of a turn; its longest length is drawn, see the documentation",
            ),
        ),
    ),
    ("Swap, vLLM restarted", _swap("restart", "vLLM ends for the trainer and starts again, on the CPU it stays")),
    ("Swap, vLLM asleep", _swap("sleep", "vLLM sleeps meanwhile")),
    ("Canary of the epoch's adapter", _canary("serving")),
    ("Canary after the restart", _canary("restart")),
    ("Canary after the sleep", _canary("sleep")),
    (
        "Campaign",
        (
            Figure("campaign.outcome", "verdict", "text", "of the gate, on held-out tasks"),
            Figure("campaign.collected", "episodes collected", "count", "by the base model"),
            Figure("campaign.solved", "of them solved", "count", "as the environment's verifier says"),
            Figure("campaign.rows_trained_on", "rows trained on", "count", "what the selection chose"),
            Figure("campaign.base_success", "base", "interval", "success on held-out tasks, with its 95 % interval"),
            Figure("campaign.adapter_success", "adapter", "interval", "success on the same tasks"),
            Figure("campaign.difference", "difference", "points", "in percentage points, with its 95 % interval"),
            Figure("campaign.mcnemar_p", "McNemar p", "probability", "exact test on the same tasks"),
            Figure(
                "campaign.seconds",
                "whole campaign",
                "seconds",
                "from the command to the report; none where it was interrupted",
            ),
        ),
    ),
)


def _decision(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return DECISIONS.get(value, str(value))


def _interval(value: Mapping[str, float]) -> str:
    return f"{percent(value['estimate'])} ({percent(value['low'])} to {percent(value['high'])})"


def _points(value: Mapping[str, float]) -> str:
    return f"{points(value['estimate'])} ({points(value['low'])} to {points(value['high'])})"


def _number(value: float) -> str:
    """Three digits at least."""
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:,.{2 if value < 10 else 1}f}"


_TEXTS = {
    "rate": lambda value: f"{_number(value)} tok/s",
    "seconds": lambda value: f"{value:.3f} s" if value < 1 else f"{_number(value)} s",
    "gib": lambda value: f"{value:.2f} GiB",
    "count": _number,
    "nats": lambda value: f"{value:.2g} nats",
    "share": percent,
    "points": _points,
    "probability": probability,
    "text": _decision,
    "interval": _interval,
}


def measured(proof: Mapping[str, Any]) -> list[tuple[str, list[Figure]]]:
    """The sections with the figures that the proof has."""
    found = [(title, [each for each in figures if at(proof, each.place) is not None]) for title, figures in SECTIONS]
    return [(title, figures) for title, figures in found if figures]


def machine(proof: Mapping[str, Any]) -> str:
    """The card, or the processor where there is none, in one line."""
    about = proof["machine"]
    cards = [each["name"] for each in about["cards"]]
    if cards:
        names = f"{len(cards)} × {cards[0]}" if len(cards) > 1 and len(set(cards)) == 1 else ", ".join(cards)
        return f"{names}, {about['cards'][0]['memory_gib']:.0f} GiB, driver {about['driver']}"
    return f"{about['cpu']}, {about['cores']} cores, {about['memory_gib']:.0f} GiB, no card"


def model(proof: Mapping[str, Any]) -> str:
    about = proof["model"]
    size = f"{about['bytes'] / 1e9:.2f} GB" if about["bytes"] >= 1e8 else f"{about['bytes'] / 1e6:.1f} MB"
    return (
        f"{about['name']}: {about['family']}, {about['layers']} layers, hidden {about['hidden']:,}, "
        f"vocabulary {about['vocabulary']:,}, {about['parameters']:,} parameters, {size} "
        f"({about['stored_in']}), {about['fingerprint']}"
    )


def remarks(proof: Mapping[str, Any]) -> list[str]:
    """Return what a reader must know before the figures, one sentence each."""
    said = []
    serving, campaign = proof["serving"], proof["campaign"]
    if serving and serving["random_weights"]:
        said.append(
            "For speed only: the model has random weights (its answers are as uncertain as guesses, "
            f"{serving['answers_nats_per_token']:.1f} nats per token; a uniform guess has "
            f"{serving['uniform_nats_per_token']:.1f}). Nothing here says what the model can do."
        )
    if campaign and campaign["outcome"] == SOLVED_NOTHING:
        said.append(
            f"The base model solved none of {campaign['collected']} episodes, so there was nothing to learn from and "
            "no verdict. Teach it the environment first: agentloop teach."
        )
    if campaign and campaign["outcome"] == NOTHING_TO_LEARN:
        said.append(
            f"Of {campaign['collected']} episodes {campaign['solved']} were solved, and the selection left none to train "
            "on: no verdict."
        )
    for title, part in (("epoch", "serving"), ("restart", "restart"), ("sleep", "sleep")):
        canary = (proof[part] or {}).get("canary")
        if canary and not canary["passed"]:
            said.append(f"Canary ({title}): what is served is not what was trained: {canary['fault']}.")
    cold = [proof[part]["from_empty_caches"] for part in ("training", "serving") if proof[part]]
    if not all(cold):
        said.append("A cache of the user's own was in use: the first start was not cold.")
    if proof["sizes"]["smaller_for_the_cpu"]:
        said.append("Measured on the CPU, with the smaller sizes for it.")
    if not campaign:
        said.append("No campaign was run.")
    return said


def canaries(proof: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The reports of all that were asked."""
    return [proof[part]["canary"] for part in ("serving", "restart", "sleep") if proof[part]]


def passed(proof: Mapping[str, Any]) -> bool:
    """Return True where every adapter was found served as it was trained."""
    return all(canary["passed"] for canary in canaries(proof))


def verdict(proof: Mapping[str, Any]) -> tuple[str, str] | None:
    """(what came of the campaign, the figures behind it); None without a campaign."""
    campaign = proof["campaign"]
    if not campaign:
        return None
    if "difference" not in campaign:
        return _decision(campaign["outcome"]), f"{campaign['solved']} of {campaign['collected']} episodes solved"
    before, after = (percent(campaign[name]["estimate"]) for name in ("base_success", "adapter_success"))
    tasks = campaign["heldout_tasks"]
    return (
        _decision(campaign["outcome"]),
        f"base {before}, adapter {after} of {tasks} held-out tasks; {_points(campaign['difference'])} points",
    )
