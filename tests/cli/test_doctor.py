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
