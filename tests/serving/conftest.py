"""One real vLLM for all tests of serving, and transformers with PEFT as the yardstick.

The reference runs with eager attention in fp32; adapters are random in A and in B, so that each of them matters.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from agentloop import settings as agentloop_settings
from agentloop.serving.client import CompletionClient
from agentloop.serving.server import ModelServer
from agentloop.tiny.architecture import random_checkpoint

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
VOCABULARY = 384


class Reference:
    """Log probabilities by transformers and PEFT, on one base."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self._models: dict[Path | None, torch.nn.Module] = {}

    @torch.no_grad()
    def __call__(self, adapter: Path | None, token_ids) -> list[float]:
        model = self._models.get(adapter)
        if model is None:
            model = AutoModelForCausalLM.from_pretrained(self.base, dtype=torch.float32, attn_implementation="eager")
            model = (PeftModel.from_pretrained(model, adapter) if adapter else model).eval()
            self._models[adapter] = model
        ids = torch.tensor([list(token_ids)])
        logprobs = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        return logprobs.gather(1, ids[0, 1:, None])[:, 0].tolist()

    def forget(self, adapter: Path) -> None:
        self._models.pop(adapter, None)


def write_adapter(directory: Path, base: Path, *, seed: int, targets=PROJECTIONS, deviation: float = 0.03) -> Path:
    """A random LoRA adapter of rank 16 in PEFT's format."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    torch.manual_seed(seed)
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules=targets, task_type="CAUSAL_LM"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, deviation)
    model.save_pretrained(directory)
    return directory


def random_prompt(seed: int, length: int) -> list[int]:
    """Token ids after the special ones."""
    generator = torch.Generator().manual_seed(seed)
    return [2, *torch.randint(6, VOCABULARY, (length - 1,), generator=generator).tolist()]


def largest_gap(left, right) -> float:
    assert len(left) == len(right) > 0
    return max(abs(a - b) for a, b in zip(left, right))


def serving_settings(root: Path, **serving):
    return agentloop_settings.load(
        {
            "paths": {"data": str(root / "data"), "cache": str(root / "cache")},
            "serving": {"dtype": "float32", "max_model_len": 512, "start_seconds": 300, **serving},
        }
    )


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """The server is busy at the same time, and two cores are soon too few for two pools of spinning threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("models") / "tiny"
    random_checkpoint(directory, seed=0)
    return directory


@pytest.fixture(scope="session")
def reference(checkpoint) -> Reference:
    return Reference(checkpoint)


@pytest.fixture(scope="session")
def settings(tmp_path_factory):
    made = serving_settings(tmp_path_factory.mktemp("serving"))
    made.paths.logs.mkdir(parents=True)
    return made


@pytest.fixture(scope="session")
def server(settings, checkpoint):
    with ModelServer(settings, checkpoint, base="base_0123456789abcdef", max_loras=4) as started:
        yield started


@pytest.fixture(scope="session")
def adapters(tmp_path_factory, checkpoint, server) -> dict[str, Path]:
    """Four adapters, loaded, by the names they are served under."""
    root = tmp_path_factory.mktemp("adapters")
    made = {f"adapter_{index}": write_adapter(root / str(index), checkpoint, seed=index) for index in range(4)}
    for name, directory in made.items():
        server.load_adapter(name, directory)
    return made


@pytest.fixture
def ask(server, settings):
    """`ask(lambda client: …)` runs a coroutine with a client of the shared server."""

    def run(question):
        async def with_client():
            async with CompletionClient([server.endpoint], settings.serving) as client:
                return await question(client)

        return asyncio.run(with_client())

    return run


@pytest.fixture
def copied(tmp_path):
    """A copy of an adapter that a test may damage."""

    def copy(directory: Path, name: str = "copy") -> Path:
        return Path(shutil.copytree(directory, tmp_path / name))

    return copy
