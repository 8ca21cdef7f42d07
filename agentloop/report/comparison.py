"""What a campaign shows: the champion against the base model and against the control, on the same held-out tasks."""

from __future__ import annotations

from dataclasses import dataclass

from agentloop.evaluation.verdict import judge
from agentloop.records import Evaluation, Interval, Verdict
from agentloop.report import query
from agentloop.settings import Gate
from agentloop.store import campaigns, champions, evaluations
from agentloop.store.database import Database


@dataclass(frozen=True)
class Comparison:
    """Two policies of a campaign on the same tasks, samples and seed."""

    before: Evaluation
    after: Evaluation
    verdict: Verdict
    """Of the gate's statistics; its decision counts only where it was the gate that asked."""

    @property
    def reached_before(self) -> float:
        """Share of the tasks that the first policy solved in at least one sample."""
        return sum(any(task) for task in self.before.successes) / len(self.before.successes)

    @property
    def never_before(self) -> list[bool]:
        """For each task that the first policy never solved: whether the second did, in at least one sample."""
        pairs = zip(self.before.successes, self.after.successes, strict=True)
        return [any(after) for before, after in pairs if not any(before)]


def compare(database: Database, campaign: str, before: str | None, after: str | None) -> Comparison | None:
    """Compare two adapters, None being the base model. None where they were not measured on the same tasks."""
    pairs = query.rows(database, "comparable", campaign=campaign, before=before, after=after)
    if not pairs:
        return None
    measured = [evaluations.load(database, pairs[0][which]) for which in ("before", "after")]
    gate = Gate(**campaigns.settings_json(database, campaign)["gate"])
    return Comparison(*measured, judge(*measured, gate))


@dataclass(frozen=True)
class Headline:
    champion: str | None
    """Adapter; None while the base model is champion."""
    gain: Comparison | None
    """Base against champion; while the base model is champion, against the newest challenger that was measured."""
    over_control: Comparison | None
    """Control against the challenger that it is matched to."""


def headline(database: Database, campaign: str) -> Headline:
    """The comparisons that a campaign is judged by, as far as they can be made yet."""
    champion = champions.champion(database, campaign)
    made = query.rows(database, "candidates", campaign=campaign)
    challengers = [row["adapter"] for row in made if row["role"] == "challenger"]
    best = champion or (challengers[-1] if challengers else None)
    gain = compare(database, campaign, None, best) if best else None
    control = query.rows(database, "control", campaign=campaign)
    matched = compare(database, campaign, control[0]["adapter"], control[0]["challenger"]) if control else None
    return Headline(champion, gain, matched)


def findings(result: Headline) -> list[str]:
    """What the figures show and what they do not, one sentence each."""
    if result.gain is None:
        return ["The base model and a challenger have not been measured on the same tasks yet: no gain can be stated."]
    gain, verdict = result.gain, result.gain.verdict
    best = "champion" if result.champion else "newest challenger"
    sentences = [
        f"On {len(gain.before.tasks)} held-out tasks, {gain.before.samples} samples each, the {best} solves "
        f"{percent(verdict.challenger_success.estimate)} where the base model solves "
        f"{percent(verdict.champion_success.estimate)}: {span(verdict.difference)}.",
        f"The base model solved {percent(gain.reached_before)} of these tasks in at least one of its samples: there a "
        f"gain is reliability, not a new ability. Of the {len(gain.never_before)} tasks that it never solved, the "
        f"{best} solves {sum(gain.never_before)} at least once.",
    ]
    if result.champion is None:
        sentences.insert(0, "No challenger has been significantly better, so the base model is still champion.")
    if result.over_control:
        control = result.over_control.verdict
        beyond = (
            "the choice of trajectories matters beyond training as such"
            if control.difference.low > 0
            else "training as such may explain the gain"
        )
        sentences.append(
            f"A control trained on as many randomly chosen trajectories solves "
            f"{percent(control.champion_success.estimate)}; the challenger that it is matched to differs from it by "
            f"{span(control.difference)}: {beyond}."
        )
    sentences.append("All of this is about tasks of the training tasks' own generator; others were not measured.")
    return sentences


def span(difference: Interval) -> str:
    """A difference of shares in words."""
    return f"{points(difference.estimate)} percentage points ({points(difference.low)} to {points(difference.high)})"


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def points(difference: float) -> str:
    """A difference of shares in percentage points, signed."""
    return f"{100 * difference:+.1f}".replace("-", "−")


def probability(p: float) -> str:
    """A p-value for people: what is too small to matter is not spelled out."""
    return "<\u00a00.0001" if p < 1e-4 else f"{p:.4f}" if p < 0.1 else f"{p:.2f}"
