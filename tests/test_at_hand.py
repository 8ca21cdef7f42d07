"""What a process has open: the newest under a key, whatever the order in which blocks end."""

from contextlib import ExitStack, contextmanager

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


def test_one_thing_held_twice():
    things = AtHand()
    with things.holding("a", "it"):
        with things.holding("a", "it"):
            pass
        assert things.get("a") == "it"
    assert things.get("a") is None


def test_what_is_shared_is_opened_by_the_first_and_closed_by_the_last():
    told = []

    @contextmanager
    def opened():
        told.append("opened")
        yield len(told)
        told.append("closed")

    things, first, second = AtHand(), ExitStack(), ExitStack()
    assert first.enter_context(things.sharing("a", opened)) == second.enter_context(things.sharing("a", opened)) == 1
    first.close()
    assert told == ["opened"]
    with things.sharing("b", opened) as other:
        assert other == 2
    second.close()
    assert told == ["opened", "opened", "closed", "closed"]
    with things.sharing("a", opened) as again:
        assert again == 5
