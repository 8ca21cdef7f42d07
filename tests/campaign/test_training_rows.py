"""What a training run is given of its dataset: groups, pairs, rewards of episodes and of turns."""

import dataclasses
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_by_hand import episode, sum_task

from agentloop import settings as configuration
from agentloop.campaign import training_rows
from agentloop.curation import forget, recipes
from agentloop.curation.scoring import score
from agentloop.curation.selection import select
from agentloop.errors import EmptySelectionError, SettingError
from agentloop.records import Dataset, Turn
from agentloop.settings import Selection
from agentloop.store import datasets
from agentloop.store.database import Database
from agentloop.store.ingest import ingest
from agentloop.store.schema import MIGRATIONS
from agentloop.store.shards import write_shard
from agentloop.training import rows


@pytest.fixture
def database(tmp_path):
    """Of each of four tasks: two successes and a failure, three successes, three failures, a success and two failures; of the
    last one in two conversations, with rewards of turns."""
    (tmp_path / "data").mkdir()
    outcomes = [(1, 1, 0), (1, 1, 1), (0, 0, 0), (1, 0, 0)]
    episodes = [
        episode(sum_task(task), sample, answer=None if solved else "", calls=("{}",) * (sample + 1))
        for task, solved in enumerate(outcomes)
        for sample, solved in enumerate(solved)
    ]
    last = episodes[-1]
    turns = [dataclasses.replace(turn, reward=0.5) if turn.role == "model" else turn for turn in last.turns[:-1]]
    half = last.turns[3].start
    ended = Turn("model", last.turns[-1].text, last.turns[-1].start, last.turns[-1].end, reward=None)
    episodes[-1] = dataclasses.replace(last, turns=(*turns, ended), starts=(0, half))
    path = tmp_path / "data" / "shards" / "a.parquet"
    write_shard(path, episodes, purpose="collect", campaign="main", iteration=1)
    with Database.open(tmp_path / "data" / "agentloop.duckdb") as database:
        ingest(database, [path])
        score(database, {"arithmetic": lambda task, answer: float(answer == task.answer)})
        yield database, episodes


def test_groups_are_the_samples_of_tasks_with_different_outcomes(database, tmp_path):
    database, episodes = database
    selected = select(database, "groups", "main", 1, Selection())
    assert selected.funnel == (
        ("collected", 12),
        ("difficulty band", 9),
        ("short enough", 9),
        ("different outcomes", 6),
    )
    assert set(selected.dataset.trajectories) == {each.id for each in (*episodes[:3], *episodes[9:])}
    assert datasets.load(database, selected.dataset.id) == selected.dataset
    gathered = training_rows.gather(database, selected.dataset.id)
    gathered.write(tmp_path / "rows.safetensors")
    examples = rows.read_examples(tmp_path / "rows.safetensors")
    by_name = {each.id: each for each in episodes}
    assert len(examples) == 7  # an episode of two conversations
    for row, example in zip(gathered.tokens, examples, strict=True):
        trajectory = by_name[row.trajectory]
        part = slice(row.first, row.first + len(example.token_ids))
        assert example.token_ids == trajectory.token_ids[part] and example.mask == trajectory.mask[part]
        np.testing.assert_allclose(example.logprobs, trajectory.logprobs[part])
        assert example.solved == (trajectory.answer == trajectory.task.answer)
        assert selected.dataset.trajectories[example.episode] == row.trajectory
    groups = {
        (row.trajectory and by_name[row.trajectory].task.id, each.group) for row, each in zip(gathered.tokens, examples)
    }
    assert len(groups) == 2 == len({group for _, group in groups})
    given = [example.turn_rewards[~np.isnan(example.turn_rewards)].tolist() for example in examples]
    assert sorted(given) == [[]] * 5 + [[0.5], [0.5, 0.5]]
    rewarded = next(each for each in examples if (each.turn_rewards == 0.5).any())
    (place, *_) = np.flatnonzero(rewarded.turn_rewards == 0.5)
    assert rewarded.mask[place] and not rewarded.mask[place + 1]  # the last token of the turn


def test_what_rows_were_worth_is_part_of_the_name(database):
    database, _ = database
    before = select(database, "groups", "main", 1, Selection()).dataset
    other = dataclasses.replace(before, rewards=tuple(0.9 if each else 0.1 for each in before.rewards))
    assert other.id != before.id and dataclasses.replace(before, rewards=()).id not in (other.id, before.id)


def test_a_score_that_changes_makes_another_dataset_and_leaves_the_first(database):
    database, _ = database
    before = select(database, "groups", "main", 1, Selection()).dataset
    database.execute("UPDATE scores SET value = 0.75 * value WHERE scorer = 'success'")
    after = select(database, "groups", "main", 1, Selection()).dataset
    assert after.trajectories == before.trajectories and after.id != before.id
    assert set(after.rewards) == {0.0, 0.75} and set(datasets.load(database, before.id).rewards) == {0.0, 1.0}


def test_pairs_are_groups_of_two(database, tmp_path):
    database, _ = database
    dataset = select(database, "pairs", "main", 1, Selection()).dataset
    assert not dataset.rewards
    examples = training_rows.gather(database, dataset.id).examples
    assert [(each.reward, each.group) for each in examples if each.episode < 2] == [(1.0, 0), (0.0, 0)]
    assert {each.group for each in examples} == {0, 1}


def test_successes_have_ids_and_masks_alone(database, tmp_path):
    database, _ = database
    gathered = training_rows.gather(database, select(database, "rejection", "main", 1, Selection()).dataset.id)
    gathered.write(tmp_path / "rows.safetensors")
    assert gathered.examples is None
    assert all(each.solved and not each.logprobs.any() for each in rows.read_examples(tmp_path / "rows.safetensors"))


def test_forgotten_rows_take_what_they_were_worth_with_them(database):
    database, episodes = database
    dataset = select(database, "groups", "main", 1, Selection()).dataset
    forget.forget(database, trajectories=[dataset.trajectories[1]], reason="a test")
    rebuilt = forget.rebuild(database, dataset.id)
    assert rebuilt.trajectories == dataset.trajectories[:1] + dataset.trajectories[2:]
    assert rebuilt.rewards == dataset.rewards[:1] + dataset.rewards[2:]
    assert datasets.load(database, rebuilt.id) == rebuilt


def test_nothing_differs_is_one_line(database):
    database, _ = database
    database.execute("UPDATE scores SET value = 1 WHERE scorer = 'success'")
    with pytest.raises(EmptySelectionError, match="recipe groups: nothing is left"):
        select(database, "groups", "main", 1, Selection(max_success_rate=1.0))


@pytest.mark.parametrize(
    ("words", "recipe"),
    [
        ([], "rejection"),
        (["selection.recipe=fresh"], "fresh"),
        (["training.objective=grpo"], "groups"),
        (["training.objective=kto"], "groups"),
        (["training.sft.push_down=0.5"], "groups"),
        (["training.objective=dpo"], "pairs"),
    ],
)
def test_the_recipe_follows_the_objective(words, recipe):
    assert recipes.for_training(configuration.load(words)) == recipe


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["selection.recipe=pairs"],
            "selection.recipe: pairs chooses pairs, but training.objective = sft learns from succ",
        ),
        (["selection.recipe=fresh", "training.objective=grpo"], "fresh chooses successes, .* grpo learns from groups"),
        (["selection.recipe=groups", "training.objective=dpo"], "groups chooses groups, .* dpo learns from pairs"),
    ],
)
def test_a_recipe_of_other_rows_is_refused(words, line):
    with pytest.raises(SettingError, match=line):
        recipes.for_training(configuration.load(words))


def test_a_file_says_what_its_rows_are(tmp_path):
    text = (recipes.RECIPES / "groups.sql").read_text(encoding="utf-8")
    (tmp_path / "mine.sql").write_text(text.replace("short enough", "not too long"), encoding="utf-8")
    settings = configuration.load([f"selection.recipe={tmp_path / 'mine.sql'}", "training.objective=grpo"])
    assert recipes.for_training(settings) == str(tmp_path / "mine.sql")


def test_shards_from_before_turns_had_rewards_are_read(database, tmp_path):
    database, _ = database
    names = select(database, "groups", "main", 1, Selection()).dataset.trajectories
    path = tmp_path / "data" / "shards" / "a.parquet"
    table = pq.read_table(path, partitioning=None)
    turns = table.schema.field("turns").type.value_type
    older = pa.list_(pa.struct([field for field in turns if field.name != "reward"]))
    place = table.schema.get_field_index("turns")
    plain = [
        [{name: each[name] for name in each if name != "reward"} for each in row] for row in table["turns"].to_pylist()
    ]
    pq.write_table(table.set_column(place, "turns", pa.array(plain, older)), path)
    rows_ = list(datasets.tokens(database, names, turn_rewards=True))
    assert len(rows_) == 6 and all(np.isnan(row.turn_rewards).all() for row in rows_)


def test_datasets_from_before_there_were_rewards_are_as_they_were(tmp_path, monkeypatch):
    older = tmp_path / "older"
    older.mkdir()
    for file in MIGRATIONS.glob("*.sql"):
        if file.name < "0021":
            shutil.copy(file, older)
    path = tmp_path / "data" / "agentloop.duckdb"
    path.parent.mkdir()
    dataset = Dataset(("traj_1", "traj_2"), "rejection", {"per_task": 2})
    with monkeypatch.context() as then:
        then.setattr("agentloop.store.schema.MIGRATIONS", older)
        with Database.open(path) as database:
            database.execute(
                "INSERT INTO datasets VALUES (?, 'rejection', '{\"per_task\": 2}', 2, now())", [dataset.id]
            )
            for place, name in enumerate(dataset.trajectories):
                database.execute("INSERT INTO dataset_rows VALUES (?, ?, ?)", [dataset.id, place, name])
    with Database.open(path) as database:
        assert datasets.load(database, dataset.id) == dataset
        datasets.save(database, dataclasses.replace(dataset, rewards=(1.0, 0.0)), campaign="main", iteration=1)
        assert database.execute("SELECT reward FROM dataset_rows ORDER BY ALL") == [(0.0,), (1.0,), (None,), (None,)]
