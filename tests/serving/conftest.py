"""One real vLLM for all tests of serving, and transformers with PEFT as the yardstick.

The reference runs with eager attention in fp32; adapters are random in A and in B, so that each of them matters. The server
has what a GPU's has by setting: every module wrapped that vLLM can give LoRA, and the commands for sleep.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import psutil
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from agentloop import settings as agentloop_settings
from agentloop.serving.client import CompletionClient
from agentloop.serving.command import LORA_TARGETS, Front
from agentloop.serving.server import ModelServer
from agentloop.tiny.architecture import random_checkpoint

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
BEYOND = ["linear_left", "linear_right", "per_layer_input_gate", "per_layer_projection"]
"""Modules beside the seven projections that vLLM can give LoRA: LAuReL's and those of the per-layer embeddings."""
VOCABULARY = 384


class Reference:
    """Log probabilities by transformers and PEFT, on one base."""

    def __init__(self, base: Path) -> None:
        self._base = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager").eval()
        self._adapted: PeftModel | None = None
        self._loaded: dict[Path, str] = {}

    @torch.no_grad()
    def __call__(self, adapter: Path | None, token_ids) -> list[float]:
        ids = torch.tensor([list(token_ids)])
        with self._under(adapter) as model:
            logprobs = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        return logprobs.gather(1, ids[0, 1:, None])[:, 0].tolist()

    @contextmanager
    def _under(self, adapter: Path | None) -> Iterator[torch.nn.Module]:
        if adapter is None:
            with self._adapted.disable_adapter() if self._adapted else nullcontext():
                yield self._adapted or self._base
            return
        name = self._loaded.setdefault(adapter, f"number{len(self._loaded)}")
        if self._adapted is None:
            self._adapted = PeftModel.from_pretrained(self._base, adapter, adapter_name=name).eval()
        elif name not in self._adapted.peft_config:
            self._adapted.load_adapter(adapter, name)
        self._adapted.set_adapter(name)
        yield self._adapted


def write_adapter(directory: Path, base: Path, *, seed: int, targets=PROJECTIONS, deviation: float = 0.03) -> Path:
    """A random LoRA adapter of rank 16 in PEFT's format, as PEFT initialises it but for B."""
    config, shapes = _adapter_of(base, targets if isinstance(targets, str) else tuple(targets))
    generator = torch.Generator().manual_seed(seed)
    directory.mkdir(parents=True)
    (directory / "adapter_config.json").write_text(config)
    tensors = {}
    for name, shape in shapes.items():
        uniform = (torch.rand(shape, generator=generator) * 2 - 1) / shape[-1] ** 0.5
        tensors[name] = uniform if "lora_A" in name else deviation * torch.randn(shape, generator=generator)
    save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    return directory


@cache
def _adapter_of(base: Path, targets: str | tuple[str, ...]) -> tuple[str, dict[str, tuple[int, ...]]]:
    """PEFT's configuration file and the shape of every tensor."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    chosen = targets if isinstance(targets, str) else list(targets)
    with TemporaryDirectory() as directory:
        settings = LoraConfig(r=16, lora_alpha=32, target_modules=chosen, task_type="CAUSAL_LM")
        get_peft_model(model, settings).save_pretrained(directory)
        config = (Path(directory) / "adapter_config.json").read_text()
        tensors = load_file(Path(directory) / "adapter_model.safetensors")
    return config, {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def random_prompt(seed: int, length: int) -> list[int]:
    """Token ids after the special ones."""
    generator = torch.Generator().manual_seed(seed)
    return [2, *torch.randint(6, VOCABULARY, (length - 1,), generator=generator).tolist()]


def largest_gap(left, right) -> float:
    assert len(left) == len(right) > 0
    return max(abs(a - b) for a, b in zip(left, right))


def proof(server: ModelServer) -> dict[str, str]:
    """The header that proves the server's key."""
    return {"Authorization": f"Bearer {server.api_key}"}


async def running_requests(server: ModelServer) -> float:
    """How many requests vLLM computes."""
    async with httpx.AsyncClient(trust_env=False) as http:
        lines = (await http.get(f"{server.url}/metrics", headers=proof(server))).text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("vllm:num_requests_running{"))


def processes_of(group: int) -> list[psutil.Process]:
    """Everything in the session of the child, zombies aside."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def gone(group: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not processes_of(group):
            return True
        time.sleep(0.1)
    return False


def serving_settings(root: Path, **serving):
    return agentloop_settings.load(
        {
            "paths": {"data": str(root / "data"), "cache": str(root / "cache")},
            "agent": {"max_tokens": 512},
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
    words = ("--lora-target-modules", *LORA_TARGETS, *BEYOND)
    serving = settings.serving.model_copy(update={"extra_arguments": words})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_SERVER_DEV_MODE", "1")  # as with serving.policy "sleep", which needs a GPU
        started = ModelServer(
            settings.model_copy(update={"serving": serving}),
            checkpoint,
            base="base_0123456789abcdef",
            max_loras=4,
            front=Front(aliases=True),
        )
        started.prepare()
    group = started._child.pid
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{started.url}/health")
    started.start()
    assert started._child.pid == group, "start goes on with what was prepared"
    yield started
    started.stop()
    assert not started.alive() and not processes_of(group)


@pytest.fixture(scope="session")
def adapters(tmp_path_factory, checkpoint, server) -> dict[str, Path]:
    """Four adapters, loaded, by the names they are served under."""
    root = tmp_path_factory.mktemp("adapters")
    names = [f"adapter_{index}" for index in range(4)]
    made = {name: write_adapter(root / name, checkpoint, seed=index) for index, name in enumerate(names)}
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
