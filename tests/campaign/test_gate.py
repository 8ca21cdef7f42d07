"""Looks and guards through a campaign's own steps: planned, ingested, measured, judged and recorded. No model takes part."""

import json
from dataclasses import replace

import pytest

from agentloop import environments
from agentloop import settings as configuration
from agentloop.campaign import collect, contest, gate, results, suites
from agentloop.campaign.campaign import Campaign
from agentloop.campaign.suites import HELDOUT, Suite
from agentloop.errors import SettingError, StoreError
from agentloop.evaluation.level import CHALLENGERS, Standing
from agentloop.evaluation.looks import Look
from agentloop.records import Attempt, Trajectory, Turn
from agentloop.rollout.collection import unfinished
from agentloop.store import campaigns, evaluations, tasks, verdicts
from agentloop.store.shards import write_shard

CHALLENGER = "adapter_challenger"
SETTINGS = (
    "evaluate.tasks=16",
    "evaluate.samples=1",
    "gate.alpha=0.05",
    "gate.max_tasks=32",
    "gate.resamples=500",
    "gate.guards.database.tasks=8",
    "gate.guards.database.samples=1",
    "gate.guards.database.margin=0.4",
    "collect.shard_episodes=10",
)


def opened(root) -> Campaign:
    settings = configuration.load([*SETTINGS, f"paths.data={root}", f"paths.cache={root / 'cache'}"], profile="demo")
    return Campaign(settings, environments.get("arithmetic"), settings.model_directory(), "base_1")


@pytest.fixture
def campaign(tmp_path):
    campaign = opened(tmp_path)
    with campaign.database() as database:
        campaigns.register(database, campaign.settings)
    return campaign


def roll_out(campaign: Campaign, adapter: str | None, suite: Suite, solved) -> None:
    """Write the planned shards as if a policy had solved those tasks of the suite, by place, for which `solved` says so.

    None: infrastructure kept the episode from finishing.
    """
    place = {task.id: number for number, task in enumerate(suite.tasks)}
    planned = collect.plan_evaluation(campaign, adapter, suite)
    for shard in planned:
        episodes = []
        for task, sample in shard.episodes:
            if solved(place[task.id]) is None:
                about = {"policy": shard.policy, "sampling": shard.sampling, "seed": shard.seed}
                lost = unfinished(task, sample, **about)
                episodes.append(replace(lost, attempts=(Attempt("tool x: KeyError: 'y'", 0.5),) * 3))
                continue
            answer = task.answer if solved(place[task.id]) else "no idea"
            turns = Turn("user", task.question, 0, 1), Turn("model", answer, 1, 2)
            episodes.append(
                Trajectory(
                    shard.policy,
                    task,
                    sample,
                    shard.sampling,
                    shard.seed,
                    "answered",
                    answer,
                    (1, 2),
                    (False, True),
                    (0.0, -1.0),
                    turns,
                    1.0,
                )
            )
        path = shard.path(campaign.settings.paths.shards)
        write_shard(path, episodes, purpose="evaluate", campaign=campaign.name, iteration=1)
    with campaign.database() as database:
        tasks.save(database, suite.tasks)
    collect.ingest_shards(campaign, planned, adapter=adapter, iteration=1, purpose="evaluate")


def measured(campaign: Campaign, suite: Suite, before, after) -> tuple[str, str]:
    """Evaluation ids of champion and challenger."""
    names = []
    for adapter, role, solved in ((None, "champion", before), (CHALLENGER, "challenger", after)):
        roll_out(campaign, adapter, suite, solved)
        names.append(gate.measure(campaign, adapter, suite, iteration=1, role=role)["evaluation"])
    return tuple(names)


def never(place: int) -> bool:
    return False


def always(place: int) -> bool:
    return True


def sometimes(place: int) -> bool:
    """6 of the first 16 tasks, 12 of 32."""
    return place % 8 < 3


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
        standing = database.execute("SELECT look FROM v_verdicts")
        assert verdicts.load(database, decisions[1]["verdict"]).guards[0].passed
    level = Standing().level(CHALLENGERS * 0.05)  # of the first challenger, the same at both looks
    assert looks == [(1, 2, pytest.approx(level), "needs_more_data"), (2, 2, pytest.approx(level), "promote")]
    assert steps == [("done", 2)] and standing == [(2,)]

    # what a run that was killed and begun again does
    assert gate.decide(campaign, pair, look, adapter=CHALLENGER, iteration=1) == decisions[1]
    with campaign.database() as database:
        assert database.execute("SELECT count(*) FROM champions") == [(1,)]


def test_a_guard_that_is_not_passed_keeps_the_champion(campaign):
    look = campaign.looks[1]
    champion, challenger = measured(campaign, campaign.heldout(look), never, sometimes)
    pair = {HELDOUT: (champion, challenger)}
    standing = contest.begin(campaign, 1, CHALLENGER)
    assert gate.would_promote(campaign, look, standing, pair, adapter=CHALLENGER, iteration=1)
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


ENVIRONMENT = """
from pathlib import Path

from agentloop.environments import QuestionFile


class Few(QuestionFile):
    name = {name!r}
    path = Path(__file__).with_name("questions.jsonl")

    def tools(self, task):
        return {{}}
"""


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The file of an environment with 25 held-out tasks; another of the kind is known as `fewer`."""
    monkeypatch.setattr(environments, "_ENVIRONMENTS", dict(environments._ENVIRONMENTS))
    rows = [{"question": f"{number}?", "answer": number, "split": "heldout"} for number in range(25)]
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name in ("fewer", "few"):
        (tmp_path / f"{name}.py").write_text(ENVIRONMENT.format(name=name))
    environments.get(str(tmp_path / "fewer.py"))
    suites._stream.cache_clear()
    return tmp_path / "few.py"


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
    standing = contest.begin(campaign, 1, CHALLENGER)
    assert not gate.would_promote(campaign, look, standing, pair, adapter=CHALLENGER, iteration=1)
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
