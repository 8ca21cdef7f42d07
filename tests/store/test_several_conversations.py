"""Episodes with several conversations: stored with their starts, selected and counted once, trained on and exported one by one."""

import dataclasses
import json

import pyarrow.parquet as pq
import pytest
from made_by_hand import episode, sum_task

from agentloop.curation.export import export
from agentloop.curation.scoring import score
from agentloop.curation.selection import select
from agentloop.errors import StoreError
from agentloop.records import Trajectory, Turn
from agentloop.report import archive
from agentloop.settings import Selection
from agentloop.store import datasets, schema, trainable
from agentloop.store.ingest import ingest
from agentloop.store.shards import read_shard, write_shard

WHERE = {"purpose": "collect", "campaign": "main", "iteration": 1}


def several(task) -> Trajectory:
    """An episode, then one that repeats it and goes on, then one in which nothing was sampled that counts."""
    first = episode(task)
    start = len(first.token_ids)
    again = [
        dataclasses.replace(
            turn, start=turn.start + start, end=turn.end + start, role="history" if turn.role == "model" else turn.role
        )
        for turn in first.turns
    ]
    new = range(1000, 1004)
    end = 2 * start + len(new)
    turns = [*first.turns, *again, Turn("model", "answer: 7", 2 * start, end), Turn("user", "Hm?", end, end + 2),
             Turn("model", "unheard", end + 2, end + 5)]  # fmt: skip
    nothing = len(first.token_ids)
    return dataclasses.replace(
        first,
        token_ids=(*first.token_ids, *first.token_ids, *new, *range(5)),
        mask=(*first.mask, *[False] * nothing, *[True] * len(new), *[False] * 5),
        logprobs=(*first.logprobs, *[0.0] * nothing, *[-0.25] * len(new), *[0.0] * 5),
        turns=tuple(turns),
        starts=(0, start, end),
    )


@pytest.fixture
def stored(database, tmp_path):
    episodes = [several(sum_task(0)), episode(sum_task(1)), episode(sum_task(0), 1, answer="")]
    path = tmp_path / "data" / "shards" / "a.parquet"
    write_shard(path, episodes, **WHERE)
    assert read_shard(path) == episodes
    ingest(database, [path])
    score(database, {"arithmetic": lambda task, answer: float(answer == task.answer)})
    return episodes


def test_each_that_was_sampled_is_a_row_of_tokens(database, stored):
    first, *_ = stored
    [row, other, _] = datasets.tokens(database, [trajectory.id for trajectory in stored])
    parts = list(row.conversations())
    start, end = first.starts[1:]
    assert [part.first for part in parts] == [0, start]
    assert (
        tuple(parts[0].token_ids) == first.token_ids[:start] and tuple(parts[1].token_ids) == first.token_ids[start:end]
    )
    assert tuple(parts[1].mask) == first.mask[start:end] and parts[1].mask.sum() == 4
    assert tuple(parts[1].logprobs) == first.logprobs[start:end]
    [whole] = other.conversations()
    assert tuple(whole.token_ids) == stored[1].token_ids


def test_an_episode_counts_once_and_its_history_does_not(database, stored):
    [[turns, calls]] = database.execute("SELECT model_turns, tool_calls FROM trajectories WHERE len(starts) = 3")
    assert (turns, calls) == (4, 1)
    written = sum(turn.end - turn.start for each in stored for turn in each.turns if turn.role == "model")
    assert trainable.told(database, "main", 1) == (
        f"Of the {written:,} tokens that the agent had the model write, in 5 conversations of 3 episodes, "
        f"{int(1000 * (written - 3) / written) / 10:g} % are trainable; 3 are not: the agent had hung up before it heard them."
    )
    assert trainable.told(database, "main", 2) is None


def test_what_is_too_long_is_a_conversation_and_no_episode(database, stored):
    longest = max(
        len(part.token_ids) for row in datasets.tokens(database, [stored[0].id]) for part in row.conversations()
    )
    kept, left = (
        select(database, "rejection", "main", 1, Selection(max_tokens=most, max_success_rate=1.0)).dataset.trajectories
        for most in (longest, longest - 1)
    )
    assert stored[0].id in kept and stored[0].id not in left and len(stored[0].token_ids) > longest


def test_each_is_exported_as_a_row_and_none_as_half_a_pair(database, stored, tmp_path):
    path = tmp_path / "rows.jsonl"
    assert export(database, [stored[0].id, stored[1].id], path, paired=False) == 3
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [row["trajectory"] for row in rows] == [stored[0].id, stored[0].id, stored[1].id]
    assert [len(row["messages"]) for row in rows] == [4, 5, 4] and rows[1]["messages"][-1]["content"] == "answer: 7"
    assert rows[1]["messages"][:4] == rows[0]["messages"] and "first" not in rows[0]
    with pytest.raises(StoreError, match=f"{stored[0].id}: has 3 conversations, and pairs are made of one and one"):
        export(database, [stored[0].id, stored[2].id], tmp_path / "pairs.jsonl", paired=True)


def test_the_viewer_is_told_where_each_begins(database, stored, tmp_path):
    packed = archive.pack(database, "main", tmp_path)
    episodes = archive_content(packed.chunks[0])
    assert episodes[0]["starts"] == list(stored[0].starts) and "starts" not in episodes[1]


def archive_content(chunk: str):
    import base64
    import gzip

    return json.loads(gzip.decompress(base64.b64decode(chunk)))


@pytest.mark.parametrize("order", [1, -1])
def test_shards_from_before_are_read_beside_new_ones(database, tmp_path, order):
    folder = tmp_path / "data" / "shards"
    old, new = folder / "old.parquet", folder / "new.parquet"
    write_shard(old, [episode(sum_task(1))], **WHERE)
    table = pq.read_table(old)
    pq.write_table(table.drop_columns(["starts"]), old)
    write_shard(new, [several(sum_task(0))], **WHERE)
    assert read_shard(old) == [episode(sum_task(1))]
    report = ingest(database, [old, new][::order])
    assert (report.trajectories, report.damaged) == (2, ())
    found = database.execute("SELECT len(starts) FROM trajectories ORDER BY 1")
    assert found == [(1,), (3,)]
    names = [name for (name,) in database.execute("SELECT id FROM trajectories")]
    assert len(list(datasets.tokens(database, names))) == 2
    schema.locate_shards(database.connection, database.path)  # as when the database is opened
    assert database.execute("SELECT count(*) FROM v_tokens") == [(2,)]
    if order == 1:  # alone as well
        write_shard(folder / "older.parquet", [episode(sum_task(2))], **WHERE)
        pq.write_table(pq.read_table(folder / "older.parquet").drop_columns(["starts"]), folder / "older.parquet")
        assert ingest(database, [folder / "older.parquet"]).trajectories == 1
