"""What two policies of a campaign show on the same held-out tasks, in figures and in sentences."""

from __future__ import annotations

from dataclasses import dataclass

from agentloop.records import Evaluation, Interval


@dataclass(frozen=True)
class Comparison:
    """Two policies on the same tasks, samples and seed. Made by agentloop.campaign.results."""

    before: Evaluation
    after: Evaluation
    before_success: Interval
    after_success: Interval
    difference: Interval
    """After less before."""
    mcnemar_p: float
    pass_at: tuple[tuple[int, float, float], ...]
    """(k, before, after): the chance that at least one of k samples solves a task."""

    @property
    def reached_before(self) -> float:
        """Share of the tasks that the first policy solved in at least one sample."""
        return sum(any(task) for task in self.before.successes) / len(self.before.successes)

    @property
    def never_before(self) -> list[bool]:
        """Return, for each task that the first policy never solved, whether the second did, in at least one sample."""
        pairs = zip(self.before.successes, self.after.successes, strict=True)
        return [any(after) for before, after in pairs if not any(before)]


@dataclass(frozen=True)
class Alone:
    """A policy that was measured, and nothing else on the same tasks."""

    name: str
    """base model, champion, challenger."""
    success: Interval
    tasks: int
    samples: int


@dataclass(frozen=True)
class Headline:
    champion: str | None
    """Adapter; None while the base model is champion."""
    gain: Comparison | None
    """Base against champion; while the base model is champion, against the newest challenger that was measured."""
    control: Comparison | None
    """Base against the control."""
    over_control: Comparison | None
    """Control against the challenger that it is matched to."""
    guards: tuple[str, ...]
    """Environments at which challengers were asked whether they got worse."""
    unseen: Comparison | None
    """Base against champion on tasks that no verdict was based on."""
    rolled_back: str | None
    """Why the champion is one that somebody went back to; None where the gate decided."""
    alone: Alone | None = None
    """While there is no gain to state: the policy that was measured last."""


def findings(result: Headline) -> list[str]:
    """Return what the figures show and what they do not, one sentence each."""
    if result.gain is None:
        unknown = "The base model and a challenger have not been measured on the same tasks yet: no gain can be stated."
        if result.alone is None:
            return [unknown]
        alone = result.alone
        return [
            f"On {alone.tasks} held-out tasks, {alone.samples} samples each, the {alone.name} solves "
            f"{percent(alone.success.estimate)}.",
            unknown,
        ]
    gain = result.gain
    best = "champion" if result.champion else "newest challenger"
    sentences = [
        f"On {len(gain.before.tasks)} held-out tasks, {gain.before.samples} samples each, the {best} solves "
        f"{percent(gain.after_success.estimate)} where the base model solves "
        f"{percent(gain.before_success.estimate)}: {span(gain.difference)}.",
        f"The base model solved {percent(gain.reached_before)} of these tasks in at least one of its samples: there a "
        f"gain is reliability, not a new ability. Of the {len(gain.never_before)} tasks that it never solved, the "
        f"{best} solves {sum(gain.never_before)} at least once.",
    ]
    if result.rolled_back is not None:
        sentences.insert(
            0,
            f"{result.champion or 'The base model'} is champion because somebody went back to it: {result.rolled_back}.",
        )
    elif result.champion is None:
        sentences.insert(
            0, "There is not enough evidence that a challenger is better, so the base model is still champion."
        )
    if result.over_control:
        control = result.over_control
        beyond = (
            "the choice of trajectories matters beyond training as such"
            if control.difference.low > 0
            else "training as such may explain the gain"
        )
        sentences.append(
            f"A control trained on as many randomly chosen trajectories solves "
            f"{percent(control.before_success.estimate)}; the challenger that it is matched to differs from it by "
            f"{span(control.difference)}: {beyond}."
        )
    if result.unseen:
        unseen = result.unseen
        sentences.append(
            f"On {len(unseen.before.tasks)} further tasks, on which no verdict was based, the champion solves "
            f"{percent(unseen.after_success.estimate)} where the base model solves "
            f"{percent(unseen.before_success.estimate)}: {span(unseen.difference)}."
        )
    guards = " and ".join(result.guards)
    others = f"at {guards} it was only asked whether a challenger got worse" if guards else "nothing else was measured"
    sentences.append(f"All of this is about tasks of the training tasks' own generator; {others}.")
    return sentences


def span(difference: Interval) -> str:
    """A difference of shares in words."""
    return f"{points(difference.estimate)} percentage points ({points(difference.low)} to {points(difference.high)})"


def percent(share: float) -> str:
    return f"{_tenths(share):.1f} %"


def points(difference: float) -> str:
    """A difference of shares in percentage points, signed."""
    return f"{_tenths(difference):+.1f}".replace("-", "−")


def _tenths(share: float) -> float:
    """In percent. The same share, summed in another order, must not show another last digit where it is halfway."""
    return round(100 * share, 6)


def probability(p: float) -> str:
    """A p-value for people: what is too small to matter is not spelled out."""
    return "<\u00a00.0001" if p < 1e-4 else f"{p:.4f}" if p < 0.1 else f"{p:.2f}"
