"""Predicted peak memory against what was measured on a GPU, and the plans chosen under a budget."""

import json
import sys
from pathlib import Path

import pytest
import torch
from transformers import Gemma3nTextConfig, Gemma3TextConfig

from agentloop.engine.api.model import Gemma
from agentloop.engine.memory.plans import GIB, Keep, StepPlan, block, leanest
from agentloop.engine.meta.blueprint import blueprint
from agentloop.engine.meta.shapes import Shapes
from agentloop.engine.optimizer import FlatAdamW
from agentloop.errors import SettingError
from agentloop.model_directory.architecture import Architecture
from agentloop.model_directory.configuration import read_architecture

RESULTS = Path(__file__).parents[2] / "kernels" / "benchmarks" / "results"
sys.path.insert(0, str(RESULTS.parent))
from train_step import make_batch  # noqa: E402

E2B = {
    "num_hidden_layers": 30,
    "intermediate_size": [8192] * 30,
    "num_kv_shared_layers": 10,
    "layer_types": (["sliding_attention"] * 4 + ["full_attention"]) * 6,
    "activation_sparsity_pattern": [0.95] * 10 + [0.0] * 20,
}
GEMMA3_4B = {
    "hidden_size": 2560,
    "intermediate_size": 10240,
    "num_hidden_layers": 34,
    "sliding_window": 1024,
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    },
}
RECORDS = sorted(RESULTS.glob("train_step_*.json"))


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> dict[str, Architecture]:
    """By the names in the records' commands, from their config.json."""
    read = {}
    configs = {
        "E2B": Gemma3nTextConfig(**E2B),
        "E4B": Gemma3nTextConfig(),
        "GEMMA3-4B": Gemma3TextConfig(**GEMMA3_4B),
    }
    for name, config in configs.items():
        directory = tmp_path_factory.mktemp(name)
        config.save_pretrained(directory)
        read[name] = read_architecture(directory)
    return read


def parsed(text: str) -> StepPlan:
    """The inverse of str(plan)."""
    levels, chunk, rows = text.split("/")
    keep = tuple(Keep(int(level)) for level in levels.removesuffix("+host"))
    return StepPlan(keep, levels.endswith("+host"), int(chunk), int(rows))


def option(command: str, name: str, default: int) -> int:
    words = command.split()
    return int(words[words.index(name) + 1]) if name in words else default


def recorded_model(shape: Architecture, command: str) -> Gemma:
    model = blueprint(shape, max_seq_length=option(command, "--max-seq-length", 8192))
    model.graphs = True
    FlatAdamW(model.lora, bits=option(command, "--bits", 32))
    return model


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_predicted_peak_is_the_measured_one(shapes, path):
    record = json.loads(path.read_text())
    command = record["machine"]["command"]
    [shape] = [shape for name, shape in shapes.items() if name in command.split()]
    model = recorded_model(shape, command)
    for result in record["results"]:
        batches = [make_batch(result["case"], result["share"], seed) for seed in range(option(command, "--steps", 8))]
        # A run's peak is that of its fullest batch; the plan is what that run chose.
        fullest = max(batches, key=lambda batch: batch.supervised)
        model.expect([fullest])
        model.plan = parsed(result["plan"])
        predicted = model.predicted_tensors(fullest) / GIB
        assert predicted == pytest.approx(result["peak_gib"], rel=0.013), (result["case"], result["plan"])
        if "process_gib" in result:
            process = model.predicted_peak(fullest) / GIB
            assert process == pytest.approx(result["process_gib"], rel=0.05), (result["case"], result["plan"])


def test_a_budget_is_kept_and_used(shapes):
    model = blueprint(shapes["E4B"], max_seq_length=2048)
    batch = make_batch("1x2048", 1.0, 0)
    peaks = []
    for budget in (5.3, 7.0, 10.0, 25.0):
        model.memory_budget = budget
        peaks.append(model.predicted_peak(batch) / GIB)
        assert peaks[-1] <= budget
    assert peaks == sorted(peaks)
    # Between the leanest and the fullest plan a budget is filled up to a layer's worth.
    assert peaks[1] > 6.7 and peaks[2] > 9.7
    assert model.step_plan(batch).keep == (Keep.ALL,) * 35


def test_a_budget_below_the_leanest_plan_is_refused(shapes):
    model = blueprint(shapes["E4B"], max_seq_length=2048)
    batch = make_batch("1x2048", 1.0, 0)
    least = model.needed(batch) / GIB
    model.memory_budget = least - 0.01
    with pytest.raises(SettingError, match=rf"memory_budget: .* 2048 tokens need at least {least:.2f}"):
        model.step_plan(batch)
    model.memory_budget = least + 0.01
    assert model.step_plan(batch) == leanest(model.shape)


@pytest.mark.parametrize("checkpoint", ["gemma3n", "gemma3", "gemma2", "gemma1"], indirect=True)
def test_shapes_alone_weigh_what_weights_weigh(trainable):
    """The blueprint's tensors are those of the checkpoint, in size and dtype."""
    options = dict(dtype=torch.float64, max_seq_length=trainable.max_seq_length, rank=8)
    implied = blueprint(trainable.shape, **options)
    with Shapes():
        quick = blueprint(trainable.shape, **options)
    assert described(quick) == described(implied)
    table = getattr(trainable.weights, "ple_table", None)
    in_host_memory = 0 if table is None else table.device_bytes
    assert implied.weights.device_bytes == trainable.weights.device_bytes - in_host_memory
    assert implied.lora.slots == trainable.lora.slots


def described(model: Gemma) -> list[tuple[torch.Size, torch.dtype]]:
    return [(each.shape, each.dtype) for each in model.weights.frozen() if isinstance(each, torch.Tensor)]


def test_blocks_of_the_allocator():
    mib = 2**20
    assert block(1) == 512
    assert block(3 * mib + 1) == 3 * mib + 512
    assert block(49 * mib) == 50 * mib  # one MiB is left of a block of 50, too little to split off
    assert block(48 * mib + 1) == 48 * mib + 1
