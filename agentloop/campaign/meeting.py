"""Meetings: the champion against policies that are no challengers.

Where a new block of held-out tasks begins, on which nobody was chosen, the champion meets the base and the best of the
earlier champions; one that is better than it by the evidence becomes champion again. Now and then the champion meets
itself, which shows how often the gate is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from agentloop.campaign import contest
from agentloop.campaign.campaign import Campaign
from agentloop.campaign.suites import Suite
from agentloop.evaluation import betting, level
from agentloop.evaluation.statistics import differences, paired_bootstrap
from agentloop.records import Entry
from agentloop.store import campaigns, champions, evaluations, meetings
from agentloop.store.database import Database
from agentloop.store.evaluations import Role
from agentloop.store.meetings import Kind, Meeting
from agentloop.text import odds

ITSELF = "itself"
"""Name of the suite on which the champion meets itself, the second time with another seed."""

OTHER_SEED = 1_000_003
"""Difference between the campaign's seed and the other one, which is larger."""


@dataclass(frozen=True)
class Opponent:
    """A policy that the champion meets."""

    kind: Kind
    adapter: str | None
    """None: the base."""
    role: Role
    suite: Suite


def due(campaign: Campaign, iteration: int) -> list[Opponent]:
    """Return whom the champion is to meet before this iteration begins; nobody where the iteration has begun already."""
    with campaign.database() as database:
        if campaigns.has_begun(database, campaign.name, iteration):
            return []
        upcoming = contest.upcoming(campaign, database)
        if upcoming.place > 1 or upcoming.block == 1 or _met(database, campaign, upcoming.block):
            return []
        champion = champions.champion(database, campaign.name)
        earlier = _best_earlier(database, campaign.name)
    suite = campaign.heldout(campaign.looks[0], upcoming.block)
    opponents = [Opponent("base", None, "base", suite)] if champion else []
    if earlier:
        opponents.append(Opponent("earlier", earlier, "earlier", suite))
    return opponents


def hold(
    campaign: Campaign, iteration: int, champion: str, others: Mapping[Kind, str], opponents: Sequence[Opponent]
) -> list[Meeting]:
    """Compare the champion with its opponents; the best that is better by the evidence becomes champion again.

    `champion`, `others`: evaluation ids, the latter by kind. Recorded once for a block, whole or not at all.
    """
    block = opponents[0].suite.block
    with campaign.database() as database, database.transaction():
        if _met(database, campaign, block):
            return [each for each in meetings.all_of(database, campaign.name) if each.block == block]
        number = len({each.block for each in meetings.all_of(database, campaign.name) if each.kind != "itself"}) + 1
        needed = 1 / level.meeting(number, len(opponents), campaign.settings.gate.alpha)
        held = [
            _compare(campaign, database, iteration, each.kind, block, champion, others[each.kind], needed)
            for each in opponents
        ]
        for each in held:
            meetings.save(database, campaign.name, each)
        if winners := [each for each in held if each.better]:
            best = max(winners, key=lambda each: each.difference.estimate)
            (adapter,) = [each.adapter for each in opponents if each.kind == best.kind]
            champions.rollback(database, campaign.name, adapter, reason=best.reason)
    return held


def itself_due(campaign: Campaign, entry: Entry) -> Suite | None:
    """Return the suite on which the champion is to meet itself after the challenger at `entry`, the first time with the
    campaign's seed; None where it is not to.
    """
    every = campaign.settings.gate.itself_every
    if not every or entry.number % every:
        return None
    return replace(campaign.heldout(campaign.looks[0], entry.block), name=ITSELF)


def other_seed(campaign: Campaign, suite: Suite) -> Suite:
    return replace(suite, seed=campaign.settings.seed + OTHER_SEED)


def hold_itself(campaign: Campaign, iteration: int, entry: Entry, first: str, second: str) -> Meeting:
    """Compare the champion with itself, at the whole of `gate.alpha`, and note what the gate would have said."""
    with campaign.database() as database, database.transaction():
        known = [each for each in meetings.all_of(database, campaign.name) if each.kind == "itself"]
        for each in known:
            if each.iteration == iteration:
                return each
        needed = 1 / campaign.settings.gate.alpha
        held = _compare(campaign, database, iteration, "itself", entry.block, first, second, needed)
        meetings.save(database, campaign.name, held)
    return held


def _met(database: Database, campaign: Campaign, block: int) -> bool:
    return any(each.block == block and each.kind != "itself" for each in meetings.all_of(database, campaign.name))


def _best_earlier(database: Database, campaign: str) -> str | None:
    """Return the champion that solved most among those that a better one replaced, rather than a rollback; None for none."""
    line: list[str | None] = [None]
    for move in champions.moves(database, campaign):
        if move.verdict:
            line.append(move.adapter)
        elif move.adapter in line:
            line = line[: line.index(move.adapter) + 1]
        else:
            line.append(move.adapter)
    promoted = {
        adapter: success
        for adapter, success in database.execute(
            """
            SELECT c.adapter, max(v.challenger_success.estimate)
            FROM champions c JOIN verdicts v ON v.id = c.verdict
            WHERE c.campaign = ? GROUP BY c.adapter
            """,
            [campaign],
        )
    }
    return max((each for each in line[:-1] if each), key=lambda each: promoted[each], default=None)


def _compare(
    campaign: Campaign,
    database: Database,
    iteration: int,
    kind: Kind,
    block: int,
    champion: str,
    other: str,
    needed: float,
) -> Meeting:
    first, second = evaluations.pair(*(evaluations.load(database, each) for each in (champion, other)))
    outcomes = first.successes, second.successes
    evidence = betting.evidence(differences(*outcomes))
    difference = paired_bootstrap(*outcomes, resamples=campaign.settings.gate.resamples)
    better = evidence >= needed and difference.estimate > 0
    return Meeting(
        iteration,
        kind,
        block,
        champion,
        other,
        difference,
        evidence,
        needed,
        better,
        f"{_OPENING[kind, better]}: {100 * difference.estimate:+.1f} points (95 % interval {100 * difference.low:+.1f} to "
        f"{100 * difference.high:+.1f}) on {len(first.tasks)} tasks of block {block}, evidence e = {odds(evidence)}, "
        f"{odds(needed)} needed.",
    )


_OPENING: dict[tuple[Kind, bool], str] = {
    ("base", False): "The base against the champion",
    ("base", True): "The base is better than the champion and replaces it",
    ("earlier", False): "The best earlier champion against the champion",
    ("earlier", True): "The best earlier champion is better than the champion and replaces it",
    ("itself", False): "The champion against itself, with another seed",
    ("itself", True): "The champion against itself, with another seed: a false alarm",
}
