"""Sealed blocks of held-out tasks, and whom the champion meets on them, through a campaign's own steps."""

import pytest
from by_hand import CHALLENGER, always, measured, never, opened, roll_out, sometimes
from made_by_hand import episode

from agentloop import environments
from agentloop.campaign import contest, gate, heldout, meeting, suites
from agentloop.campaign.suites import HELDOUT
from agentloop.curation import contamination
from agentloop.environments import TooFewTasks
from agentloop.errors import ContaminationError
from agentloop.evaluation import level
from agentloop.records import Adapter, Entry, Interval, Task, Verdict
from agentloop.store import adapters, campaigns, champions, heldout_tasks, meetings, verdicts
from agentloop.store.ingest import ingest
from agentloop.store.shards import write_shard

HALF = Interval(0.5, 0.4, 0.6)
FEW = ("evaluate.tasks=5", "gate.max_tasks=5", "gate.block_challengers=2")
"""Of the 25 held-out tasks of the small environment: block 1, as many unseen ones, blocks 2 to 4."""


@pytest.fixture
def campaign(tmp_path, small):
    campaign = opened(tmp_path / "data", *FEW, environment=str(small), guard=False)
    with campaign.database() as database:
        campaigns.register(database, campaign.settings)
    return campaign


def judged(campaign, iteration: int, decision: str = "keep") -> str:
    """Let a challenger meet the champion, and note a verdict as if it had been judged. Returns its adapter."""
    adapter = Adapter("base_1", f"data_{iteration}", {}, 0, "1")
    contest.begin(campaign, iteration, adapter.id)
    said = Verdict(decision, "eval_1", "eval_2", HALF, HALF, HALF, 0.5, "so it is", evidence=9.0, needed=8.0)
    about = {"campaign": campaign.name, "iteration": iteration}
    with campaign.database() as database:
        campaigns.begin_iteration(database, campaign.name, iteration, champion=None)
        adapters.save(database, adapter, path=campaign.settings.paths.adapters / adapter.id, **about)
        name = verdicts.save(database, said, adapter=adapter.id, **about)
        if decision == "promote":
            champions.promote(database, adapter=adapter.id, verdict=name, **about)
    campaign.finish(iteration)
    return adapter.id


def upcoming(campaign) -> Entry:
    with campaign.database() as database:
        return contest.upcoming(campaign, database)


def test_blocks_and_the_unseen_tasks_have_no_task_in_common_and_the_first_is_the_beginning(tmp_path):
    campaign = opened(tmp_path)
    last = campaign.looks[-1]
    blocks = [campaign.heldout(last, block).tasks for block in (1, 2, 3)]
    ids = [task.id for block in (*blocks, campaign.unseen().tasks) for task in block]
    assert len(ids) == len(set(ids)) == 3 * 32 + 16
    assert blocks[0] == environments.get("arithmetic").tasks("heldout", 32, campaign.settings.seed)
    assert {task.split for block in blocks for task in block} == {"heldout"}
    assert campaign.heldout(campaign.looks[0], 3).tasks == blocks[2][:16]
    guards = [{task.id for task in campaign.guards(last, block)[0].tasks} for block in (1, 2)]
    assert not guards[0] & guards[1]


def test_a_block_serves_so_many_challengers_and_is_renewed_and_a_killed_run_plans_the_same(campaign, tmp_path, small):
    for iteration, decision in enumerate(["keep", "promote", "promote", "keep"], 1):
        judged(campaign, iteration, decision)
    again = opened(tmp_path / "data", *FEW, environment=str(small), guard=False)
    with again.database() as database:
        known = database.execute("SELECT number, block, place, promotions, used_up FROM contests ORDER BY number")
    assert known == [(1, 1, 1, 0, False), (2, 1, 2, 0, False), (3, 2, 1, 0, False), (4, 2, 2, 1, False)]
    assert contest.begin(again, 2, Adapter("base_1", "data_2", {}, 0, "1").id) == Entry(2, 1, 2, 0)
    assert upcoming(again) == Entry(5, 3) and again.block == 2


def test_a_rollback_renews_the_block(campaign):
    judged(campaign, 1, "promote")
    assert upcoming(campaign) == Entry(2, 1, 2, 1)
    with campaign.database() as database:
        champions.rollback(database, campaign.name, None, reason="regret")
    assert upcoming(campaign) == Entry(2, 2)


def test_a_file_whose_heldout_tasks_are_used_up_says_so_and_uses_the_last_block_further(campaign, capsys):
    for iteration in range(1, 10):
        judged(campaign, iteration, "promote" if iteration == 8 else "keep")
    assert upcoming(campaign) == Entry(10, 4, 4, 1, True)
    assert "block 4 of the held-out tasks is used further: few has no more of them" in capsys.readouterr().out
    suite = campaign.heldout(campaign.looks[0], 4)
    pair = {HELDOUT: measured(campaign, suite, never, sometimes)}
    verdict = gate.decide(campaign, pair, campaign.looks[0], adapter=CHALLENGER, iteration=10)
    assert verdict["reason"].endswith("block 4 is used further, there are no more held-out tasks.")
    assert verdict["needed"] == pytest.approx(level.needed(Entry(10, 4, 4, 1), level.CHALLENGERS * 0.05))
    assert meeting.due(campaign, 11) == []  # nothing is fresh


def test_heldout_tasks_of_every_block_are_refused_before_any_is_used(campaign):
    contest.make_known(campaign, 1)
    tasks = environments.get(campaign.settings.environment).tasks("heldout", 25, campaign.settings.seed)
    assert suites.reserve(campaign.settings, campaign.looks[-1], 1) == {campaign.settings.environment: 15}
    with campaign.database() as database:
        ahead = heldout_tasks.load(database, campaign.name, "few", 0, 100)
        assert tasks[:15] == ahead  # two blocks, and the unseen ones between them
        database.execute("CREATE TEMP TABLE chosen AS SELECT 'traj_1' AS trajectory, 1 AS place")
        database.execute("CREATE TEMP TABLE pool AS SELECT 'traj_1' AS trajectory, ? AS task", [tasks[14].id])
        with pytest.raises(ContaminationError, match=f"held-out tasks: traj_1 .{tasks[14].id}"):
            contamination.refuse(database)


def test_what_was_collected_and_is_nearly_a_task_of_a_new_block_is_forgotten(campaign, capsys):
    (held_out,) = campaign.heldout(campaign.looks[0], 3).tasks[:1]
    copies = [
        Task("few", "all", held_out.question.upper().replace("?", " ?"), "1", "train"),
        Task("few", "all", "x", "1", "train"),
    ]
    path = campaign.settings.paths.shards / "a.parquet"
    write_shard(path, [episode(each) for each in copies], purpose="collect", campaign=campaign.name, iteration=1)
    with campaign.database() as database:
        ingest(database, [path])
    contest.make_known(campaign, 1)  # of blocks 1 and 2
    assert capsys.readouterr().out == ""
    for iteration in (1, 2):
        judged(campaign, iteration)
    contest.make_known(campaign, 3)  # and 3
    with campaign.database() as database:
        assert database.execute("SELECT task FROM forgotten_tasks") == [(copies[0].id,)]
    assert capsys.readouterr().out.startswith(f"{copies[0].id} is nearly task {held_out.id}, which is held out")
    contest.make_known(campaign, 3)
    assert capsys.readouterr().out == ""


def meet(campaign, iteration: int, champion, others) -> list[meetings.Meeting]:
    """Let them meet; `champion`, `others` by kind: which tasks they solve."""
    opponents = meeting.due(campaign, iteration)
    found = {}
    for kind, adapter, solved in [
        ("champion", campaign.champion(), champion),
        *((each.kind, each.adapter, others[each.kind]) for each in opponents),
    ]:
        suite = opponents[0].suite
        roll_out(campaign, adapter, suite, solved)
        found[kind] = gate.measure(campaign, adapter, suite, iteration=iteration, role="champion")["evaluation"]
    return meeting.hold(campaign, iteration, found.pop("champion"), found, opponents)


LIFE = ("evaluate.tasks=32", "gate.max_tasks=32", "gate.block_challengers=2")


@pytest.fixture
def living(tmp_path):
    """A campaign whose second block begins with the third challenger; two were promoted."""
    campaign = opened(tmp_path, *LIFE, guard=False)
    with campaign.database() as database:
        campaigns.register(database, campaign.settings)
    judged(campaign, 1, "promote")
    judged(campaign, 2, "promote")
    return campaign


def test_where_a_block_begins_the_champion_meets_the_base_and_the_best_earlier_champion(living):
    assert {(each.kind, each.role, each.suite.block) for each in meeting.due(living, 3)} == {
        ("base", "base", 2),
        ("earlier", "earlier", 2),
    }
    champion = living.champion()
    held = meet(living, 3, always, {"base": never, "earlier": sometimes})
    assert [(each.kind, each.better, each.difference.estimate) for each in held] == [
        ("base", False, -1.0),
        ("earlier", False, -0.625),
    ]
    assert held[0].reason.startswith("The base against the champion: -100.0 points") and living.champion() == champion
    assert meeting.due(living, 3) == [] and upcoming(living) == Entry(3, 2)  # once for a block
    judged(living, 3)
    assert meeting.due(living, 3) == meeting.due(living, 4) == []


def test_a_champion_that_is_worse_than_an_earlier_one_makes_room_for_it_and_the_block_is_renewed(living):
    champion = living.champion()
    held = meet(living, 3, never, {"base": sometimes, "earlier": always})
    assert [each.better for each in held] == [False, True]
    with living.database() as database:
        move = champions.moves(database, living.name)[-1]
        line = database.execute("SELECT kind, better FROM v_meetings ORDER BY number")
    assert move.adapter == living.champion() != champion and move.verdict is None
    assert move.reason.startswith(
        "The best earlier champion is better than the champion and replaces it: +100.0 points"
    )
    assert line == [("base", False), ("earlier", True)]
    assert upcoming(living) == Entry(3, 3)  # the second block has decided something
    assert living.begin(3) == living.champion()


def test_nobody_comes_back_whom_somebody_rolled_back(living):
    with living.database() as database:
        champions.rollback(database, living.name, None, reason="it swears")
    assert upcoming(living).block == 2 and meeting.due(living, 3) == []  # the base is champion, and nobody else is left


def test_the_champion_meets_itself_now_and_then_and_nothing_is_promoted(tmp_path):
    campaign = opened(tmp_path, "gate.itself_every=2")
    with campaign.database() as database:
        campaigns.register(database, campaign.settings)
    assert meeting.itself_due(campaign, Entry(1)) is None
    entry = Entry(2, 1, 2)
    first = meeting.itself_due(campaign, entry)
    second = meeting.other_seed(campaign, first)
    assert first.tasks == campaign.heldout(campaign.looks[0], 1).tasks == second.tasks
    names = []
    for suite, solved in ((first, never), (second, always)):  # as unlikely as can be
        roll_out(campaign, None, suite, solved)
        names.append(gate.measure(campaign, None, suite, iteration=2, role="champion")["evaluation"])
    assert names[0] != names[1]
    held = meeting.hold_itself(campaign, 2, entry, *names)
    assert held.better and held.needed == pytest.approx(20) and "a false alarm" in held.reason
    assert meeting.hold_itself(campaign, 2, entry, *names) == held
    assert campaign.champion() is None
    with campaign.database() as database:
        assert database.execute("FROM v_false_promotions") == [(campaign.name, 1, 1, 1.0)]
    assert meeting.itself_due(opened(tmp_path, "gate.itself_every=0"), entry) is None


def test_a_guard_counts_how_often_it_was_asked(tmp_path):
    campaign = opened(tmp_path)
    with campaign.database() as database:
        campaigns.register(database, campaign.settings)
    look = campaign.looks[-1]
    for iteration, gained in ((1, sometimes), (2, never), (3, sometimes)):
        adapter = f"{CHALLENGER}_{iteration}"
        entry = contest.begin(campaign, iteration, adapter)
        pair = {HELDOUT: measured(campaign, campaign.heldout(look), never, gained, adapter=adapter)}
        if gate.would_promote(campaign, look, entry, pair, adapter=adapter, iteration=iteration):
            guard = campaign.guards(look)[0]
            pair["database"] = measured(campaign, guard, always, never, adapter=adapter)
        gate.decide(campaign, pair, look, adapter=adapter, iteration=iteration)
    with campaign.database() as database:
        needed = database.execute(
            "SELECT v.iteration, g.needed FROM verdict_guards g JOIN verdicts v ON v.id = g.verdict ORDER BY 1"
        )
    assert needed == [
        (1, pytest.approx(level.needed(Entry(1), 0.05))),
        (3, pytest.approx(level.needed(Entry(2, 1, 2), 0.05))),
    ]


def test_a_verdict_from_before_the_gate_went_by_evidence_stands(campaign):
    old = Verdict("promote", "eval_1", "eval_2", HALF, HALF, HALF, 0.001, "so it was", 1, 1, 0.01)
    with campaign.database() as database:
        name = verdicts.save(database, old, campaign=campaign.name, iteration=1, adapter=CHALLENGER)
    look = campaign.looks[0]
    pair = {HELDOUT: measured(campaign, campaign.heldout(look), always, never)}
    entry = contest.begin(campaign, 1, CHALLENGER)
    assert not gate.would_promote(campaign, look, entry, pair, adapter=CHALLENGER, iteration=1)
    told = gate.decide(campaign, pair, look, adapter=CHALLENGER, iteration=1)
    assert (told["verdict"], told["reason"], told["evidence"]) == (name, "so it was", None)
    with campaign.database() as database:
        assert database.execute("SELECT count(*) FROM verdicts") == [(1,)]


def test_what_a_campaign_has_noted_stays_and_more_of_it_goes_on_where_it_ended(campaign):
    name, seed = campaign.settings.environment, campaign.settings.seed
    drawn = environments.get(name).tasks("heldout", 25, seed)
    with campaign.database() as database:
        take = campaign.take(database)
        assert list(take(name, 3, 20)) == drawn[3:23]  # nothing is noted yet
        assert heldout.note(database, campaign.name, seed, {name: 10}) == 10
        assert heldout.note(database, campaign.name, seed, {name: 10}) == 0
        assert list(take(name, 3, 5)) == drawn[3:8]
        assert list(take(name, 8, 9)) == drawn[8:17]
        assert list(take(name, 14, 3)) == drawn[14:17]
        with pytest.raises(TooFewTasks, match="few has 25 heldout tasks, fewer than the 26 asked for") as error:
            take(name, 0, 26)
        assert error.value.available == 25
        assert heldout.note(database, campaign.name, seed, {name: 99}) == 15  # as far as there are any
        # a seed that is changed gives others, and takes none of those that are noted
        database.execute("DELETE FROM heldout_tasks WHERE place >= 10")
        other = heldout.noted(database, campaign.name, seed + 1)
        assert list(other(name, 0, 10)) == drawn[:10]
        assert {task.id for task in other(name, 10, 15)} == {task.id for task in drawn[10:]}


ENDLESS = """
from agentloop.environments.arithmetic import Arithmetic

class Endless(Arithmetic):
    name = "endless"
    chapter = 32
    asked = 0

    def questions(self, rng):
        for question in super().questions(rng):
            Endless.asked += 1
            yield question
"""
"""Arithmetic in chapters of 32 tasks, which counts what it is asked for."""


def test_tasks_of_a_late_night_are_drawn_as_fast_as_those_of_an_early_one(tmp_path):
    file = tmp_path / "endless.py"
    file.write_text(ENDLESS)
    campaign = opened(tmp_path / "data", "evaluate.tasks=8", "gate.max_tasks=8", environment=str(file), guard=False)
    name, seed, asked, seen = str(file), campaign.settings.seed, [], set()
    environment = environments.get(name)
    with campaign.database() as database:
        for block in range(1, 41):
            before = environment.asked
            heldout.note(database, campaign.name, seed, suites.reserve(campaign.settings, campaign.looks[-1], block))
            tasks = suites.heldout(campaign.settings, campaign.looks[0], block, take=campaign.take(database)).tasks
            seen |= {task.id for task in tasks}
            asked.append(environment.asked - before)
        assert len(seen) == 40 * 8 and heldout_tasks.count(database, campaign.name, "endless") == 42 * 8
    assert max(asked[-8:]) < 3 * max(asked[:8])
    asked, tasks = [], []
    for night in range(40):
        before = environment.asked
        tasks += environment.tasks("train", 8, seed, skip=8 * night)
        asked.append(environment.asked - before)
    assert max(asked[-8:]) < 2 * max(asked[:8])
    assert len({task.id for task in tasks}) > 310  # fresh ones, but for chance
