"""Ids by their beginning, wherever a command takes one."""

import pytest
from typed import begin, mistake

from agentloop.cli import ids
from agentloop.errors import StoreError
from agentloop.records import Adapter
from agentloop.store import adapters, champions, datasets
from agentloop.store.database import Database


@pytest.fixture
def made(recorded):
    with Database.open_snapshot(recorded.database) as database:
        return sorted(name for (name,) in database.execute("SELECT id FROM adapters"))


def beginning(name: str, names: list[str]) -> str:
    """As little of the name as tells it from the others."""
    return next(
        name[:length]
        for length in range(9, len(name) + 1)
        if sum(map(name[:length].__eq__, [each[:length] for each in names])) == 1
    )


def test_an_adapter_by_as_much_as_is_enough(agentloop, on_recorded, made):
    for name in made:
        short = beginning(name, made)
        for word in (name, short, short.removeprefix("adapter_")):
            code, output, errors = agentloop("lineage", word)
            assert code == 0 and output.splitlines()[0] == name, errors


def test_of_several_the_first_ones_are_named(agentloop, on_recorded, made):
    assert mistake(agentloop("lineage", "adapter_")) == (
        f"adapter_: 4 ids begin like this: {', '.join(made[:3])}, …; type more of it"
    )


@pytest.mark.parametrize("word", ["adapter_xyz", "xyz", "%", "adapter%", "", "ADAPTER_"])
def test_of_none_one_line(agentloop, on_recorded, word):
    for command in ("lineage", "reproduce"):
        said = mistake(agentloop(command, word))
        assert said.startswith(f"{on_recorded / 'agentloop.duckdb'}: no adapter") and word in said


def test_a_whole_id_that_another_one_continues_is_itself():
    assert ids.only("adapter", "adapter_1", ["adapter_12", "adapter_1"]) == "adapter_1"
    assert ids.only("adapter", "2", ["adapter_12", "adapter_1"]) is None
    with pytest.raises(StoreError, match="^adapter_1: 2 ids begin like this: adapter_12, adapter_13; type more of it$"):
        ids.only("adapter", "adapter_1", ["adapter_13", "adapter_12"])


def test_an_adapter_of_another_campaign_is_none_of_this(agentloop, on_recorded, made):
    with Database.open(on_recorded / "agentloop.duckdb") as database:
        begin(database, "other")
        other = Adapter("base_9", datasets.load(database, _dataset(database)).id, {}, 1, "1")
        adapters.save(database, other, path=on_recorded, campaign="other", iteration=1)
    assert agentloop("lineage", "--campaign", "other", "adapter_")[1].splitlines()[0] == other.id
    assert mistake(agentloop("lineage", "--campaign", "other", made[0])).endswith(
        f"no adapter {made[0]} of campaign 'other'"
    )


def _dataset(database: Database) -> str:
    return database.execute("SELECT id FROM datasets LIMIT 1")[0][0]


def test_a_rollback_looks_among_the_earlier_champions(agentloop, on_recorded, made):
    with Database.open(on_recorded / "agentloop.duckdb") as database:
        earlier = [move.adapter for move in champions.moves(database, "recorded")]
        for name in earlier:
            adapters.directory(database, name).mkdir(parents=True)
            # where the files were when it was recorded
            database.execute("UPDATE adapters SET path = ? WHERE id = ?", [f"adapters/{name}", name])
            (on_recorded / "adapters" / name).mkdir(parents=True, exist_ok=True)
    assert len(earlier) == 2 and len(made) == 4
    short = beginning(earlier[0], earlier)
    code, output, errors = agentloop("rollback", short)
    assert code == 0 and output == f"Champion of campaign recorded: {earlier[0]} (it was {earlier[1]})\n", errors
    stranger = next(name for name in made if name not in earlier)
    assert mistake(agentloop("rollback", stranger)) == f"{stranger}: was never champion of campaign 'recorded'"
    assert "the base model" in agentloop("rollback", "base")[1]


def test_a_canary_looks_among_the_adapters_on_disk(agentloop, data):
    for name in ("adapter_12", "adapter_13"):
        (data / "adapters" / name).mkdir(parents=True)
    assert mistake(agentloop("canary", "adapter_1")) == (
        "adapter_1: 2 ids begin like this: adapter_12, adapter_13; type more of it"
    )
    assert mistake(agentloop("canary", "adapter_2")).startswith("adapter_2: neither an adapter in ")
    # the one that is meant is found, and has no weights
    assert str(data / "adapters" / "adapter_13") in mistake(agentloop("canary", "13", "--profile", "demo"))


def test_tasks_and_trajectories_are_forgotten_by_their_beginning(agentloop, database, collected):
    begin(database, "main", "other")
    database.close()
    names = sorted(each.id for each in collected)
    short = beginning(names[0], names)
    code, output, errors = agentloop("forget", "--trajectory", short, "--reason", "x")
    assert code == 0 and "1 trajectories are kept" in output, errors
    tasks = sorted({each.task.id for each in collected})
    assert mistake(agentloop("forget", "--task", "task_", "--reason", "x")).startswith(
        "task_: 10 ids begin like this: "
    )
    assert "no task" in mistake(agentloop("forget", "--campaign", "other", "--task", tasks[0], "--reason", "x"))
    code, output, _ = agentloop("forget", "--campaign", "main", "--task", beginning(tasks[1], tasks), "--reason", "x")
    assert code == 0 and "2 trajectories are kept" in output
    with Database.open_snapshot(database.path) as after:
        assert after.execute("SELECT count(*) FROM forgotten") == [(3,)]
