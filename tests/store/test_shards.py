import dataclasses
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_by_hand import episode, sum_task

from agentloop.errors import ShardError
from agentloop.records import Attempt, Sampling, Task, Trajectory, Turn
from agentloop.store.shards import Footer, is_whole, read_footer, read_shard, shard_id, write_shard

WHERE = {"purpose": "collect", "campaign": "main", "iteration": 1}
text = st.text(max_size=20)
maybe_text = st.none() | text
float32 = st.floats(width=32, allow_nan=False)


@st.composite
def trajectories(draw):
    length = draw(st.integers(0, 12))
    numbers = st.integers(0, 2**31 - 1)
    payload = st.dictionaries(
        text, st.none() | st.booleans() | st.integers(-(2**40), 2**40) | text | st.lists(text, max_size=2), max_size=3
    )
    task = Task(
        draw(text), draw(text), draw(text), draw(text), draw(st.sampled_from(["train", "heldout"])), draw(payload)
    )
    turn = st.builds(
        Turn, st.sampled_from(["user", "model", "tool"]), text, numbers, numbers, maybe_text, maybe_text, maybe_text
    )
    per_token = {"min_size": length, "max_size": length}
    return Trajectory(
        policy=draw(text),
        task=task,
        sample=draw(numbers),
        seed=draw(numbers),
        sampling=Sampling(temperature=draw(st.floats(0, 2)), max_tokens=draw(numbers)),
        status=draw(st.sampled_from(["answered", "malformed", "turn_limit"])),
        answer=draw(maybe_text),
        token_ids=tuple(draw(st.lists(numbers, **per_token))),
        mask=tuple(draw(st.lists(st.booleans(), **per_token))),
        logprobs=tuple(draw(st.lists(float32, **per_token))),
        turns=tuple(draw(st.lists(turn, max_size=4))),
        seconds=draw(st.floats(0, 1e6)),
        attempts=tuple(draw(st.lists(st.builds(Attempt, text, st.floats(0, 1e6)), max_size=3))),
    )


@settings(max_examples=40, deadline=None)
@given(written=st.lists(trajectories(), max_size=4))
def test_every_field_comes_back(written, tmp_path_factory):
    path = tmp_path_factory.mktemp("shards") / "a.parquet"
    write_shard(path, written, **WHERE)
    assert read_shard(path) == written
    assert read_footer(path) == Footer(
        shard_id([trajectory.id for trajectory in written]), len(written), "main", 1, "collect"
    )


def test_log_probabilities_of_vllm_are_kept_exactly(tmp_path):
    # vLLM computes in float32 and prints the nearest double.
    logprobs = tuple(float(value) for value in np.random.default_rng(0).normal(-1, 1, 50).astype(np.float32))
    trajectory = dataclasses.replace(
        episode(sum_task(1)), token_ids=tuple(range(50)), mask=(True,) * 50, logprobs=logprobs
    )
    write_shard(tmp_path / "a.parquet", [trajectory], **WHERE)
    assert read_shard(tmp_path / "a.parquet")[0].logprobs == logprobs


def test_a_shard_never_changes(tmp_path):
    path = tmp_path / "new" / "a.parquet"
    first = [episode(sum_task(n)) for n in range(3)]
    write_shard(path, first, **WHERE)
    before = path.read_bytes()
    write_shard(path, [dataclasses.replace(t, seconds=9.0) for t in first], **WHERE)  # the same plan, run again
    assert path.read_bytes() == before
    with pytest.raises(ShardError, match=str(path)):
        write_shard(path, first[:2], **WHERE)
    assert [file.name for file in path.parent.iterdir()] == ["a.parquet"]


@pytest.mark.parametrize("keep", [0, 3, 0.5, 0.99])
def test_a_truncated_shard_is_named_and_can_be_written_again(tmp_path, keep):
    path = tmp_path / "a.parquet"
    trajectories = [episode(sum_task(n)) for n in range(20)]
    write_shard(path, trajectories, **WHERE)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if keep < 1 else keep])
    assert not is_whole(path)
    with pytest.raises(ShardError, match=str(path)) as refused:
        read_shard(path)
    assert "\n" not in str(refused.value)
    write_shard(path, trajectories, **WHERE)
    assert read_shard(path) == trajectories


def test_a_file_of_another_kind_is_named(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"x": [1]}), path)
    with pytest.raises(ShardError, match=f"{path}: not a shard"):
        read_shard(path)
    with pytest.raises(ShardError, match="no such shard"):
        read_shard(tmp_path / "b.parquet")


def test_content_that_is_not_what_the_name_says_is_refused(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "a.parquet"
    write_shard(path, [episode(sum_task(1))], **WHERE)
    table = pq.read_table(path)
    forged = table.set_column(table.schema.get_field_index("seed"), "seed", pa.array([8], pa.int64()))
    pq.write_table(forged, path)
    with pytest.raises(ShardError, match="holds the content of"):
        read_shard(path)


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path):
    # A file size limit of the process: the same failing write as on a full disk, without filling one.
    path = tmp_path / "shards" / "a.parquet"
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from made_by_hand import episode, sum_task
from agentloop.errors import DiskError
from agentloop.store.shards import write_shard
try:
    episodes = [episode(sum_task(n)) for n in range(500)]
    write_shard(Path({str(path)!r}), episodes, purpose="collect", campaign="main", iteration=1)
except DiskError as error:
    print(error)
"""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, preexec_fn=limit)
    assert done.stdout.startswith(f"{path}: ") and done.stdout.count("\n") == 1, done.stderr
    assert list(path.parent.iterdir()) == []
