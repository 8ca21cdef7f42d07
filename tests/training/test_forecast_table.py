"""`agentloop doctor --train` on a machine without a GPU, from a config.json alone."""

import json
from io import StringIO
from math import nan
from pathlib import Path

import pytest
from rich.console import Console
from transformers import Gemma3nTextConfig
from typer.testing import CliRunner

from agentloop import settings as configuration
from agentloop.cli.app import app
from agentloop.errors import ModelError, SettingError
from agentloop.training import forecast_table


@pytest.fixture(scope="module")
def e4b(tmp_path_factory) -> Path:
    """Nothing but the real model's config.json."""
    directory = tmp_path_factory.mktemp("models") / "e4b"
    Gemma3nTextConfig().save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def short(tmp_path_factory) -> Path:
    """A fifth of its layers, for what does not depend on them."""
    directory = tmp_path_factory.mktemp("models") / "short"
    types = ["sliding_attention", "full_attention"] * 3 + ["full_attention"]
    sizes = {"num_hidden_layers": 7, "num_kv_shared_layers": 3, "intermediate_size": [16384] * 7}
    Gemma3nTextConfig(**sizes, layer_types=types, activation_sparsity_pattern=[0.95] + [0.0] * 6).save_pretrained(
        directory
    )
    return directory


def report(
    model: Path,
    tokens: int = 2048,
    supervised: float = 1.0,
    budget: float | None = None,
    settings: tuple[str, ...] = (),
) -> list[str]:
    text = StringIO()
    settings = configuration.load([f"model={model}", *settings])
    forecast_table.report(settings, tokens, supervised, budget, Console(file=text, width=220))
    return text.getvalue().splitlines()


def row(lines: list[str], beginning: str) -> str:
    return next(line for line in lines if line.strip().startswith(beginning))


def test_plans_for_cards(e4b):
    lines = report(e4b, budget=5.3)
    assert "weights 2.96 GiB" in lines[1] and "embeddings 4.38 GiB" in lines[2]
    # 5.3 GiB is near what the leanest plan was measured at; 80 GiB keep everything.
    assert "fits" in row(lines, "--budget") and "35 × down_proj; streams in host memory" in row(lines, "--budget")
    assert "35 × everything;" in row(lines, "a card of 80 GiB")


def test_what_does_not_fit_is_said(short):
    too_much = row(report(short, tokens=131072), "a card of 8 GiB")
    assert "too large" in too_much
    longest = int(too_much.split()[-2].replace(",", ""))
    assert 8192 < longest < 131072
    assert "fits" in row(report(short, tokens=longest), "a card of 8 GiB")
    assert "too large" in row(report(short, tokens=longest + 1024), "a card of 8 GiB")


def test_masked_tokens_need_less(short):
    def peak(share: float) -> float:
        return float(row(report(short, tokens=8192, supervised=share), "a card of 80 GiB").split()[6])

    assert peak(0.3) < 0.8 * peak(1.0)


def test_budget_and_optimizer_are_those_of_the_settings(short):
    exact = report(short, settings=("training.memory_budget=3.5",))
    lean = report(short, settings=("training.memory_budget=3.5", "training.optimizer_bits=8"))
    assert "AdamW in 32 bits" in exact[0] and "AdamW in 8 bits" in lean[0]
    own = row(exact, "training.memory_budget").split()
    assert own[:2] == ["training.memory_budget", "3.50"] and float(own[2]) <= 3.5

    def adapter(lines: list[str]) -> float:
        size, unit, *_ = lines[1].partition("AdamW ")[2].replace(",", "").split()
        return float(size) * {"GiB": 1024, "MiB": 1}[unit]

    assert adapter(lean) < 0.75 * adapter(exact)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"tokens": 1}, "--tokens"),
        ({"supervised": 1.2}, "--supervised"),
        ({"budget": 0.0}, "--budget"),
        ({"budget": nan}, "--budget: nan"),
    ],
)
def test_bad_numbers_are_named(short, changed, named):
    with pytest.raises(SettingError, match=named):
        report(short, **changed)


@pytest.mark.parametrize("option", [["--tokens", "99"], ["--budget", "3"], ["--supervised", "0.5"]], ids=str)
def test_options_that_need_a_model(option):
    asked = CliRunner().invoke(app, ["doctor", *option])
    assert isinstance(asked.exception, SettingError) and str(asked.exception).startswith(f"{option[0]}: ")


def test_no_tokens_are_not_the_settings_tokens(short):
    asked = CliRunner().invoke(app, ["doctor", "--train", str(short), "--tokens", "0"])
    assert isinstance(asked.exception, SettingError) and str(asked.exception).startswith("--tokens: 0")


def test_bad_models_are_named(tmp_path):
    with pytest.raises(SettingError, match="nosuch"):
        report(tmp_path / "nosuch")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(ModelError, match="llama"):
        report(tmp_path)
