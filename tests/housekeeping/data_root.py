"""A data root that a campaign has filled, made without a model: shards, database, adapters, logs and all that lies beside."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from made_by_hand import episode, sum_task

from agentloop import settings as configuration
from agentloop.curation.scoring import score
from agentloop.records import Adapter, Dataset, Policy
from agentloop.settings import Settings
from agentloop.store import adapters, campaigns, datasets, evaluations, policies, training_runs
from agentloop.store.database import Database
from agentloop.store.ingest import ingest
from agentloop.store.shards import shard_id, write_shard

DAY = 86_400
EPISODES, CHOSEN = 24, 4
WEIGHTS = b"w" * 50_000


@dataclass
class Nights:
    """A campaign that gets one iteration a night. Everything of a night ends in the same ids on every machine."""

    settings: Settings
    night: int = 0

    @property
    def data(self) -> Path:
        return self.settings.paths.data

    def database(self) -> Database:
        return Database.open(self.settings.paths.database)

    def pass_one(self, *, champion: bool = False, parent: str | None = None) -> Adapter:
        """One night: an iteration from collecting to its verdict. Returns what it trained."""
        self.night += 1
        night, name = self.night, self.settings.campaign
        reigning = self.champion()
        acting = Policy("base_1", reigning, "prompt")
        tasks = [sum_task(1000 * night + number) for number in range(EPISODES)]
        heldout = [sum_task(10_000_000 + number, "heldout") for number in range(4)]
        with self.database() as database:
            campaigns.begin_iteration(database, name, night, champion=reigning)
            policies.save(database, acting)
            played = [episode(task, policy=acting.id, padding=200) for task in tasks]
            self._collect(database, played, "collect")
            dataset = Dataset(tuple(each.id for each in played[:CHOSEN]), "by hand", {"night": night})
            datasets.save(database, dataset, campaign=name, iteration=night)
            adapter = Adapter("base_1", dataset.id, {"rank": 8}, 0, "1", parent)
            training_runs.begin(database, adapter.id, campaign=name, iteration=night, dataset=dataset.id)
            self._train(adapter, dataset)
            folder = self.settings.paths.adapters / adapter.id
            adapters.save(database, adapter, path=folder, campaign=name, iteration=night)
            training_runs.log(database, adapter.id, [{"step": 1, "loss": 0.5, "tokens": 7}])
            training_runs.finish(database, adapter.id, seconds=1.0, tokens=7)
            challenger = Policy("base_1", adapter.id, "prompt")
            policies.save(database, challenger)
            measured = [episode(task, policy=challenger.id) for task in heldout]
            self._collect(database, measured, "evaluate")
            evaluation = evaluations.measure(
                database,
                policy=challenger.id,
                tasks=[task.id for task in heldout],
                samples=1,
                seed=7,
                sampling=measured[0].sampling,
            )
            evaluations.save(database, evaluation, campaign=name, iteration=night, role="challenger")
            if champion:
                database.execute(
                    "INSERT INTO champions VALUES (?, ?, ?, ?, 'verdict_1', 'better', current_localtimestamp())",
                    [name, night, night, adapter.id],
                )
            campaigns.finish_iteration(database, name, night)
        with Database.open_snapshot(self.settings.paths.database):
            pass  # somebody has looked
        return adapter

    def champion(self) -> str | None:
        with self.database() as database:
            rows = database.execute("SELECT adapter FROM champions ORDER BY number DESC LIMIT 1")
        return rows[0][0] if rows else None

    def age(self, days: float = 1) -> None:
        """Let so many days pass: everything becomes older."""
        with self.database() as database:
            for table, column in (("adapters", "made"), ("shards", "seen")):
                database.execute(
                    f"UPDATE {table} SET {column} = {column} - to_seconds($seconds)", {"seconds": days * DAY}
                )
        for folder, folders, files in os.walk(self.data):
            for each in (*folders, *files):
                path = Path(folder, each)
                status = path.lstat()
                times = (status.st_atime - days * DAY, status.st_mtime - days * DAY)
                os.utime(path, times, follow_symlinks=False)

    def files(self) -> dict[str, int]:
        """Every file with its size, by its path below the data root."""
        return {
            str(path.relative_to(self.data)): path.stat().st_size
            for path in sorted(self.data.rglob("*"))
            if path.is_file() and not path.is_symlink()
        }

    def _collect(self, database: Database, episodes: list, purpose: str) -> None:
        path = self.settings.paths.shards / f"{shard_id([each.id for each in episodes])}.parquet"
        write_shard(path, episodes, purpose=purpose, campaign=self.settings.campaign, iteration=self.night)
        ingest(database, [path])
        score(database, {"arithmetic": lambda task, answer: float(answer == task.answer)})

    def _train(self, adapter: Adapter, dataset: Dataset) -> None:
        paths = self.settings.paths
        folder = paths.adapters / adapter.id
        folder.mkdir()
        (folder / "adapter_model.safetensors").write_bytes(WEIGHTS + adapter.id.encode())
        (folder / "adapter_config.json").write_text("{}")
        _write(paths.checkpoints / f"{adapter.id}.json", 500)
        _write(paths.checkpoints / f"{adapter.id}.metrics.jsonl", 500)
        _write(paths.data / "datasets" / f"{dataset.id}.safetensors", 5000)
        _write(paths.data / "tensorboard" / adapter.id / "events.out.tfevents.1", 2000)
        _write(paths.logs / f"train-{adapter.id}.log", 1000)
        stamp = f"20260101-{self.night:06d}-40000"
        _write(paths.logs / f"vllm-{stamp}.log", 20_000)
        _write(paths.logs / f"vllm-{stamp}.json", 800)


def _write(path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)


@pytest.fixture
def campaign(tmp_path: Path, new_database: Path) -> Iterator[Nights]:
    """A campaign before its first night."""
    data = tmp_path / "data"
    shutil.copytree(new_database.parent, data)
    words = [f"paths.data={data}", f"paths.cache={tmp_path / 'cache'}", "campaign=nights"]
    settings = configuration.load([*words, "retention.adapter_days=5", "retention.log_days=5"], profile="demo")
    for folder in ("shards", "adapters", "checkpoints", "logs", "reports", "services"):
        (data / folder).mkdir()
    (tmp_path / "cache").mkdir()
    with Database.open(settings.paths.database) as database:
        campaigns.register(database, settings)
    yield Nights(settings)


def old(path: Path, days: float) -> Path:
    """Make a file or folder so many days old, with all that is in it."""
    then = time.time() - days * DAY
    for each in (path, *path.rglob("*")):
        os.utime(each, (then, then), follow_symlinks=False)
    return path
