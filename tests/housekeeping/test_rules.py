"""The policy as a table: what each fact says about what stays, and why."""

from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from agentloop.housekeeping import rules
from agentloop.housekeeping.facts import AdapterFacts, ShardFacts
from agentloop.housekeeping.rules import ShardChoice
from agentloop.settings import Retention

NOW = datetime(2026, 6, 1)
POLICY = Retention(adapter_days=14, adapter_iterations=3)
LOSER = AdapterFacts(
    "adapter_1", Path("a"), NOW - timedelta(days=15), champion=False, ancestor=False, open=False, newer=3, pruned=False
)
SHARD = ShardFacts(
    "shard_1",
    Path("s"),
    NOW - timedelta(days=15),
    512,
    frozenset({"a"}),
    chosen=0,
    measured=False,
    open=False,
    pruned=False,
)


@pytest.mark.parametrize(
    ("change", "stays"),
    [
        ({}, None),
        ({"newer": None}, None),  # no campaign has it any more
        ({"made": NOW - timedelta(days=14)}, "younger than retention.adapter_days"),
        ({"newer": 2}, "of the newest retention.adapter_iterations"),
        ({"champion": True, "ancestor": True}, "was champion"),
        ({"ancestor": True}, "a champion or a taught base descends from it"),
        ({"open": True}, "its iteration is not finished"),
        ({"pruned": True, "made": NOW, "newer": 0}, None),  # a removal that was interrupted goes on
    ],
)
def test_adapters(change, stays):
    assert rules.adapter(replace(LOSER, **change), POLICY, NOW) == stays


@pytest.mark.parametrize(
    ("change", "choice", "stays"),
    [
        ({}, None, "not asked for"),
        ({}, ShardChoice(campaign="a"), None),
        ({}, ShardChoice(campaign="b"), "of another campaign"),
        ({"campaigns": frozenset({"a", "b"})}, ShardChoice(campaign="a"), "of another campaign"),
        ({"campaigns": frozenset({"a", "b"})}, ShardChoice(days=14), None),
        ({}, ShardChoice(days=14), None),
        ({}, ShardChoice(days=15), "younger than asked for"),
        ({}, ShardChoice(campaign="a", days=15), "younger than asked for"),
        ({"chosen": 3}, ShardChoice(campaign="a"), None),  # these rows stay, in a shard of their own
        ({"measured": True}, ShardChoice(campaign="a"), "an evaluation or a taught base was made of it"),
        ({"open": True}, ShardChoice(campaign="a"), "its iteration is not finished"),
        ({"pruned": True}, None, None),
    ],
)
def test_shards(change, choice, stays):
    assert rules.shard(replace(SHARD, **change), choice, NOW) == stays


def test_an_age_is_counted_from_the_end_of_the_day_given():
    assert not rules.aged(1000.0, 1, 1000.0 + rules.DAY)
    assert rules.aged(1000.0, 1, 1001.0 + rules.DAY)
