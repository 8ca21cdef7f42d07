"""Who serves from a data root, and how it gives way to a run: the locks, without a vLLM."""

import threading
from multiprocessing import get_context

import pytest

from agentloop import card
from agentloop.campaign import lock, served
from agentloop.campaign.served import Served
from agentloop.errors import StoreError

WHAT = Served("agentloop serve", "mine", url="http://127.0.0.1:8000", gives_way=True)


def _serve(data, what, begun, over):
    with served.held(data, what):
        begun.set()
        over.wait(30)


@pytest.fixture
def elsewhere(tmp_path):
    """Serve from `tmp_path` in another process; the call returns what ends it."""
    context, ends = get_context("fork"), []

    def begin(what=WHAT):
        begun, over = context.Event(), context.Event()
        process = context.Process(target=_serve, args=(tmp_path, what, begun, over))
        process.start()
        assert begun.wait(30)

        def end():
            over.set()
            process.join(30)

        ends.append(end)
        return end

    yield begin
    for end in ends:
        end()


def test_one_serves_at_a_time_and_is_named(tmp_path, elsewhere):
    assert served.now(tmp_path) is None
    end = elsewhere()
    present = served.now(tmp_path)
    assert (present.campaign, present.url) == ("mine", WHAT.url) and present.pid
    with pytest.raises(
        StoreError, match=rf"agentloop serve \(campaign mine, process {present.pid}\) serves from it already"
    ):
        with served.held(tmp_path, WHAT):
            pass
    end()
    with served.held(tmp_path, WHAT) as note:
        note(Served("agentloop serve", "yours"))
    assert served.now(tmp_path) is None


def test_a_run_waits_for_the_card_and_says_for_whom(tmp_path, elsewhere, monkeypatch):
    monkeypatch.setattr(card, "present", lambda: True)
    end = elsewhere()
    told, over = [], threading.Event()

    def run():
        served.wait_for_the_card(tmp_path, told.append)
        over.set()

    waiting = threading.Thread(target=run)
    waiting.start()
    assert not over.wait(2 * lock.POLL_SECONDS)
    end()
    assert over.wait(30)
    waiting.join()
    assert len(told) == 1 and told[0].startswith("waiting for agentloop serve (campaign mine, process ")


@pytest.mark.parametrize("gives_way, on_card", [(False, True), (True, False)])
def test_what_is_in_nobodys_way_is_not_waited_for(tmp_path, elsewhere, monkeypatch, gives_way, on_card):
    monkeypatch.setattr(card, "present", lambda: on_card)
    elsewhere(Served("agentloop serve", "mine", gives_way=gives_way))
    served.wait_for_the_card(tmp_path, lambda line: pytest.fail(line))


def test_a_campaign_gets_the_card_and_a_rollback_does_not(tmp_path):
    assert served.wanted_by(tmp_path) is None
    with lock.owned(tmp_path, campaign="mine"):
        assert served.wanted_by(tmp_path).campaign == "mine"
    with lock.owned(tmp_path):
        assert served.wanted_by(tmp_path) is None
