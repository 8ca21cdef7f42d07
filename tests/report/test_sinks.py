"""TensorBoard and MLflow against the database that they were told of, by their own readers."""

from __future__ import annotations

import json

import pytest
from recorded_campaign import CAMPAIGN, Recorder, recorded  # noqa: F401  (a fixture)

from agentloop.errors import SettingError
from agentloop.report import sinks
from agentloop.store import campaigns, runs, training_runs
from agentloop.store.database import Database


@pytest.fixture
def told(recorded, tmp_path):
    with Database.open(recorded.database, read_only=True) as database:
        report = tmp_path / "recorded.html"
        report.write_text("<p>the report</p>")
        yield sinks.gather(database, CAMPAIGN, checkpoints=tmp_path, report=report)


def curves(recorded) -> dict[str, list[tuple[int, float]]]:
    with Database.open(recorded.database, read_only=True) as database:
        rows = database.execute(
            "SELECT adapter, list((step, value) ORDER BY step) FROM training_metrics WHERE name = 'loss' GROUP BY adapter"
        )
    return dict(rows)


def events(folder, tag: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()
    return [(event.step, float(event.tensor_proto.float_val[0])) for event in found.Tensors(tag)]


def test_tensorboard_has_every_step_once(recorded, told, tmp_path):
    for _ in range(2):
        sinks.to_tensorboard(tmp_path, told)
    stored = curves(recorded)
    assert len(stored) == 4
    for adapter, points in stored.items():
        shown = events(tmp_path / "tensorboard" / adapter, "train/loss")
        assert [step for step, _ in shown] == [step for step, _ in points]
        assert [value for _, value in shown] == pytest.approx([value for _, value in points])
    shown = events(tmp_path / "tensorboard" / CAMPAIGN, "iteration/challenger_success")
    assert [step for step, _ in shown] == [1, 2, 3]


def test_a_training_at_work_is_told_from_its_journal(tmp_path):
    recorder = Recorder(tmp_path, training_tasks=2, heldout_tasks=2)
    with Database.open(recorder.database) as database:
        campaigns.register(database, recorder.settings)
        training_runs.begin(database, "adapter_1", campaign=CAMPAIGN, iteration=1, dataset="data_1")
        lines = [json.dumps({"step": step, "loss": 1 / step, "memory_gib": None}) for step in (1, 2, 3)]
        (tmp_path / "adapter_1.metrics.jsonl").write_text("\n".join(lines[:2]) + '\n{"step": 3, "lo')
        names = ["tensorboard"]
        about = {"data": tmp_path, "checkpoints": tmp_path, "report": tmp_path / "none.html"}
        sinks.update(names, database, CAMPAIGN, **about)
        (tmp_path / "adapter_1.metrics.jsonl").write_text("\n".join(lines) + "\n")
        sinks.update(names, database, CAMPAIGN, **about)
    shown = events(tmp_path / "tensorboard" / "adapter_1", "train/loss")
    assert [step for step, _ in shown] == [1, 2, 3]


def test_mlflow_has_settings_curves_and_the_report_once(recorded, told, tmp_path):
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    for _ in range(2):
        sinks.to_mlflow(tmp_path, told)
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("agentloop").experiment_id
    found = {run.info.run_name: run for run in client.search_runs([experiment])}
    stored = curves(recorded)
    assert set(found) == {CAMPAIGN, *stored}
    parent = found[CAMPAIGN]
    assert parent.data.params["training.learning_rate"] == "0.0002"
    course = client.get_metric_history(parent.info.run_id, "challenger_success")
    assert [each.step for each in course] == [1, 2, 3]
    for adapter, points in stored.items():
        run = found[adapter]
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        history = client.get_metric_history(run.info.run_id, "loss")
        history.sort(key=lambda each: each.step)
        assert [each.step for each in history] == [step for step, _ in points]
        assert [each.value for each in history] == pytest.approx([value for _, value in points])


def test_mlflow_gets_the_report_of_a_run_that_has_ended(tmp_path):
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    recorder = Recorder(tmp_path, training_tasks=2, heldout_tasks=2)
    report = tmp_path / "recorded.html"
    report.write_text("<p>the report</p>")
    with Database.open(recorder.database) as database:
        campaigns.register(database, recorder.settings)
        number = runs.begin(database, CAMPAIGN)
        about = {"data": tmp_path, "checkpoints": tmp_path, "report": report}
        sinks.update(["mlflow"], database, CAMPAIGN, **about)
        client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("agentloop").experiment_id
        (run,) = client.search_runs([experiment])
        assert run.info.status == "RUNNING" and not client.list_artifacts(run.info.run_id)
        runs.end(database, number, error="the disk is full")
        sinks.update(["mlflow"], database, CAMPAIGN, **about)
    (run,) = client.search_runs([experiment])
    assert run.info.status == "FAILED"
    assert [each.path for each in client.list_artifacts(run.info.run_id)] == ["recorded.html"]
    assert next((tmp_path / "mlflow").rglob("recorded.html")).read_text() == "<p>the report</p>"


def test_a_sink_whose_package_is_missing_is_one_line(monkeypatch):
    monkeypatch.setitem(sinks._NEEDED, "mlflow", ("no_such_package",))
    sinks.require(["tensorboard"])
    with pytest.raises(SettingError) as told:
        sinks.require(["tensorboard", "mlflow"])
    assert str(told.value) == (
        "report.sinks: mlflow needs the package no_such_package: pip install 'agentloop[mlflow]'"
    )
