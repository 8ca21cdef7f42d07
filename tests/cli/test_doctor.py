"""What `agentloop doctor` looks for depends on the model."""

import json

import pytest

from agentloop import settings as configuration
from agentloop.cli import doctor


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ({"model_type": "gemma3n", "text_config": {}}, ["timm", "torchvision"]),
        ({"model_type": "gemma3", "text_config": {}}, ["torchvision"]),
        ({"model_type": "gemma3_text"}, []),
    ],
)
def test_packages_that_a_multimodal_checkpoint_takes(tmp_path, monkeypatch, config, wanted):
    (tmp_path / "config.json").write_text(json.dumps(config))
    settings = configuration.load({"model": str(tmp_path), "paths": {"data": str(tmp_path)}})
    for found in (None, "1.0"):
        monkeypatch.setattr(doctor, "_version", lambda package: found)
        checks = {check.what: check for check in doctor.examine(settings)}
        assert [name for name in ("timm", "torchvision") if name in checks] == wanted
        assert all(checks[name].ok == bool(found) for name in wanted)
        assert all(found or checks[name].remedy == f"pip install {name}" for name in wanted)


def test_what_only_training_beside_trl_needs_is_not_missing(tmp_path, monkeypatch):
    settings = configuration.load({"paths": {"data": str(tmp_path)}})
    monkeypatch.setattr(doctor, "_version", lambda package: None)
    checks = {check.what: check for check in doctor.examine(settings)}
    assert {name for name, check in checks.items() if check.state == "missing"} >= {"torch", "prefect", "duckdb"}
    for name in doctor.OPTIONAL:
        assert checks[name].ok and "not installed; only to " in checks[name].found
