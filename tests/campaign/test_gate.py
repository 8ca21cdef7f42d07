"""Looks and guards through a campaign's own steps: planned, ingested, measured, judged and recorded. No model takes part."""

import pytest
from by_hand import CHALLENGER, always, measured, never, opened, sometimes

from agentloop import settings as configuration
from agentloop.campaign import collect, contest, gate, results, suites
from agentloop.campaign.campaign import Campaign
from agentloop.campaign.suites import HELDOUT
from agentloop.errors import SettingError, StoreError
from agentloop.evaluation import level
from agentloop.evaluation.looks import Look
from agentloop.records import Entry
from agentloop.store import campaigns, evaluations, verdicts


@pytest.fixture
def campaign(tmp_path):
    campaign = opened(tmp_path)
    with campaign.database() as database:
        campaigns.register(database, campaign.settings)
    return campaign


def test_each_look_begins_with_the_shards_of_the_one_before_and_a_new_process_plans_the_same(campaign, tmp_path):
    first, second = (
        [shard.id for shard in collect.plan_evaluation(campaign, CHALLENGER, campaign.heldout(look))]
        for look in campaign.looks
    )
    assert (len(first), len(second)) == (2, 4) and second[:2] == first
    again = opened(tmp_path)
    assert [shard.id for shard in collect.plan_evaluation(again, CHALLENGER, again.heldout(again.looks[1]))] == second
    for look in campaign.looks:
        assert {task.split for task in campaign.heldout(look).tasks} == {"heldout"}


def test_unseen_tasks_are_held_out_and_in_no_look(campaign):
    looked_at = {task.id for task in campaign.heldout(campaign.looks[-1]).tasks}
    unseen = campaign.unseen().tasks
    assert len(unseen) == 16 and {task.split for task in unseen} == {"heldout"}
    assert not looked_at & {task.id for task in unseen}


def test_more_tasks_settle_what_the_first_look_could_not(campaign):
    decisions = []
    for look in campaign.looks:
        pair = {HELDOUT: measured(campaign, campaign.heldout(look), never, sometimes)}
        if look.last:
            pair["database"] = measured(campaign, campaign.guards(look)[0], always, always)
        decisions.append(gate.decide(campaign, pair, look, adapter=CHALLENGER, iteration=1))
    assert [each["decision"] for each in decisions] == ["needs_more_data", "promote"]
    assert campaign.champion() == CHALLENGER
    with campaign.database() as database:
        looks = database.execute("SELECT look, looks, alpha, decision FROM verdicts ORDER BY look")
        steps = database.execute("SELECT status, count(*) FROM steps WHERE name = 'decide' GROUP BY status")
        entry = database.execute("SELECT look FROM v_verdicts")
        assert verdicts.load(database, decisions[1]["verdict"]).guards[0].passed
    first = level.of_entry(Entry(), level.CHALLENGERS * 0.05)  # of the first challenger, the same at both looks
    assert looks == [(1, 2, pytest.approx(first), "needs_more_data"), (2, 2, pytest.approx(first), "promote")]
    assert steps == [("done", 2)] and entry == [(2,)]

    # what a run that was killed and begun again does
    assert gate.decide(campaign, pair, look, adapter=CHALLENGER, iteration=1) == decisions[1]
    with campaign.database() as database:
        assert database.execute("SELECT count(*) FROM champions") == [(1,)]


def test_a_guard_that_is_not_passed_keeps_the_champion(campaign):
    look = campaign.looks[1]
    champion, challenger = measured(campaign, campaign.heldout(look), never, sometimes)
    pair = {HELDOUT: (champion, challenger)}
    entry = contest.begin(campaign, 1, CHALLENGER)
    assert gate.would_promote(campaign, look, entry, pair, adapter=CHALLENGER, iteration=1)
    pair["database"] = measured(campaign, campaign.guards(look)[0], always, never)
    verdict = gate.decide(campaign, pair, look, adapter=CHALLENGER, iteration=1)
    assert verdict["decision"] == "keep" and "the guard database is not passed: -100.0 points" in verdict["reason"]
    assert campaign.champion() is None
    with campaign.database() as database:
        suites = database.execute("SELECT suite, count(*) FROM evaluation_uses GROUP BY suite ORDER BY suite")
        guards = database.execute("SELECT environment, difference.estimate, bound <= -margin FROM verdict_guards")
    assert suites == [("database", 2), (HELDOUT, 2)] and guards == [("database", -1.0, True)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("gate.guards.chess.tasks=9", "gate.guards: there is no 'chess'"),
        ("gate.guards.few.tasks=9", "gate.guards: few is the campaign's own environment"),
        ("evaluate.tasks=30", "evaluate.tasks: .* fewer than the 30"),
        (
            "gate.guards.fewer.tasks=30",
            "gate.guards.fewer.tasks: .* fewer than the 30 asked for; set gate.guards.fewer.tasks=25",
        ),
    ],
)
def test_what_cannot_be_measured_is_one_line_before_anything_starts(tmp_path, small, change, message):
    settings = configuration.load(
        [f"environment={small}", f"paths.data={tmp_path / 'data'}", "evaluate.tasks=5", change], profile="demo"
    )
    with pytest.raises(SettingError, match=f"^{message}") as error:
        Campaign.open(settings)
    assert "\n" not in str(error.value) and not (tmp_path / "data").exists()


def test_there_are_no_more_looks_than_there_are_tasks_for(small):
    asked = [f"environment={small}", "evaluate.tasks=5", "gate.max_tasks=80"]
    settings = configuration.load(asked, profile="demo")
    assert suites.planned_looks(settings) == (Look(1, 3), Look(2, 3), Look(3, 3))  # 5, 10, 20 of 25
    guarded = configuration.load([*asked, "gate.guards.fewer.tasks=10"], profile="demo")
    assert suites.planned_looks(guarded) == (Look(1, 2), Look(2, 2))


def lost_at(*places: int):
    """Solves everything but the tasks at these places, whose episodes fail."""
    return lambda place: None if place in places else True


def test_episodes_that_failed_are_held_against_nobody(campaign):
    look = Look(1, 1)
    pair = {HELDOUT: measured(campaign, campaign.heldout(look), lost_at(0, 3), lost_at(3, 7, 9))}
    with campaign.database() as database:
        champion, challenger = (evaluations.load(database, each) for each in pair[HELDOUT])
        assert (len(champion.tasks), len(challenger.tasks)) == (14, 13)
        assert database.execute("SELECT count(*) FROM failed_episodes") == [(5,)]
        assert database.execute("SELECT count(*), count(DISTINCT trajectory) FROM v_failures WHERE lost") == [(15, 5)]
        assert database.execute("SELECT count(*) FROM trajectories WHERE status = 'failed'") == [(0,)]
        assert database.execute("SELECT min(value), count(*) FROM scores WHERE scorer = 'success'") == [(1.0, 27)]
    verdict = gate.decide(campaign, pair, look, adapter=CHALLENGER, iteration=1)
    assert verdict["decision"] == "keep" and verdict["difference"]["estimate"] == 0.0
    assert verdict["reason"].endswith(" 4 tasks are left out: episodes failed.")
    entry = contest.begin(campaign, 1, CHALLENGER)
    assert not gate.would_promote(campaign, look, entry, pair, adapter=CHALLENGER, iteration=1)
    with campaign.database() as database:
        shared = [evaluations.load(database, verdict[which]) for which in ("champion", "challenger")]
        assert shared[0].tasks == shared[1].tasks and len(shared[0].tasks) == 12
        compared = results.compare(database, campaign.name, None, CHALLENGER)
    assert compared.difference.estimate == 0.0


def test_a_challenger_gains_nothing_by_episodes_that_fail(campaign):
    """It would have to lose 9 of 16 tasks; where their episodes fail instead, they count for neither side."""
    look = Look(1, 1)
    pair = {HELDOUT: measured(campaign, campaign.heldout(look), always, lost_at(*range(9)))}
    verdict = gate.decide(campaign, pair, look, adapter=CHALLENGER, iteration=1)
    assert verdict["decision"] == "keep" and "9 tasks are left out" in verdict["reason"]


def test_an_evaluation_of_which_nothing_is_left_is_one_line(campaign):
    with pytest.raises(StoreError, match="every task that policy_.* was to be evaluated on has an episode that failed"):
        measured(campaign, campaign.heldout(Look(1, 1)), lambda place: None, always)
