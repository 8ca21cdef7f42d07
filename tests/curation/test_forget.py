import pytest
from made_by_hand import episode, sum_task

from agentloop.curation.forget import forget, rebuild
from agentloop.curation.scoring import score
from agentloop.curation.selection import select
from agentloop.errors import StoreError
from agentloop.records import Adapter, Policy
from agentloop.settings import Selection
from agentloop.store import adapters, datasets, policies
from agentloop.store.ingest import ingest
from agentloop.store.shards import write_shard


def train(database, dataset: str, seed: int, parent: str | None = None) -> str:
    adapter = Adapter("base_1", dataset, {}, seed, "1", parent)
    adapters.save(database, adapter, path=database.path.parent / adapter.id, campaign="main", iteration=1)
    return adapter.id


def test_a_forgotten_trajectory_is_never_chosen_again_and_what_it_went_into_is_listed(database, collected, tmp_path):
    target = collected[6]  # a success, of task 3
    with_it = select(database, "rejection", "main", 1, Selection()).dataset
    trained = train(database, with_it.id, 0)
    continued = train(database, "data_other", 1, parent=trained)
    policy = Policy("base_1", trained, "plain/1")
    policies.save(database, policy)
    path = tmp_path / "later.parquet"
    write_shard(
        path,
        [episode(sum_task(n), answer="", policy=policy.id) for n in range(20, 23)],
        purpose="collect",
        campaign="main",
        iteration=2,
    )
    ingest(database, [path])
    score(database, {"arithmetic": lambda task, answer: float(answer == task.answer)})
    on_its_output = train(
        database, select(database, "random", "main", 2, Selection(accumulate=False), size=3).dataset.id, 2
    )

    forgotten = forget(database, trajectories=[target.id], reason="a person asked")
    assert forgotten.trajectories == (target.id,)
    assert forgotten.datasets == (with_it.id,)
    assert forgotten.adapters == (trained,)
    assert set(forgotten.descendants) == {continued, on_its_output}
    without = select(database, "rejection", "main", 1, Selection())
    assert without.funnel[0] == ("collected", 19)
    assert set(without.dataset.trajectories) == set(with_it.trajectories) - {target.id}
    rebuilt = rebuild(database, with_it.id)
    assert rebuilt.trajectories == tuple(name for name in with_it.trajectories if name != target.id)
    assert datasets.load(database, rebuilt.id) == rebuilt
    assert rebuild(database, rebuilt.id) == rebuilt
    assert forget(database, trajectories=[target.id], reason="again").adapters == (trained,)
    assert database.execute("SELECT trajectory, reason FROM forgotten") == [(target.id, "a person asked")]


def test_a_task_is_forgotten_with_all_its_trajectories(database, collected):
    forgotten = forget(database, tasks=[sum_task(3).id], reason="wrong answer")
    assert set(forgotten.trajectories) == {collected[6].id, collected[7].id}
    assert forgotten.datasets == forgotten.adapters == forgotten.descendants == ()
    assert len(select(database, "rejection", "main", 1, Selection()).dataset.trajectories) == 9


def test_what_is_not_there_is_named_and_nothing_is_forgotten(database, collected):
    for request in ({"tasks": ["task_0"], "trajectories": [collected[0].id]}, {"trajectories": ["traj_0"]}):
        with pytest.raises(StoreError, match="(task_0|traj_0)"):
            forget(database, **request, reason="gone")
    assert database.execute("SELECT count(*) FROM forgotten") == [(0,)]


def test_of_a_dataset_nothing_may_be_left(database, collected):
    chosen = select(database, "rejection", "main", 1, Selection()).dataset
    forget(database, trajectories=chosen.trajectories, reason="all")
    assert rebuild(database, chosen.id) is None
    with pytest.raises(StoreError, match="data_0"):
        rebuild(database, "data_0")


def test_of_a_pair_both_rows_go(database, collected):
    pairs = select(database, "pairs", "main", 1, Selection()).dataset
    forget(database, trajectories=[pairs.trajectories[3]], reason="wrong")
    assert rebuild(database, pairs.id).trajectories == pairs.trajectories[:2] + pairs.trajectories[4:]


def test_a_forgotten_task_stays_forgotten_when_it_is_collected_again(database, collected, tmp_path):
    forget(database, tasks=[sum_task(3).id], reason="wrong answer")
    path = tmp_path / "again.parquet"
    write_shard(path, [episode(sum_task(3), 9)], purpose="collect", campaign="main", iteration=1)
    ingest(database, [path])
    score(database, {"arithmetic": lambda task, answer: 1.0})
    assert select(database, "rejection", "main", 1, Selection()).funnel[0] == ("collected", 18)
