"""Selection against a plain reference, and what it refuses."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_by_hand import episode, sum_task

from agentloop.curation.recipes import NEAR_DUPLICATES
from agentloop.curation.scoring import score
from agentloop.curation.selection import select
from agentloop.errors import EmptySelectionError, ShardError, StoreError
from agentloop.settings import Selection
from agentloop.store import datasets
from agentloop.store.database import Database
from agentloop.store.ingest import ingest
from agentloop.store.shards import write_shard


@dataclass(frozen=True)
class Row:
    """What selection knows of a trajectory."""

    id: str
    iteration: int
    policy: str
    task: str
    tokens: int
    actions: str
    success: float


@st.composite
def pools(draw) -> list[Row]:
    size = draw(st.integers(1, 25))
    field = st.tuples(
        st.integers(1, 3),
        st.sampled_from("pq"),
        st.integers(0, 3),
        st.integers(1, 6),
        st.sampled_from("xyz"),
        st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    )
    return [
        Row(
            f"traj_{hashlib.md5(str(n).encode()).hexdigest()[:6]}",
            iteration,
            f"policy_{policy}",
            f"task_{task}",
            tokens,
            actions,
            success,
        )
        for n, (iteration, policy, task, tokens, actions, success) in enumerate(
            draw(st.lists(field, min_size=size, max_size=size))
        )
    ]


class _Over(Exception):
    pass


@contextmanager
def filled(database: Database, pool: list[Row]) -> Iterator[None]:
    """The database with these rows, and without them afterwards."""
    database.connection.register("given", pa.Table.from_pylist([vars(row) for row in pool]))
    with suppress(_Over), database.transaction():
        database.execute(
            "INSERT INTO trajectories (id, policy, task, sample, seed, sampling, status, answer, tokens, model_tokens, "
            "model_turns, tool_calls, tool_errors, actions, seconds, attempts, shard, position) "
            "SELECT id, policy, task, 0, 0, '{}', 'answered', '1', tokens, tokens, 1, 0, 0, actions, 0, 0, 1, 0 FROM given"
        )
        database.execute("INSERT INTO collected SELECT 'main', iteration, 'collect', id FROM given")
        database.execute("INSERT INTO scores SELECT id, 'success', 1, success FROM given")
        yield
        raise _Over


def rejection(pool: list[Row], parameters: Selection) -> list[tuple[str, list[Row]]]:
    """The rows left after each rule, in the most literal way."""
    group = defaultdict(list)
    for row in pool:
        group[row.policy, row.task].append(row.success)
    steps = [("collected", list(pool))]

    def keep(rule: str, test) -> None:
        steps.append((rule, [row for row in steps[-1][1] if test(row)]))

    keep("solved", lambda row: row.success >= 0.5)

    def rate(row: Row) -> float:
        return sum(group[row.policy, row.task]) / len(group[row.policy, row.task])

    keep("difficulty band", lambda row: parameters.min_success_rate <= rate(row) <= parameters.max_success_rate)
    keep("short enough", lambda row: row.tokens <= parameters.max_tokens)
    left = sorted(steps[-1][1], key=lambda row: (row.tokens, row.id))
    keep("distinct actions", lambda row: row == next(r for r in left if (r.task, r.actions) == (row.task, row.actions)))
    distinct = sorted(steps[-1][1], key=lambda row: (row.tokens, row.id))
    keep("first of the task", lambda row: [r for r in distinct if r.task == row.task].index(row) < parameters.per_task)
    return steps


parameters = st.builds(
    Selection,
    per_task=st.integers(1, 3),
    min_success_rate=st.sampled_from([0.0, 0.25, 0.5]),
    max_success_rate=st.sampled_from([0.5, 0.75, 0.99, 1.0]),
    max_tokens=st.integers(1, 6),
    accumulate=st.booleans(),
)
shared = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def in_scope(pool: list[Row], iteration: int, accumulate: bool) -> list[Row]:
    return [row for row in pool if row.iteration == iteration or (accumulate and row.iteration < iteration)]


def draw(seed: int, row: Row) -> str:
    return hashlib.md5(f"{seed} {row.id}".encode()).hexdigest()


@shared
@given(pool=pools(), parameters=parameters, iteration=st.integers(1, 3))
def test_rejection_is_what_it_says(database, pool, parameters, iteration):
    with filled(database, pool):
        steps = rejection(in_scope(pool, iteration, parameters.accumulate), parameters)
        order = sorted(steps[-1][1], key=lambda row: (row.iteration, row.task, row.tokens, row.id))
        if not order:
            with pytest.raises(EmptySelectionError, match="nothing is left"):
                select(database, "rejection", "main", iteration, parameters)
            return
        selected = select(database, "rejection", "main", iteration, parameters)
        steps.append((NEAR_DUPLICATES, steps[-1][1]))  # the rows of these pools have no text
        assert selected.funnel == tuple((rule, len(rows)) for rule, rows in steps)
        assert selected.dataset.trajectories == tuple(row.id for row in order)
        assert datasets.load(database, selected.dataset.id) == selected.dataset


@shared
@given(
    pool=pools(), parameters=parameters, iteration=st.integers(1, 3), seed=st.integers(0, 5), size=st.integers(1, 10)
)
def test_random_draws_what_its_seed_says(database, pool, parameters, iteration, seed, size):
    with filled(database, pool):
        short = [row for row in in_scope(pool, iteration, parameters.accumulate) if row.tokens <= parameters.max_tokens]
        drawn = sorted(short, key=lambda row: draw(seed, row))[:size]
        if not drawn:
            with pytest.raises(EmptySelectionError, match="nothing is left"):
                select(database, "random", "main", iteration, parameters, seed=seed, size=size)
            return
        selected = select(database, "random", "main", iteration, parameters, seed=seed, size=size)
        assert selected.dataset.trajectories == tuple(row.id for row in drawn)


@shared
@given(pool=pools(), parameters=parameters, replay=st.sampled_from([0.0, 0.5, 1.0, 2.0]), iteration=st.integers(1, 3))
def test_replay_adds_so_many_earlier_rows_to_the_newest(database, pool, parameters, replay, iteration):
    parameters = parameters.model_copy(update={"replay": replay, "accumulate": True})
    with filled(database, pool):
        left = rejection(in_scope(pool, iteration, True), parameters)[-1][1]
        newest = [row for row in left if row.iteration == iteration]
        earlier = sorted((row for row in left if row.iteration < iteration), key=lambda row: draw(0, row))
        chosen = newest + earlier[: int(replay * len(newest))]
        if not chosen:
            with pytest.raises(EmptySelectionError, match="nothing is left"):
                select(database, "replay", "main", iteration, parameters)
            return
        selected = select(database, "replay", "main", iteration, parameters)
        order = sorted(chosen, key=lambda row: (row.iteration, row.task, row.tokens, row.id))
        assert selected.dataset.trajectories == tuple(row.id for row in order)


@shared
@given(
    pool=pools(),
    parameters=parameters,
    replay=st.sampled_from([0.0, 1.0, 2.0]),
    rows=st.integers(1, 6),
    iteration=st.integers(1, 3),
)
def test_fresh_keeps_the_newest_and_stays_within_its_rows(database, pool, parameters, replay, rows, iteration):
    parameters = parameters.model_copy(update={"replay": replay, "rows": rows, "accumulate": True})
    with filled(database, pool):
        left = rejection(in_scope(pool, iteration, True), parameters)[-1][1]
        newest = {row.id for row in left if row.iteration == iteration}
        earlier = {row.id for row in left if row.iteration < iteration}
        replayed = min(int(replay * len(newest)), len(earlier))
        if not newest:
            with pytest.raises(EmptySelectionError, match="nothing is left"):
                select(database, "fresh", "main", iteration, parameters)
            return
        chosen = set(select(database, "fresh", "main", iteration, parameters).dataset.trajectories)
        assert len(chosen) == min(rows, len(newest) + replayed)
        assert len(chosen & newest) == min(rows, len(newest)) and chosen <= newest | earlier


def test_fresh_replays_later_iterations_more_often(database):
    """Of iterations 1 to 4 with as many rows each, and a half-life of one iteration, each gives half of what the next gives."""
    pool = [
        Row(f"r{iteration}-{number}", iteration, "policy_p", f"task {iteration} {number}", 3, "act", 1.0)
        for iteration in range(1, 6)
        for number in range(400)
    ]
    parameters = Selection(replay=0.25, half_life=1, max_success_rate=1, rows=10_000)
    with filled(database, pool):
        chosen = select(database, "fresh", "main", 5, parameters).dataset.trajectories
    counts = [sum(name.startswith(f"r{iteration}-") for name in chosen) for iteration in range(1, 6)]
    assert counts[4] == 400 and sum(counts[:4]) == 100
    assert counts[0] < counts[1] < counts[2] < counts[3] and counts[3] > 40, counts


@shared
@given(pool=pools(), parameters=parameters)
def test_pairs_are_of_one_policy_at_one_task_shortest_first(database, pool, parameters):
    with filled(database, pool):
        expected: set[tuple[str, str]] = set()
        short = [row for row in in_scope(pool, 2, parameters.accumulate) if row.tokens <= parameters.max_tokens]
        for group in {(row.policy, row.task) for row in short}:
            sides = [
                sorted(
                    (row for row in short if (row.policy, row.task) == group and (row.success >= 0.5) == solved),
                    key=lambda row: (row.tokens, row.id),
                )
                for solved in (True, False)
            ]
            expected |= {
                (right.id, wrong.id) for right, wrong in list(zip(*sides, strict=False))[: parameters.per_task]
            }
        if not expected:
            with pytest.raises(EmptySelectionError, match="nothing is left"):
                select(database, "pairs", "main", 2, parameters)
            return
        rows = select(database, "pairs", "main", 2, parameters).dataset.trajectories
        assert set(zip(rows[::2], rows[1::2], strict=True)) == expected


def test_the_same_choice_has_the_same_name_and_another_has_another(database, collected):
    first = select(database, "rejection", "main", 1, Selection())
    assert select(database, "rejection", "main", 1, Selection()) == first
    assert select(database, "rejection", "main", 2, Selection()).dataset.id == first.dataset.id
    assert select(database, "rejection", "main", 1, Selection(per_task=3)).dataset.id != first.dataset.id
    assert database.execute("SELECT iteration, count(*) FROM selections GROUP BY 1 ORDER BY 1") == [(1, 2), (2, 1)]
    assert database.execute("SELECT rows FROM datasets") == [(10,), (10,)]


def test_a_dry_run_stores_nothing_and_works_on_a_reader(database, collected):
    path = database.path
    database.close()
    with Database.open(path, read_only=True) as reader:
        selected = select(reader, "rejection", "main", 1, Selection(), save=False)
        assert selected.funnel == (
            ("collected", 20),
            ("solved", 10),
            ("difficulty band", 10),
            ("short enough", 10),
            ("distinct actions", 10),
            ("first of the task", 10),
            ("no near duplicate", 10),
        )
        assert reader.execute("SELECT count(*) FROM datasets") == [(0,)]


def test_what_was_only_evaluated_is_never_in_the_pool(database, tmp_path):
    path = tmp_path / "data" / "a.parquet"
    write_shard(path, [episode(sum_task(1))], purpose="evaluate", campaign="main", iteration=1)
    ingest(database, [path])
    score(database, {"arithmetic": lambda task, answer: 1.0})
    with pytest.raises(StoreError, match="nothing is left of 0 trajectories"):
        select(database, "random", "main", 1, Selection(), size=1)


def test_a_trajectory_without_a_score_is_named(database, collected):
    database.execute("DELETE FROM scores WHERE trajectory = ?", [collected[3].id])
    with pytest.raises(StoreError, match=collected[3].id):
        select(database, "rejection", "main", 1, Selection())


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        (None, "neither built in"),
        ("SELECT trajectory, NULL::VARCHAR AS failed, 1 AS place FROM pool", "has no comment '-- rules"),
        ("-- rules: a\nSELECT 1; SELECT 2", "is not one SQL query"),
        ("-- rules: a\nSELECT trajectory, NULL::VARCHAR AS failed, $width AS place FROM pool", r"needs \$width"),
        ("-- rules: a\nSELECT nonsense FROM pool", "nonsense"),
        ("-- rules: a\nSELECT trajectory, 'b' AS failed, 1 AS place FROM pool", "'b'"),
        ("-- rules: a\nSELECT trajectory, 'a' AS failed, 1 AS place FROM pool", "after the rule 'a'"),
    ],
)
def test_a_recipe_that_cannot_be_used_is_named(database, collected, tmp_path, sql, message):
    file = tmp_path / "mine.sql"
    if sql:
        file.write_text(sql)
    with pytest.raises(StoreError, match=message) as refused:
        select(database, file, "main", 1, Selection())
    assert "mine" in str(refused.value) and "\n" not in str(refused.value)


def test_a_recipe_of_ones_own(database, collected, tmp_path):
    file = tmp_path / "failures.sql"
    file.write_text(
        "-- rules: failed\nSELECT trajectory, CASE WHEN success > 0 THEN 'failed' END AS failed, "
        "row_number() OVER (ORDER BY task) AS place FROM pool"
    )
    selected = select(database, file, "main", 1, Selection())
    assert set(selected.dataset.trajectories) == {t.id for t in collected[1::2]}
    assert selected.dataset.recipe == "failures"


def test_rows_are_the_stored_tokens_in_the_order_of_the_dataset(database, collected):
    chosen = select(database, "random", "main", 1, Selection(), size=7, seed=3).dataset
    rows = datasets.rows(database, chosen.id)
    database.close()
    by_id = {trajectory.id: trajectory for trajectory in collected}
    read = list(rows)
    assert [row.trajectory for row in read] == list(chosen.trajectories)
    for row in read:
        trajectory = by_id[row.trajectory]
        assert (row.token_ids.dtype, row.mask.dtype, row.logprobs.dtype) == ("int32", "bool", "float32")
        assert tuple(row.token_ids) == trajectory.token_ids
        assert tuple(row.mask) == trajectory.mask
        assert tuple(row.logprobs) == trajectory.logprobs


def test_a_missing_or_exchanged_shard_is_named(database, collected, tmp_path):
    chosen = select(database, "rejection", "main", 1, Selection()).dataset
    path = tmp_path / "data" / "shards" / "a.parquet"
    path.unlink()
    with pytest.raises(ShardError, match=f"{path}: no such shard"):
        list(datasets.rows(database, chosen.id))
    write_shard(path, [episode(sum_task(99))], purpose="collect", campaign="main", iteration=1)
    with pytest.raises(ShardError, match=f"{path}: row"):
        list(datasets.rows(database, chosen.id))
    with pytest.raises(StoreError, match="no dataset data_0"):
        datasets.rows(database, "data_0")
