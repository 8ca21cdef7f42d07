"""The level of each challenger: how the chance of ever being wrong, `alpha`, is spent over the life of a campaign.

`share(1) + share(2) + …` is 1, so that challengers without end spend no more than `alpha` together.

That holds as it is where each challenger meets tasks of its own. In a sealed block several challengers meet the same tasks,
and what was promoted on them decides what comes later. But that is all that it decides: nothing of the tasks, their answers
or anybody's success on them is learnt from. Given what was promoted within the block, and when, the next challenger and its
champion are fixed by things that are independent of the block. So each such history, known to begin with, gets a share of
the challenger's level (`of_history`); these are at most 1 together as well, and the union over all histories is a union
over policies that are independent of the tasks.
"""

from __future__ import annotations

from math import exp, lgamma, log, log1p, sqrt

from agentloop.records import Entry

EARLY = 3
"""The larger, the more of the level is left for later challengers."""

ANOTHER = 1 / 3
"""Share of the level for histories of a block with one promotion more."""

LEAST = 1e-250
"""Level that nobody goes below, so that it stays a number; a million challengers with it change nothing."""

CHALLENGERS = 0.9
"""Share of `alpha` for challengers; the rest is for meetings with earlier champions, which may replace the champion too."""


def share(number: int) -> float:
    """Return the share of a level that the challenger with this number, from 1, may spend."""
    return left(number - 1) - left(number)


def left(number: int) -> float:
    """Return the share of a level that is left after so many challengers."""
    return sqrt(EARLY / (EARLY + number))


def of_history(place: int, promotions: int) -> float:
    """Return the share for one history of a block: so many promotions by the challengers before this place, from 1.

    There are `comb(place - 1, promotions)` such histories. The shares of all histories before a place are 1 together.
    """
    most = place - 1
    weight = promotions * log(ANOTHER) + (0 if promotions == most else log1p(-ANOTHER))
    histories = lgamma(most + 1) - lgamma(promotions + 1) - lgamma(most - promotions + 1)
    return exp(weight - histories)


def of_entry(entry: Entry, alpha: float) -> float:
    """Return the level of a challenger, of `alpha` for all that a campaign ever has."""
    return max(LEAST, alpha * share(entry.number) * of_history(entry.place, entry.promotions))


def needed(entry: Entry, alpha: float) -> float:
    """Return the evidence that a challenger needs."""
    return 1 / of_entry(entry, alpha)


def meeting(number: int, references: int, alpha: float) -> float:
    """Return the level at which the champion may lose to one of so many `references` at the meeting with this number."""
    return alpha * (1 - CHALLENGERS) * share(number) / references
