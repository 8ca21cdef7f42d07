"""What environments score: by task, answer and outcome, several scores by name, and what is made of them."""

import dataclasses
import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_by_hand import episode, sum_task

from agentloop.curation.scoring import Rescored, rescore, score
from agentloop.curation.selection import select
from agentloop.errors import EmptySelectionError, StoreError
from agentloop.project import CHECKOUT
from agentloop.records import SOLVED
from agentloop.settings import Selection
from agentloop.store import evaluations
from agentloop.store.ingest import ingest
from agentloop.store.shards import SCHEMA, read_shard, write_shard


class Game:
    """Scores as an environment does."""

    def __init__(self, half=0.5):
        self.asked = []
        self.half = half

    def score(self, task, answer, outcome):
        self.asked.append((task.question, answer, outcome))
        points = outcome["points"] if outcome else 0
        return {"success": self.half if points == 1 else float(points > 1), "thrift": 1 / (1 + points)}


def played(number, sample=0, *, points=None, answer="", **details):
    outcome = None if points is None else {"points": points, "board": [[1, "ä"], None]}
    made = dataclasses.replace(episode(sum_task(number), sample, answer=answer, **details), outcome=outcome)
    return made if answer else dataclasses.replace(made, status="ended")


def collect(database, tmp_path, episodes, name="main"):
    write_shard(tmp_path / f"{name}.parquet", episodes, purpose="collect", campaign="main", iteration=1)
    ingest(database, [tmp_path / f"{name}.parquet"])


def values(database, scorer):
    return dict(database.execute("SELECT trajectory, value FROM v_scores WHERE scorer = ?", [scorer]))


@pytest.fixture
def games(database, tmp_path):
    """Lost, half won, won, unknown, and answered; each two times."""
    episodes = [
        played(1, sample, points=points, calls=["{}"] * (1 + sample % 5), answer=answer)
        for sample, (points, answer) in enumerate([(0, ""), (1, ""), (2, ""), (None, ""), (0, "2")] * 2)
    ]
    collect(database, tmp_path, episodes)
    return episodes


def test_each_task_answer_and_outcome_is_scored_once_without_an_answer_too(database, games):
    game = Game()
    counts = score(database, {"arithmetic": game})
    assert counts["success"] == counts["thrift"] == 10
    assert len(game.asked) == 5 and ("1 + 1", None, None) in game.asked
    assert ("1 + 1", None, {"points": 1, "board": [[1, "ä"], None]}) in game.asked
    success, thrift = values(database, "success"), values(database, "thrift")
    assert [success[each.id] for each in games] == [0, 0.5, 1, 0, 0] * 2
    assert [thrift[each.id] for each in games] == pytest.approx([1, 1 / 2, 1 / 3, 1, 1] * 2)
    assert score(database, {"arithmetic": game})["success"] == 0 and len(game.asked) == 5


def test_an_episode_that_ended_without_an_answer_can_be_solved(database, games):
    score(database, {"arithmetic": Game()})
    solved = database.execute("SELECT status, solved FROM v_solved JOIN trajectories USING (policy, task) LIMIT 1")
    assert solved == [("ended", 4)]
    ((unanswered,),) = database.execute("SELECT sum(unanswered) FROM v_episodes")
    assert unanswered == 0


def test_partial_credit_becomes_binary_where_an_evaluation_is_made(database, games):
    score(database, {"arithmetic": Game(half=0.49)})
    about = {
        "policy": "policy_base",
        "tasks": [games[0].task.id],
        "samples": 10,
        "seed": 7,
        "sampling": games[0].sampling,
    }
    assert sum(evaluations.measure(database, **about).successes[0]) == 2
    rescore(database, {"arithmetic": Game(half=SOLVED)}, ["success"])
    measured = evaluations.measure(database, **about)
    assert measured.successes == ((False, True, True, False, False) * 2,)
    assert database.execute("SELECT solved FROM v_solved") == [(4,)]


def test_scoring_again_is_a_new_version_of_all_that_the_environment_scores(database, games):
    score(database, {"arithmetic": Game()})
    assert rescore(database, {"arithmetic": Game(half=1.0)}, ["success"]) == [
        Rescored("success", 2, 10, 2, 0.3, 0.4),
        Rescored("thrift", 2, 10, 0, pytest.approx(23 / 30), pytest.approx(23 / 30)),
    ]


def test_a_recipe_goes_by_the_score_that_is_chosen(database, games):
    score(database, {"arithmetic": Game()})
    by_success = select(database, "rejection", "main", 1, Selection(per_task=9, max_overlap=1.0))
    by_thrift = select(database, "rejection", "main", 1, Selection(reward="thrift", per_task=9, max_overlap=1.0))
    success, thrift = values(database, "success"), values(database, "thrift")
    assert {success[each] for each in by_success.dataset.trajectories} == {0.5, 1}
    assert {round(thrift[each], 2) for each in by_thrift.dataset.trajectories} == {0.5, 1}
    assert by_thrift.dataset.parameters["reward"] == "thrift" and "reward" not in by_success.dataset.parameters
    with pytest.raises(StoreError, match="^selection.reward: traj_[0-9a-f]+ has no score named fun"):
        select(database, "rejection", "main", 1, Selection(reward="fun"))


def test_several_are_scored_at_once_where_the_environment_says_so(database, games):
    class Slow(Game):
        scored_at_once = 4

    score(database, {"arithmetic": Slow()})
    assert [values(database, "success")[each.id] for each in games] == [0, 0.5, 1, 0, 0] * 2

    class Failing(Slow):
        def score(self, task, answer, outcome):
            raise KeyError("x")

    with pytest.raises(StoreError, match="^environment 'arithmetic': its verifier: KeyError: 'x' at '2' to task_"):
        rescore(database, {"arithmetic": Failing()}, ["success"])
    assert database.execute("SELECT max(version) FROM scores") == [(1,)]


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({"thrift": 1}, "its verifier: gives an episode without an answer to task_.* no score named success"),
        (1.0, "its verifier: says 1.0 of .*, which is no mapping of scores"),
        ({"success": "1"}, "its verifier: says 1 of .*, which is no number from 0 to 1"),
        ({"success": 1, "thrift": 1.5}, "its verifier: says 1.5 of thrift of .*, which is no number from 0 to 1"),
        ({"success": 1, "a b": 1}, "its verifier: 'a b' is no name of a score, which is a word"),
        ({"success": 1, "tokens": 1}, "gives a score named tokens, a name that another scorer has"),
        ({"success": 1, "closeness": 1}, "gives a score named closeness, a name that another scorer has"),
    ],
)
def test_what_is_no_score_is_one_line_and_nothing_is_stored(database, tmp_path, scores, message):
    class Odd:
        def score(self, task, answer, outcome):
            return scores

    collect(database, tmp_path, [played(1, points=0)])
    with pytest.raises(StoreError, match=f"^environment 'arithmetic': {message}$"):
        score(database, {"arithmetic": Odd()})
    assert database.execute("SELECT count(*) FROM scores") == [(0,)]


def test_nothing_that_is_solved_is_nothing_to_learn_from(database, games):
    score(database, {"arithmetic": Game(half=0.4)})
    lost = Selection(min_success_rate=0.5)
    with pytest.raises(EmptySelectionError, match="difficulty band"):
        select(database, "rejection", "main", 1, lost)


def test_every_query_has_the_same_threshold():
    """SOLVED is a number in SQL, which knows no constants of Python."""
    queries = [*(CHECKOUT / "agentloop").rglob("*.sql"), CHECKOUT / "agentloop" / "proof" / "short_campaign.py"]
    found = [
        float(number)
        for file in queries
        for number in re.findall(r"success\s*(?:>=|<)\s*([0-9.]+)", file.read_text(encoding="utf-8"))
    ]
    assert len(found) >= 9 and set(found) == {SOLVED}
    page = (CHECKOUT / "agentloop" / "report" / "page.js").read_text(encoding="utf-8")
    assert f"each.success >= {SOLVED}" in page


def test_the_last_word_of_a_world_is_no_action(database, tmp_path):
    """Two episodes that did the same are alike, whether their world had the last word or not."""
    plain = episode(sum_task(1), 0)
    last = dataclasses.replace(
        plain.turns[0], role="user", text="well done", start=len(plain.token_ids), end=len(plain.token_ids)
    )
    worded = dataclasses.replace(plain, sample=1, turns=(*plain.turns, last))
    collect(database, tmp_path, [plain, worded])
    assert database.execute("SELECT count(DISTINCT actions), count(*) FROM trajectories") == [(1, 2)]


def without_sessions(path):
    """The shard as it was written before there were sessions: without the outcome, and without the reward of a turn."""
    table = pq.read_table(path)
    kind = pa.struct([field for field in SCHEMA.field("turns").type.value_type if field.name != "reward"])
    turns = [
        [{name: value for name, value in turn.items() if name != "reward"} for turn in row]
        for row in table["turns"].to_pylist()
    ]
    old = table.drop_columns(["outcome"]).set_column(
        table.column_names.index("turns"), "turns", pa.array(turns, pa.list_(kind))
    )
    pq.write_table(old.replace_schema_metadata(table.schema.metadata), path)
    return path


@pytest.mark.parametrize("order", [("old",), ("old", "new"), ("new", "old")])
def test_shards_from_before_there_were_sessions_are_read_alone_and_beside_new_ones(database, tmp_path, order):
    old, new = episode(sum_task(1)), played(2, points=1)
    new = dataclasses.replace(new, turns=(*new.turns[:-1], dataclasses.replace(new.turns[-1], reward=0.5)))
    paths = {name: tmp_path / f"{name}.parquet" for name in ("old", "new")}
    for name, each in (("old", old), ("new", new)):
        write_shard(paths[name], [each], purpose="collect", campaign="main", iteration=1)
    without_sessions(paths["old"])
    assert read_shard(paths["old"]) == [old] and read_shard(paths["new"]) == [new]
    assert ingest(database, [paths[name] for name in order]).damaged == ()
    rows = dict(database.execute("SELECT id, outcome FROM trajectories"))
    assert rows.pop(old.id) is None
    rewards = database.execute("SELECT trajectory, reward FROM turns WHERE reward IS NOT NULL")
    if "new" in order:
        assert json.loads(rows[new.id]) == new.outcome and rewards == [(new.id, 0.5)]
    else:
        assert (rows, rewards) == ({}, [])
