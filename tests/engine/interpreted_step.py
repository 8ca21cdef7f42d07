"""A step of generation with every Triton kernel interpreted on the CPU, beside the same step by the references.

TRITON_INTERPRET=1 python tests/engine/interpreted_step.py CHECKPOINT CACHE      prints the largest difference of logits

Triton must be told before it is imported, so this is a process of its own (test_generation_kernels.py).
"""

import importlib
import pkgutil
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import agentloop_kernels
from agentloop.engine import FastLanguageModel
from agentloop.engine.decoding import cache
from agentloop.engine.decoding.decoder import Decoder


def by_kernels(compute: Callable[[], list[Tensor]]) -> list[Tensor]:
    """What `compute` returns where CPU tensors take the kernels, too."""
    names = [each.name for each in pkgutil.iter_modules(agentloop_kernels.__path__)]
    modules = [cache, *(importlib.import_module(f"agentloop_kernels.{name}") for name in names)]
    before = {module: module.takes_kernels for module in modules if hasattr(module, "takes_kernels")}
    for module in before:
        module.takes_kernels = lambda x: True
    try:
        return compute()
    finally:
        for module, function in before.items():
            module.takes_kernels = function


@torch.no_grad()
def main(checkpoint: Path, directory: Path) -> None:
    model, _ = FastLanguageModel.from_pretrained(checkpoint, cache_directory=directory)
    model = FastLanguageModel.get_peft_model(model, r=8)
    model.lora.parameters.normal_(0, 0.05, generator=torch.Generator().manual_seed(0))
    # One row beyond the window, whose ring begins anew, and one that sees little; then a single row.
    for lengths in ((70, 5), (9,)):
        prompts = [[(7 * i + length) % model.shape.vocab for i in range(length)] for length in lengths]
        decoders = [Decoder(model, prompts, new=4, stream=stream) for stream in (False, True)]
        for decoder in decoders:
            decoder.read()
        ids, positions = torch.arange(5, 5 + len(lengths)), torch.tensor(lengths, dtype=torch.int32)
        expected = [decoders[0].step(ids, positions + i) for i in range(2)]
        ours = by_kernels(lambda: [decoders[1].step(ids, positions + i) for i in range(2)])
        print(max((a - b).abs().max().item() for a, b in zip(ours, expected, strict=True)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
