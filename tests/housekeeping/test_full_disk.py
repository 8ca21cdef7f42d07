"""A disk that is really full, a small one of memory: told before the write, or in one line in the middle; nothing is lost."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_root import Nights
from made_by_hand import episode, sum_task
from safetensors.numpy import save_file

from agentloop import settings as configuration
from agentloop import space
from agentloop.campaign import needs
from agentloop.campaign import report as reporting
from agentloop.campaign.prune import prune
from agentloop.errors import NoSpaceError, told
from agentloop.files import atomic
from agentloop.housekeeping import plan, remedied
from agentloop.model_directory.fingerprint import base_fingerprint
from agentloop.records import NONE
from agentloop.serving.adapters import weights_digest
from agentloop.settings import Settings
from agentloop.store.database import Database
from agentloop.store.ingest import ingest
from agentloop.store.shards import read_shard, write_shard
from agentloop.training import rows
from agentloop.training.launch import launch, read_metrics
from agentloop.training.run import TrainingRun

MIB = 1 << 20


@pytest.fixture
def disk(tmp_path: Path):
    """Mount a disk of so many MiB."""
    mounted = []

    def mount(mebibytes: int, at: Path = tmp_path / "disk") -> Path:
        at.mkdir(exist_ok=True)
        words = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", at]
        if subprocess.run(words, capture_output=True).returncode:
            pytest.skip("this machine does not let this user mount")
        mounted.append(at)
        return at

    yield mount
    for at in mounted:
        subprocess.run(["umount", "-l", at], check=True)


def fill(folder: Path, *, leave: int = 0) -> Path:
    """Take what is free there but for so many bytes."""
    ballast = folder / "ballast"
    with open(ballast, "wb", buffering=0) as file:
        os.posix_fallocate(file.fileno(), 0, max(1, space.free(folder) - leave))
    return ballast


def plain(path: Path) -> None:
    path.write_bytes(b"x" * MIB)


def tensors(path: Path) -> None:
    save_file({"a": np.zeros(MIB, dtype=np.uint8)}, path)


def parquet(path: Path) -> None:
    pq.write_table(pa.table({"a": np.random.default_rng(0).random(1 << 17)}), path, compression="none")


def folder(path: Path) -> None:
    path.mkdir()
    (path / "whole").write_text("whole")
    plain(path / "large")


@pytest.mark.parametrize("write", [plain, tensors, parquet, folder])
def test_a_write_that_fills_the_disk(disk, write):
    root = disk(4)
    before = root / "before"
    before.write_text("whole")
    fill(root, leave=MIB // 2)
    free = space.free(root)
    with pytest.raises(NoSpaceError) as refused, atomic(before if write is plain else root / "new") as temporary:
        write(temporary)
    line = told(refused.value)
    assert line.startswith(str(root)) and "No space left on device" in line and "are free" in line and "\n" not in line
    assert sorted(each.name for each in root.iterdir()) == ["ballast", "before"] and before.read_text() == "whole"
    assert space.free(root) == free


def test_needed_and_free_are_named(disk):
    root = disk(4)
    fill(root, leave=MIB)
    space.require(root / "there" / "not yet", MIB)
    with pytest.raises(NoSpaceError, match=r"2.0 MiB are needed there; 1.0 MiB are free"):
        space.require(root / "new", 2 * MIB)
    with pytest.raises(
        NoSpaceError, match=r"512.0 KiB are needed there, and 1.0 MiB stay free .retention.reserve_gib."
    ):
        space.require(root / "new", MIB // 2, reserve=MIB)


@pytest.fixture
def on_a_small_disk(campaign, disk, tmp_path) -> Nights:
    """The campaign of one night, moved to a disk of 96 MiB."""
    campaign.pass_one()
    moved = tmp_path / "moved"
    campaign.data.rename(moved)
    campaign.data.mkdir()
    disk(96, campaign.data)
    subprocess.run(["cp", "-a", f"{moved}/.", campaign.data], check=True)
    return campaign


def test_a_shard_and_an_ingest(on_a_small_disk):
    campaign = on_a_small_disk
    shards, before = campaign.settings.paths.shards, campaign.files()
    many = [episode(sum_task(number), padding=2000) for number in range(50_000, 52_000)]
    more = shards / "more.parquet"
    write_shard(more, many, purpose="collect", campaign="nights", iteration=2)
    ballast = fill(campaign.data, leave=MIB // 64)
    with pytest.raises(NoSpaceError, match="No space left on device"):
        write_shard(shards / "again.parquet", many[:-1], purpose="collect", campaign="nights", iteration=2)
    assert not (shards / "again.parquet").exists() and len(read_shard(more)) == 2000
    with pytest.raises(NoSpaceError, match="agentloop.duckdb"), campaign.database() as database:
        ingest(database, [more])
    ballast.unlink()
    with campaign.database() as database:
        assert database.execute("SELECT count(*) FROM trajectories") == [(28,)]
        assert ingest(database, [more]).trajectories == 2000  # the same step goes on
    assert before.keys() <= campaign.files().keys()


def test_readers_and_prune_on_a_disk_without_a_byte(on_a_small_disk):
    campaign = on_a_small_disk
    for each in campaign.data.glob(".*.snapshot"):
        each.unlink()
    ballast = fill(campaign.data)
    assert space.free(campaign.data) == 0
    with Database.open_snapshot(campaign.settings.paths.database) as database:  # in the temporary folder
        assert database.execute("SELECT count(*) FROM adapters") == [(1,)]
    expected = plan.look(campaign.settings).bytes
    done = prune(campaign.settings)
    assert done["bytes"] == expected and done["free"] >= expected > 0
    ballast.unlink()


def test_what_is_large_is_refused_before_it_begins(on_a_small_disk):
    campaign = on_a_small_disk
    fill(campaign.data, leave=MIB)
    before = campaign.files()
    freed = plan.look(campaign.settings).bytes
    with pytest.raises(NoSpaceError) as refused, remedied(campaign.settings):
        reporting.write(campaign.settings)
    line = told(refused.value)
    assert line.startswith(f"{campaign.settings.paths.reports}: ") and "are needed there; 1" in line
    assert freed and f"`agentloop prune --yes` frees {freed / 1024:.1f} KiB" in line
    assert campaign.files().keys() == before.keys()


@pytest.mark.parametrize("what", ["episodes", "training", "dequantised"])
def test_every_large_step_asks_first(on_a_small_disk, what, tmp_path):
    from agentloop.campaign import collect, train
    from agentloop.campaign.campaign import Campaign

    nights = on_a_small_disk
    paths = nights.settings.paths
    words = [
        f"paths.data={paths.data}",
        f"paths.cache={paths.data / 'cache'}",
        "campaign=nights",
        "retention.reserve_gib=0",
    ]
    opened = Campaign.open(configuration.load(words, profile="demo"))
    with opened.worlds:
        run = train.plan(opened, "data_1")
        asks = {
            "episodes": lambda: needs.episodes(opened, collect.plan_collection(opened, 1, None)),
            "training": lambda: needs.training(opened, run, tokens=1000),
            "dequantised": lambda: needs.dequantised(opened),
        }
        asks[what]()  # there is room
        fill(nights.data, leave=MIB // 8)
        with pytest.raises(NoSpaceError, match="are needed there; 128.0 KiB are free"):
            asks[what]()


def test_the_command_line_says_it_in_one_line(on_a_small_disk):
    campaign = on_a_small_disk
    fill(campaign.data, leave=MIB)
    paths = campaign.settings.paths
    words = ["report", "--campaign", "nights", f"paths.data={paths.data}", f"paths.cache={paths.cache}"]
    done = subprocess.run([sys.executable, "-m", "agentloop", *words], capture_output=True, text=True)
    assert done.returncode == 2, done.stdout + done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ") and "are needed there" in last and "`agentloop prune --yes` frees" in last


def test_a_trainer_that_fills_the_disk_goes_on_from_its_checkpoint(disk, tmp_path):
    def planned(data: Path) -> tuple[TrainingRun, Settings]:
        words = [f"paths.data={data}", f"paths.cache={tmp_path / 'cache'}", "training.rank=32", "training.epochs=2"]
        words += ["training.batch_tokens=256", "training.checkpoint_steps=1", "training.quantization=none"]
        settings = configuration.load(words, profile="demo")
        settings.export()
        draw = np.random.default_rng(0)
        file = data / "datasets" / "data_1.safetensors"
        rows.write(file, [(draw.integers(10, 200, 40), np.arange(40) >= 20) for _ in range(24)])
        model = settings.model_directory()
        return (
            TrainingRun.plan(
                base=base_fingerprint(model, settings.paths.cache),
                dataset="data_1",
                rows=file,
                model=model,
                training=settings.training,
                quantization=NONE,
                seed=0,
                paths=settings.paths,
            ),
            settings,
        )

    run, settings = planned(disk(64))
    steps: list[int] = []
    ballast = fill(settings.paths.data, leave=6 * MIB)  # room for one checkpoint, and none for the next beside it
    with pytest.raises(NoSpaceError, match=r"checkpoints/adapter_.*No space left on device"):
        launch(run, settings, on_step=lambda metrics: steps.append(metrics["step"]))
    assert run.checkpoint.is_file() and not run.output.exists()
    assert not [each for each in run.checkpoints.iterdir() if each.name.startswith(".")]
    ballast.unlink()
    launch(run, settings, on_step=lambda metrics: steps.append(metrics["step"]))
    undisturbed, elsewhere = planned(tmp_path / "elsewhere")
    launch(undisturbed, elsewhere)
    assert weights_digest(run.output) == weights_digest(undisturbed.output) is not None
    assert len(read_metrics(run)) == len(read_metrics(undisturbed)) == max(steps)
