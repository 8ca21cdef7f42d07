"""What a process has open: the newest under a key, whatever the order in which blocks end."""

from contextlib import ExitStack

from agentloop.at_hand import AtHand


def test_blocks_end_in_any_order():
    things, first, second, third = AtHand(), ExitStack(), ExitStack(), ExitStack()
    assert things.get("a") is None
    first.enter_context(things.holding("a", "outer"))
    second.enter_context(things.holding("a", "one"))
    third.enter_context(things.holding("a", "another"))
    assert things.get("a") == "another" and things.get("b") is None
    second.close()
    assert things.get("a") == "another"
    third.close()
    assert things.get("a") == "outer"
    first.close()
    assert things.get("a") is None


def test_what_is_kept_is_covered_by_what_is_held():
    things = AtHand()
    assert things.keep("a", "opened") == "opened"
    with things.holding("a", "at work"):
        assert things.get("a") == "at work"
    assert things.get("a") == "opened"
