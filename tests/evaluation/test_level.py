"""The level over a campaign's life: what all challengers and all histories of a block together may spend."""

from itertools import product

import numpy as np
import pytest

from agentloop.evaluation import level
from agentloop.records import Entry


def test_challengers_without_end_spend_no_more_than_there_is():
    shares = [level.share(number) for number in range(1, 100_001)]
    assert min(shares) > 0 and sum(shares) + level.left(100_000) == pytest.approx(1)
    assert shares == sorted(shares, reverse=True)


@pytest.mark.parametrize("place", range(1, 13))
def test_the_histories_of_a_block_share_the_level_of_one_challenger(place):
    """Every sequence of promoted or not before this place has its own share; together they are no more than the whole."""
    histories = product((False, True), repeat=place - 1)
    assert sum(level.of_history(place, sum(history)) for history in histories) == pytest.approx(1)


def test_a_block_may_be_used_for_ever():
    assert level.needed(Entry(5000, 1, 5000, 2500, True), 0.01) == 1 / level.LEAST


def test_challengers_and_meetings_together_have_the_whole_level():
    meetings = sum(2 * level.meeting(number, 2, 0.01) for number in range(1, 10_000))
    challengers = level.CHALLENGERS * 0.01
    assert meetings + challengers < 0.01 and meetings > 0.0009


def test_later_challengers_and_those_after_promotions_need_more():
    alone, later = Entry(5, 2), Entry(6, 3)
    assert level.needed(alone, 0.01) < level.needed(later, 0.01)
    needed = [level.needed(Entry(9, 1, 6, promotions), 0.01) for promotions in range(4)]
    assert needed == sorted(needed)
    assert level.of_entry(Entry(3), 0.01) == pytest.approx(0.01 * level.share(3))


def campaign(rng: np.random.Generator, nights: int, alpha: float, shares) -> tuple[bool, int]:
    """(promoted a policy that is no better, promotions) of a campaign that cheats where it can.

    A block has 12 tasks and is never renewed. There is a pool of policies, half of them truly better, and what comes next
    depends on what was promoted before, as it does when a champion makes the data that the next challenger learns from.
    Evidence of one night at most: its expectation is 1 for policies that are no better.
    """
    wrong, promotions, history = False, 0, 0
    pool: dict[int, tuple[bool, float]] = {}
    for night in range(1, nights + 1):
        key = history * 1000 + night  # fixed before the tasks are met, given the history
        if key not in pool:
            better = bool(rng.random() < 0.3)
            pool[key] = better, (50.0 if better else 0.0) if rng.random() < 0.5 else 1 / rng.random()
        better, evidence = pool[key]
        if evidence >= 1 / (alpha * shares(night, promotions)):
            wrong |= not better
            promotions, history = promotions + 1, night
    return wrong, promotions


def ever_wrong(shares, campaigns: int = 3000) -> float:
    rng = np.random.default_rng(5)
    return float(np.mean([campaign(rng, 40, 0.2, shares)[0] for _ in range(campaigns)]))


def test_a_campaign_on_one_block_for_ever_is_wrong_no_more_often_than_alpha():
    assert ever_wrong(lambda night, promotions: level.of_entry(Entry(night, 1, night, promotions), 1)) <= 0.2


def test_a_level_for_each_challenger_by_itself_would_add_up():
    """The test above can fail: this is what no spending at all gives."""
    assert ever_wrong(lambda night, promotions: 1.0) > 0.5
