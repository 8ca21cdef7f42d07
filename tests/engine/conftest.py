"""A tiny random Gemma, loaded by the engine and, with the same (dequantised) weights, by transformers."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM

from agentloop.engine import FastLanguageModel
from agentloop.engine.api.model import Gemma
from agentloop.engine.lora.buffer import TARGETS
from agentloop.engine.lora.projection import write_weight
from agentloop.tiny.architecture import random_checkpoint
from agentloop.tiny.gemma import random_gemma_checkpoint

Sequence = tuple[list[int], list[bool]]


WRITERS = {"gemma3n": random_checkpoint} | {
    f"gemma{generation}": partial(random_gemma_checkpoint, generation=generation) for generation in (1, 2, 3)
}


@pytest.fixture(scope="session")
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Gemma 3n; of the generation that a test asks for by `parametrize("checkpoint", …, indirect=True)`."""
    directory = tmp_path_factory.mktemp("engine") / "tiny"
    WRITERS[getattr(request, "param", "gemma3n")](directory)
    return directory


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def fill_adapter() -> Callable[[Gemma], None]:
    """Random weights in B too: with B at zero half of the gradients would vanish."""

    def fill(model: Gemma) -> None:
        generator = torch.Generator().manual_seed(0)
        model.lora.parameters.copy_(torch.randn(model.lora.parameters.shape, generator=generator) * 0.05)
        model.lora.refresh()

    return fill


@pytest.fixture
def trainable(checkpoint: Path, cache: Path, fill_adapter: Callable[[Gemma], None]) -> Gemma:
    """The engine in fp64 with a random adapter."""
    model, _ = FastLanguageModel.from_pretrained(checkpoint, dtype=torch.float64, cache_directory=cache)
    model = FastLanguageModel.get_peft_model(model, r=8, lora_alpha=16)
    fill_adapter(model)
    return model


@dataclass
class Oracle:
    """transformers and PEFT in fp64, by autograd."""

    model: torch.nn.Module

    def loss_and_gradients(self, sequences: list[Sequence]) -> tuple[float, dict[str, Tensor]]:
        """Summed cross-entropy, one sequence at a time, and the gradients of its mean."""
        self.model.zero_grad()
        total, count = torch.zeros((), dtype=torch.float64), sum(sum(mask[1:]) for _, mask in sequences)
        for ids, mask in sequences:
            total = total - (self.logprobs(ids) * torch.tensor(mask[1:], dtype=torch.float64)).sum()
        return float(total.detach()), self.gradients(total / count)

    def logprobs(self, ids: list[int]) -> Tensor:
        """Log probability of each token given those before it, with its graph: [len(ids) - 1]."""
        logits = self.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1]
        return torch.log_softmax(logits, -1).gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]

    def gradients(self, loss: Tensor) -> dict[str, Tensor]:
        """The adapter's, by name, of any loss that was made of `logprobs`."""
        self.model.zero_grad()
        loss.backward()
        return {_plain(n): p.grad for n, p in self.model.named_parameters() if p.grad is not None}


def _plain(name: str) -> str:
    return name[name.index("layers.") :].replace(".default", "")


@pytest.fixture
def oracle(checkpoint: Path, trainable: Gemma, monkeypatch: pytest.MonkeyPatch) -> Oracle:
    # transformers computes norms, soft-max and router in fp32 whatever the weights are: fp64 all the way here.
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    base = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float64, attn_implementation="eager")
    modules = dict(base.model.named_modules())
    with torch.no_grad():
        for layer in trainable.weights.layers:
            for group in layer.groups:
                for name, weight in group.parts:
                    write_weight(weight, modules[name].weight)
    targets = rf".*\.({'|'.join(TARGETS)})"
    peft = get_peft_model(base, LoraConfig(r=8, lora_alpha=16, target_modules=targets))
    parameters = {_plain(n): p for n, p in peft.named_parameters() if "lora_" in n}
    for name, view in trainable.lora.named().items():
        parameters[name].data = view.clone()
    return Oracle(peft.eval())


@pytest.fixture
def sequences(trainable: Gemma) -> list[Sequence]:
    """Lengths beyond the sliding window of 64, one of a single token, about a third supervised in runs."""
    rng = random.Random(7)
    rows = []
    for length in (90, 1, 33, 70, 12):
        mask = [False] * length
        for start in range(length // 3, length, 20):
            mask[start : start + 8] = [True] * len(mask[start : start + 8])
        rows.append(([rng.randrange(trainable.shape.vocab) for _ in range(length)], mask))
    return rows
