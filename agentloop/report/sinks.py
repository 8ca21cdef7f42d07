"""Sinks of a campaign's metrics beside its report: TensorBoard and MLflow, each through its own library.

A sink is brought up to date from the database, as often as one likes: what it holds already says where to go on, so nothing
is there twice, whoever was killed meanwhile. Nothing here needs a network.
"""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from agentloop.errors import SettingError
from agentloop.report import cost, query
from agentloop.report.story import flat
from agentloop.store import campaigns, runs
from agentloop.store.database import Database

CURVES = (
    "loss", "grad_norm", "learning_rate", "tokens", "seconds", "nll", "entropy", "kl", "clipped", "truncated", "preferred"
)  # fmt: skip
"""Metrics of an optimizer step that are told."""
_NEEDED = {"tensorboard": ("tensorboard",), "mlflow": ("mlflow", "sqlalchemy", "alembic")}
_LONGEST = 500
"""Characters of a value that MLflow stores."""
_AT_ONCE = 500
"""Metrics in one request to MLflow, which takes up to 1000."""


@dataclass(frozen=True)
class Series:
    """Numbers by step: of one training, or of the iterations of a campaign."""

    name: str
    """The adapter, or the campaign."""
    about: str
    """iteration 2, challenger."""
    points: list[tuple[int, dict[str, float]]]
    """(step or iteration, metrics), in order."""


@dataclass(frozen=True)
class Told:
    """All that sinks are told of a campaign."""

    campaign: str
    settings: dict[str, str]
    iterations: Series
    trainings: list[Series]
    report: Path
    finished: bool
    """Whether no run is at work any more."""
    failed: bool


class Sink(Protocol):
    """Brings one kind of store up to date."""

    def __call__(self, data: Path, told: Told) -> None: ...


def require(names: Iterable[str]) -> None:
    """Raises SettingError for a sink whose package is not installed."""
    for name in names:
        if lacking := [each for each in _NEEDED[name] if importlib.util.find_spec(each) is None]:
            extra = "loop" if name == "tensorboard" else name
            raise SettingError(f"report.sinks: {name} needs the package {lacking[0]}: pip install 'agentloop[{extra}]'")


def update(
    names: Iterable[str], database: Database, campaign: str, *, data: Path, checkpoints: Path, report: Path
) -> None:
    """Bring the sinks with these names up to date, below the data root. `checkpoints`: where trainings keep their journals."""
    told = gather(database, campaign, checkpoints=checkpoints, report=report)
    for name in names:
        SINKS[name](data, told)


def gather(database: Database, campaign: str, *, checkpoints: Path, report: Path) -> Told:
    """Everything that there is to tell by now; of a training that is at work, what its journal holds."""
    spent = {each.iteration: each for each in cost.of_campaign(database, campaign) if not each.control}
    iterations = []
    for row in query.rows(database, "metrics", campaign=campaign):
        iteration = row.pop("iteration")
        row.pop("finished")
        point = {name: float(value) for name, value in row.items() if value is not None}
        if taken := spent.get(iteration):
            point |= {"wall_seconds": taken.wall, "gpu_seconds": float(taken.spent.get("gpu") or 0)}
            point["tokens_sampled"] = float(taken.spent.get("sampled") or 0)
        iterations.append((iteration, point))
    trainings = []
    for row in query.rows(database, "trainings", campaign=campaign):
        steps = (
            [(step["step"], dict(step["metrics"])) for step in row["steps"] or ()]
            if row["done"]
            else _journal(checkpoints / f"{row['adapter']}.metrics.jsonl")
        )
        points = [(step, {name: values[name] for name in CURVES if name in values}) for step, values in steps]
        trainings.append(Series(row["adapter"], f"iteration {row['iteration']}, {row['role']}", points))
    made = runs.of_campaign(database, campaign)
    last = made[-1] if made else None
    return Told(
        campaign,
        dict(flat(campaigns.settings_json(database, campaign))),
        Series(campaign, campaign, iterations),
        trainings,
        report,
        last is None or last.finished is not None,
        last is not None and last.error is not None,
    )


def _journal(file: Path) -> list[tuple[int, dict[str, float]]]:
    """Whole lines of a training's journal; none where there is no journal."""
    try:
        lines = file.read_bytes().splitlines(keepends=True)
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            values = json.loads(line)
        except ValueError:  # a line that was cut off
            continue
        found.append((int(values["step"]), {name: value for name, value in values.items() if value is not None}))
    return found


def to_tensorboard(data: Path, told: Told) -> None:
    """One folder of `tensorboard/` for each adapter and one for the campaign."""
    for series, prefix in [(told.iterations, "iteration"), *((each, "train") for each in told.trainings)]:
        folder = data / "tensorboard" / series.name
        new = _after(series, _last_step(folder))
        if not new:
            continue
        from tensorboard.summary import Writer

        writer = Writer(str(folder))
        for step, metrics in new:
            for name, value in metrics.items():
                writer.add_scalar(f"{prefix}/{name}", value, step)
        writer.close()


def _last_step(folder: Path) -> int:
    """The highest step that a folder of TensorBoard's holds; 0 where there is none."""
    files = list(folder.glob("*tfevents*"))
    if not files:
        return 0
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    return max((event.step for file in files for event in EventFileLoader(str(file)).Load()), default=0)


def to_mlflow(data: Path, told: Told) -> None:
    """`mlflow.db`: one run for the campaign, with its settings and its report, and below it one for each training."""
    from mlflow import MlflowClient
    from mlflow.entities import Param

    client = MlflowClient(tracking_uri=f"sqlite:///{data.resolve() / 'mlflow.db'}")
    found = client.get_experiment_by_name("agentloop")
    place = (data.resolve() / "mlflow").as_uri()
    experiment = found.experiment_id if found else client.create_experiment("agentloop", artifact_location=place)
    run = _mlflow_run(client, experiment, told.campaign, {})
    known = client.get_run(run).data.params
    params = [Param(name, value[:_LONGEST]) for name, value in told.settings.items() if name not in known]
    for first in range(0, len(params), 100):
        client.log_batch(run, params=params[first : first + 100])
    _log(client, run, told.iterations)
    for training in told.trainings:
        tags = {"mlflow.parentRunId": run, "agentloop.about": training.about}
        child = _mlflow_run(client, experiment, training.name, tags)
        _log(client, child, training)
        client.set_terminated(child)
    if told.finished:
        if told.report.is_file():
            client.log_artifact(run, str(told.report))
        client.set_terminated(run, "FAILED" if told.failed else "FINISHED")
    else:
        client.update_run(run, status="RUNNING")


def _mlflow_run(client: Any, experiment: str, name: str, tags: Mapping[str, str]) -> str:
    """The id of the run with this name, which is made where it is missing."""
    found = client.search_runs([experiment], f"attributes.run_name = '{name}'")
    if found:
        return found[0].info.run_id
    return client.create_run(experiment, run_name=name, tags=dict(tags)).info.run_id


def _log(client: Any, run: str, series: Series) -> None:
    """The points after the last that the run has."""
    from mlflow.entities import Metric

    present = client.get_run(run).data.metrics
    last = max((each.step for name in present for each in client.get_metric_history(run, name)), default=0)
    moment = int(1000 * time.time())
    metrics = [
        Metric(name, value, moment, step) for step, values in _after(series, last) for name, value in values.items()
    ]
    for first in range(0, len(metrics), _AT_ONCE):
        client.log_batch(run, metrics=metrics[first : first + _AT_ONCE])


def _after(series: Series, last: int) -> list[tuple[int, dict[str, float]]]:
    return [(step, metrics) for step, metrics in series.points if step > last]


SINKS: dict[str, Sink] = {"tensorboard": to_tensorboard, "mlflow": to_mlflow}
