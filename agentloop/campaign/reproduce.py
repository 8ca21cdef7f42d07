"""Reproduction: an adapter trained again from what is stored about it, and compared with the one that is there."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from agentloop.campaign import training_rows
from agentloop.errors import AdapterError, ModelError
from agentloop.files import atomic
from agentloop.model_directory.fingerprint import base_fingerprint
from agentloop.records import Adapter
from agentloop.serving import adapters as adapter_files
from agentloop.settings import Settings
from agentloop.store import adapters, campaigns, pruned
from agentloop.store.database import Database
from agentloop.training import CODE_VERSION
from agentloop.training.launch import launch
from agentloop.training.run import TrainingRun

WEIGHTS = "adapter_model.safetensors"
PREFIX = "reproduce-"
"""Of the folders in the data root that adapters are made again in."""


@dataclass(frozen=True)
class Reproduction:
    adapter: Adapter
    rows: int
    """Trained on."""
    tensors: int
    different: tuple[str, ...]
    """Tensors that are not the same bit for bit; all of them where only the digest of what was pruned is known."""
    largest: float | None
    """Absolute difference of two weights; None where those of before were pruned."""
    scale: float
    """Absolute value of the largest weight."""
    put_back: Path | None = None
    """Where the weights now lie that had been pruned."""

    @property
    def same(self) -> bool:
        return not self.different

    @property
    def other_code(self) -> bool:
        """Return True where this version of the training code is another than that which made the adapter."""
        return self.adapter.code != CODE_VERSION


def reproduce(
    settings: Settings, adapter_id: str, *, on_step: Callable[[dict[str, Any]], None] = lambda metrics: None
) -> Reproduction:
    """Train the adapter again, from the dataset's rows in the shards and the stored settings, in a directory of its own.

    Of `settings` only the paths, the model, the devices and the memory budget count. Nothing is stored, but that weights
    which were pruned are put back where they are the same again. Raises ModelError where no model is the adapter's base,
    StoreError for an unknown adapter, ShardError where a row is gone, AdapterError where the adapter's own weights are, or
    those that training started from.
    """
    with Database.open_snapshot(settings.paths.database) as database:
        adapter = adapters.load(database, adapter_id)
        gone = pruned.adapters(database).get(adapter_id)
        directory = adapters.directory(database, adapter_id)
        stored = {} if gone else _weights(directory)
        parent = adapter.parent and adapters.weights(database, adapter.parent)
        stored_rows = training_rows.gather(database, adapter.dataset)
        model = _base_directory(settings, database, adapter)
    settings.export()
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=settings.paths.data) as folder:
        scratch = Path(folder)
        run = TrainingRun(
            adapter,
            model,
            rows=scratch / "rows.safetensors",
            adapters=scratch / "adapters",
            checkpoints=scratch / "checkpoints",
            cache=settings.paths.cache,
        )
        stored_rows.write(run.rows)
        run.adapters.mkdir()
        if parent and adapter.parent:
            (run.adapters / adapter.parent).symlink_to(parent)
        launch(run, settings, on_step=on_step)
        made = _weights(run.output)
        if gone:
            return _put_back(settings, run, len(stored_rows.tokens), made, gone, directory)
    return compare(adapter, len(stored_rows.tokens), stored, made)


def _put_back(
    settings: Settings,
    run: TrainingRun,
    trained_on: int,
    made: dict[str, np.ndarray],
    gone: pruned.Pruned,
    directory: Path,
) -> Reproduction:
    """Told by their digest. Other weights are not put back: what is stored was measured with those of before."""
    same = adapter_files.weights_digest(run.output) == gone.digest
    scale = max(float(np.abs(tensor).max()) for tensor in made.values())
    if not same:
        return Reproduction(run.adapter, trained_on, len(made), tuple(made), None, scale)
    with Database.open(settings.paths.database) as database:
        # the mark last: weights that are there in spite of it are removed again, and nothing is missing without one
        with atomic(directory) as temporary:
            shutil.copytree(run.output, temporary)
        pruned.clear_adapter(database, run.adapter.id)
    return Reproduction(run.adapter, trained_on, len(made), (), 0.0, scale, put_back=directory)


def _base_directory(settings: Settings, database: Database, adapter: Adapter) -> Path:
    """The adapter's base: the model of the settings, or that of a campaign which made the adapter."""
    found = {}
    for model in dict.fromkeys([settings.model, *_recorded_models(database, adapter)]):
        directory = settings.model_copy(update={"model": model}).model_directory()
        fingerprint = base_fingerprint(directory, settings.paths.cache)
        if fingerprint == adapter.base:
            return directory
        found[directory] = fingerprint
    seen = ", ".join(f"{directory} is {fingerprint}" for directory, fingerprint in found.items())
    raise ModelError(f"model: {adapter.id} was trained on {adapter.base}, but {seen}")


def _recorded_models(database: Database, adapter: Adapter) -> list[str]:
    made_by = adapters.campaigns(database, adapter.id)
    return [campaigns.settings_json(database, campaign)["model"] for campaign in made_by]


def _weights(directory: Path) -> dict[str, np.ndarray]:
    if not (directory / WEIGHTS).is_file():
        raise AdapterError(f"{directory}: no {WEIGHTS}")
    return load_file(directory / WEIGHTS)


def compare(
    adapter: Adapter, trained_on: int, stored: dict[str, np.ndarray], made: dict[str, np.ndarray]
) -> Reproduction:
    """Return what became of an adapter that was made again. Raises AdapterError where the two have other modules."""
    if stored.keys() != made.keys():
        (name, *_) = sorted(stored.keys() ^ made.keys())
        raise AdapterError(f"{adapter.id}: has other modules than its settings give ({name})")
    return Reproduction(
        adapter,
        trained_on,
        len(stored),
        tuple(name for name in stored if not np.array_equal(stored[name], made[name])),
        max(float(np.abs(stored[name] - made[name]).max()) for name in stored),
        max(float(np.abs(tensor).max()) for tensor in stored.values()),
    )
