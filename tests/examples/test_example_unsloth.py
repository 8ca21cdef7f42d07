"""examples/unsloth: each script as it stands, from end to end, with a small model under the name that it asks for."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from agentloop.project import CHECKOUT

EXAMPLE, MODELS = CHECKOUT / "examples" / "unsloth", CHECKOUT / "models"
WRITTEN = {"finetune": "lora_model", "long_context": "lora_model", "conversations": "gemma_3n_lora"}


def run(script: str, model: Path, folder: Path, *, timeout: float) -> str:
    """What the script says; `model` stands under the models' root by the name of Google's, which is another than asked for."""
    models = folder / "models"
    models.mkdir()
    shutil.copytree(model, models / "gemma-3n-E4B-it", copy_function=os.link)
    variables = os.environ | {
        "AGENTLOOP_PATHS__MODELS": str(models),
        "AGENTLOOP_PATHS__CACHE": str(folder / "cache"),
        "HF_DATASETS_CACHE": str(folder / "datasets"),
    }
    work = folder / "work"
    work.mkdir()
    command = [sys.executable, str(EXAMPLE / f"{script}.py")]
    done = subprocess.run(command, cwd=work, env=variables, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr[-4000:]
    weights = load_file(work / WRITTEN[script] / "adapter_model.safetensors")
    assert any(tensor.any() for name, tensor in weights.items() if "lora_B" in name)
    return done.stdout


def check(script: str, said: str, folder: Path) -> None:
    work = folder / "work"
    if script == "finetune":
        assert "### Instruction:\nHow long is a rod?" in said
        assert list((work / "outputs").rglob("events.out.tfevents*"))
    elif script == "long_context":
        assert int(said.split("rows of up to ")[1].split()[0]) > 2048
        assert not list(work.rglob("events.out.tfevents*"))
    else:
        answers = "20.1168 metres<end_of_turn>\\n201.168 metres<end_of_turn>\\n"
        assert f"trained on: '{answers}" in said
        assert "loaded again: 8" in said


SLOW = {"long_context"}  # much of what finetune shows


@pytest.mark.parametrize("script", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in WRITTEN])
def test_the_script_runs_as_it_is(script, tmp_path):
    check(script, run(script, MODELS / "tiny", tmp_path, timeout=400), tmp_path)


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("script", ["finetune", "conversations"])
def test_the_script_runs_on_pretrained_weights(script, gemma, tmp_path):
    said = run(script, gemma, tmp_path, timeout=1700)
    check(script, said, tmp_path)
    losses = [float(loss) for loss in re.findall(r"'loss': '([\d.]+)'", said)]
    assert losses[-1] < losses[0]
