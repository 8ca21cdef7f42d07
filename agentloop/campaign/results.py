"""Where a campaign stands: the champion against the base model and against the control, on the same held-out tasks.

The gate compares each challenger with the champion of its day; what they add up to is computed here, from the stored
evaluations and by the gate's own statistics.
"""

from __future__ import annotations

from agentloop.campaign.suites import HELDOUT, UNSEEN
from agentloop.evaluation.contrast import contrast
from agentloop.evaluation.statistics import clustered_interval, pass_at_k
from agentloop.report import query, summary
from agentloop.report.comparison import Alone, Comparison, Headline
from agentloop.settings import Gate
from agentloop.store import campaigns, champions, evaluations
from agentloop.store.database import Database


def compare(
    database: Database, campaign: str, before: str | None, after: str | None, *, suite: str = HELDOUT
) -> Comparison | None:
    """Compare two adapters, None being the base model. None where they were not measured on the same tasks."""
    pairs = query.rows(database, "comparable", campaign=campaign, suite=suite, before=before, after=after)
    if not pairs:
        return None
    first, second = evaluations.pair(*(evaluations.load(database, pairs[0][which]) for which in ("before", "after")))
    gate = Gate(**campaigns.settings_json(database, campaign)["gate"])
    seen = contrast(first, second, resamples=gate.resamples)
    return Comparison(
        first,
        second,
        seen.before,
        seen.after,
        seen.difference,
        seen.test.p,
        tuple(
            (k, pass_at_k(first.successes, k), pass_at_k(second.successes, k))
            for k in (2**doublings for doublings in range(first.samples.bit_length()))
        ),
    )


def headline(database: Database, campaign: str) -> Headline:
    """The comparisons that a campaign is judged by, as far as they can be made yet."""
    champion = champions.champion(database, campaign)
    moves = champions.moves(database, campaign)
    rolled_back = moves[-1].reason if moves and moves[-1].verdict is None else None
    made = query.rows(database, "candidates", campaign=campaign)
    challengers = [row["adapter"] for row in made if row["role"] == "challenger"]
    best = champion or (challengers[-1] if challengers else None)
    gain = compare(database, campaign, None, best) if best else None
    unseen = compare(database, campaign, None, champion, suite=UNSEEN) if champion else None
    guards = tuple(row["environment"] for row in query.rows(database, "guards", campaign=campaign))
    alone = None if gain else measured_alone(database, campaign)
    found = query.rows(database, "control", campaign=campaign)
    if not found:
        return Headline(champion, gain, None, None, guards, unseen, rolled_back, alone)
    control, matched = found[0]["adapter"], found[0]["challenger"]
    over_control = compare(database, campaign, control, matched)
    return Headline(
        champion, gain, compare(database, campaign, None, control), over_control, guards, unseen, rolled_back, alone
    )


def measured_alone(database: Database, campaign: str) -> Alone | None:
    """The newest measurement on held-out tasks; None where there is none."""
    rows = query.rows(database, "measured", campaign=campaign, suite=HELDOUT)
    if not rows:
        return None
    found = evaluations.load(database, rows[0]["evaluation"])
    name = "base model" if rows[0]["adapter"] is None else rows[0]["role"]
    return Alone(name, clustered_interval(found.successes), len(found.tasks), found.samples)


def iterations(database: Database, campaign: str) -> list[summary.Row]:
    """The table that a run ends with."""
    return summary.iterations(database, campaign, headline(database, campaign).control)
