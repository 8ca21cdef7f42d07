"""What is compiled ahead of the first step is what the steps launch, and Triton finds it."""

from pathlib import Path

import pytest
import torch
import triton
from transformers import Gemma3nTextConfig
from triton.runtime.jit import JITFunction

import agentloop_kernels
from agentloop import engine
from agentloop.engine import FastLanguageModel
from agentloop.engine.batch import join
from agentloop.engine.lora import projection
from agentloop.engine.memory.plans import Keep, StepPlan
from agentloop.engine.meta.blueprint import blueprint
from agentloop.engine.optimizer import FlatAdamW
from agentloop.engine.warmup.compilation import SOURCES, plan_launches, representative
from agentloop.model_directory.configuration import read_architecture
from agentloop.training.reference import measure_base
from agentloop_kernels import attention, attention_triton, geglu, launching, norm
from agentloop_kernels.launching import Compiler, Launch, planning
from agentloop_kernels.nf4 import Nf4

TURING, HOPPER = (7, 5), (9, 0)


@pytest.fixture
def cpu_tensors_take_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a card of compute capability 7.5, where no operation is left to torch's FlashAttention."""
    modules = [name.stem for name in Path(agentloop_kernels.__file__).parent.glob("*.py") if name.stem != "__init__"]
    for module in (getattr(__import__(f"agentloop_kernels.{name}"), name) for name in modules):
        if hasattr(module, "takes_kernels"):
            monkeypatch.setattr(module, "takes_kernels", lambda x: True)
    monkeypatch.setattr(attention, "capability", lambda device: TURING)
    monkeypatch.setattr(attention_triton, "capability", lambda device: TURING)
    monkeypatch.setitem(projection.ALIGNMENT, "cpu", projection.ALIGNMENT["cuda"])


def test_all_of_the_engine_decides_what_is_compiled():
    assert SOURCES == tuple(Path(package.__file__).parent for package in (agentloop_kernels, engine))


def described(launches: list[Launch]) -> set[tuple[str, str]]:
    return {(launch.name, launch.specialisation) for launch in launches}


def planned_launches(*arguments) -> list[Launch]:
    return [launch for found in plan_launches(*arguments) for launch in found]


def aligned(weight: Nf4 | torch.Tensor) -> Nf4 | torch.Tensor:
    """In memory of its own, as on a device; tensors mapped from a file begin anywhere."""
    if isinstance(weight, torch.Tensor):
        return weight
    return Nf4.from_tensors({name: tensor.clone() for name, tensor in weight.tensors().items()})


@pytest.mark.parametrize("checkpoint", ["gemma3n", "gemma3", "gemma2", "gemma1"], indirect=True)
def test_steps_on_real_memory_launch_what_was_planned(checkpoint, cache, cpu_tensors_take_kernels):
    model, _ = FastLanguageModel.from_pretrained(checkpoint, dtype=torch.float16, cache_directory=cache)
    for group in (group for layer in model.weights.layers for group in layer.groups):
        group.parts = [(name, aligned(weight)) for name, weight in group.parts]
    with planning(TURING) as launches:
        measure_base(model, [([1] * length, ()) for length in (40, 17)])
        model = FastLanguageModel.get_peft_model(model, r=32)
        optimizer = FlatAdamW(model.lora)
        for lengths in ((100, 30, 3), (17,)):
            batch = join([([1] * length, [i % 3 > 0 for i in range(length)]) for length in lengths])
            for skip in (True, False):
                for keep in (Keep.DOWN, Keep.ALL):
                    model.plan = StepPlan((keep,) * model.shape.layers, chunk=64, head_rows=32)
                    model.loss_and_gradients(batch, skip=skip)
            optimizer.step(max_grad_norm=1.0)
        model.logprobs([1] * 40)
    planned = described(planned_launches(model.shape, torch.float16, TURING))
    launched = described(launches)
    assert launched <= planned
    assert {name for name, _ in planned - launched} == {"_adamw_8bit_kernel"}
    assert len(launched) > 20


def test_one_layer_of_each_kind_launches_what_all_do(tmp_path):
    Gemma3nTextConfig().save_pretrained(tmp_path)
    shape = read_architecture(tmp_path)
    assert (shape.layers, representative(shape).layers) == (35, 7)
    model = blueprint(shape, max_seq_length=2048, rank=64)
    batch = join([([0] * 700, [i > 500 for i in range(700)])])
    with planning(HOPPER) as launches:
        for skip in (True, False):
            model.plan = StepPlan((Keep.ATTENTION,) * shape.layers)
            model.loss_and_gradients(batch, skip=skip)
    planned = described(planned_launches(shape, torch.bfloat16, HOPPER))
    assert described(launches) <= planned
    assert len(planned) < 65


def test_triton_finds_what_was_compiled(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    rows, weight = torch.empty(3, 64), torch.empty(64)
    with planning(HOPPER) as launches:
        norm.rms_norm(rows.to("meta"), weight.to("meta"), 1e-6)
        geglu.geglu(rows.to("meta"))
        compiler = Compiler(HOPPER, processes=2, launchers=False)
        compiler.compile(launches)
    timings = compiler.finish()
    assert sorted(timing.name for timing in timings) == ["_geglu_kernel", "_rms_norm_kernel"]
    found = []
    monkeypatch.setattr(
        triton.knobs.compilation, "listener", lambda *, src, cache_hit, **_: found.append((src.name, cache_hit))
    )
    send = JITFunction.run
    monkeypatch.setattr(JITFunction, "run", lambda *args, warmup, **named: send(*args, warmup=True, **named))
    with launching.card(HOPPER):
        norm.triton_rms_norm(rows, weight, 1e-6)
        geglu.triton_geglu(rows)
        norm.triton_rms_norm(rows.bfloat16(), weight.bfloat16(), 1e-6)
    # In bf16 it was not asked for: the look-up tells them apart.
    assert found == [("_rms_norm_kernel", True), ("_geglu_kernel", True), ("_rms_norm_kernel", False)]
