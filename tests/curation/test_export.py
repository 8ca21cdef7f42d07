"""Exported datasets: what another trainer reads is what was stored."""

import json

import pyarrow.parquet as pq
import pytest
from made_by_hand import episode, sum_task

from agentloop.curation.export import export
from agentloop.curation.selection import select
from agentloop.errors import StoreError
from agentloop.settings import Selection


def read(path) -> list[dict]:
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_pairs_for_preference_training(database, collected, tmp_path, suffix):
    pairs = select(database, "pairs", "main", 1, Selection()).dataset.trajectories
    path = tmp_path / f"pairs{suffix}"
    assert export(database, pairs, path, paired=True) == 10
    by_id = {trajectory.id: trajectory for trajectory in collected}
    rows = read(path)
    assert [(row["chosen_trajectory"], row["rejected_trajectory"]) for row in rows] == list(
        zip(pairs[::2], pairs[1::2], strict=True)
    )
    for row in rows:
        right, wrong = by_id[row["chosen_trajectory"]], by_id[row["rejected_trajectory"]]
        assert right.task.id == wrong.task.id == row["task"] and right.answer and not wrong.answer
        assert row["prompt"] == [{"role": "user", "content": right.task.question}]
        assert row["chosen"] == [
            {"role": "assistant", "content": "calculator({})"},
            {"role": "user", "content": "2"},
            {"role": "assistant", "content": f"answer: {right.answer}"},
        ]
        for side, trajectory in (("chosen", right), ("rejected", wrong)):
            opening = trajectory.turns[0].end
            assert tuple(row["prompt_ids"] + row[f"{side}_ids"]) == trajectory.token_ids
            assert tuple(row[f"{side}_mask"]) == trajectory.mask[opening:]
            assert tuple(row[f"{side}_logprobs"]) == trajectory.logprobs[opening:]


def test_other_rows_as_messages_in_the_order_of_the_dataset(database, collected, tmp_path):
    chosen = select(database, "random", "main", 1, Selection(), size=5).dataset.trajectories
    export(database, chosen, tmp_path / "rows.jsonl", paired=False)
    rows = read(tmp_path / "rows.jsonl")
    assert [row["trajectory"] for row in rows] == list(chosen)
    by_id = {trajectory.id: trajectory for trajectory in collected}
    for row in rows:
        trajectory = by_id[row["trajectory"]]
        assert [message["content"] for message in row["messages"]] == [turn.text for turn in trajectory.turns]
        assert (tuple(row["token_ids"]), tuple(row["mask"])) == (trajectory.token_ids, trajectory.mask)


def test_what_cannot_be_exported_is_named_and_leaves_no_file(database, collected, tmp_path):
    with pytest.raises(StoreError, match=r"rows.csv: .* \.jsonl or \.parquet"):
        export(database, [collected[0].id], tmp_path / "rows.csv", paired=False)
    with pytest.raises(StoreError, match=episode(sum_task(99)).id):
        export(database, [episode(sum_task(99)).id], tmp_path / "rows.jsonl", paired=False)
    assert not (tmp_path / "rows.csv").exists() and not (tmp_path / "rows.jsonl").exists()
