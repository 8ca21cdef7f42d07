"""An adapter that vLLM would serve in part is refused, with the names of what would be dropped.

vLLM drops without a word the modules that it did not wrap (`--lora-target-modules`, projections that KV-shared layers do
not have) and copies a matrix of a smaller model into the corner of a larger one.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from vllm.config import VllmConfig
from vllm.lora import lora_model, model_manager
from vllm.lora.lora_model import LoRAModel
from vllm.lora.model_manager import LoRAModelManager
from vllm.lora.peft_helper import PEFTHelper
from vllm.lora.utils import get_adapter_absolute_path
from vllm.lora.worker_manager import WorkerLoRAManager

_NAMES_SHOWN = 4


def install(vllm_config: VllmConfig) -> None:
    """Check every adapter that this process loads from now on, if it serves any. May be called more than once."""
    if vllm_config.lora_config is None or getattr(WorkerLoRAManager._load_adapter, "guarded", False):
        return
    # vLLM pins an adapter's hundreds of matrices one by one, twice. E4B's took 3 s to load on an H200, where reading them is
    # 0.3 s; to copy them to the card once takes milliseconds from whatever memory.
    for module in (lora_model, model_manager):
        module.PIN_MEMORY = False
    load = WorkerLoRAManager._load_adapter

    @functools.wraps(load)
    def load_whole_adapter(self: WorkerLoRAManager, lora_request: Any) -> LoRAModel:
        adapter = load(self, lora_request)
        # It may name a repository of the hub, which has been fetched by now.
        _refuse_ignored_patterns(lora_request.lora_name, Path(get_adapter_absolute_path(lora_request.lora_path)))
        refuse_partial(lora_request.lora_name, adapter, self._adapter_manager)
        return adapter

    load_whole_adapter.guarded = True
    WorkerLoRAManager._load_adapter = load_whole_adapter


def refuse_partial(name: str, adapter: LoRAModel, manager: LoRAModelManager) -> None:
    """Raise ValueError, in one line, where a module of the adapter has no place or not its size in the served model."""
    sizes = _served_sizes(manager)
    dropped = sorted(module for module in adapter.loras if module not in sizes)
    if dropped:
        raise ValueError(
            f"adapter {name}: {len(dropped)} of {len(adapter.loras)} modules would be dropped: {_shown(dropped)}"
        )
    misfits = []
    for module, weights in sorted(adapter.loras.items()):
        inputs, outputs = sizes[module]
        if weights.lora_a is None or weights.lora_b is None:
            misfits.append(f"{module} lacks lora_{'A' if weights.lora_a is None else 'B'}")
        elif (weights.lora_a.shape[-1], weights.lora_b.shape[0]) != (inputs, outputs):
            misfits.append(
                f"{module} maps {weights.lora_a.shape[-1]} to {weights.lora_b.shape[0]}, the base {inputs} to {outputs}"
            )
    if misfits:
        raise ValueError(f"adapter {name} does not fit the base: {_shown(misfits)}")


def _served_sizes(manager: LoRAModelManager) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of every module that an adapter may name, across all tensor-parallel ranks."""
    sizes: dict[str, tuple[int, int]] = {}
    for name, module in manager.modules.items():
        layer = module.base_layer
        if not hasattr(layer, "input_size"):
            continue  # an embedding that --lora-target-modules names: vLLM takes no adapter of it in any Gemma
        parts = manager.packed_modules.get(name)
        if parts is None:
            sizes[name] = (layer.input_size, layer.output_size)
            continue
        if hasattr(layer, "total_num_kv_heads"):
            # output_sizes counts key and value heads once for each rank that holds a copy.
            keys = layer.total_num_kv_heads * layer.head_size
            outputs = [layer.total_num_heads * layer.head_size, keys, keys]
        else:
            outputs = layer.output_sizes
        sizes |= {part: (layer.input_size, size) for part, size in zip(parts, outputs, strict=True)}
    return sizes


def _refuse_ignored_patterns(name: str, directory: Path) -> None:
    """vLLM before 0.32 scales every module alike whatever the adapter's rank and alpha patterns say."""
    if "alpha_pattern" in PEFTHelper.__dataclass_fields__:
        return
    config = json.loads((directory / "adapter_config.json").read_text(encoding="utf-8"))
    ignored = [key for key in ("rank_pattern", "alpha_pattern") if config.get(key)]
    if ignored:
        raise ValueError(f"adapter {name}: this version of vLLM ignores {' and '.join(ignored)}; 0.32 and newer do not")


def _shown(names: list[str]) -> str:
    rest = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
