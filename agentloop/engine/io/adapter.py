"""Adapters on disk, in PEFT's format: its two files, and agentloop.json with the name of the base."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from agentloop.engine.lora.buffer import LoraBuffer
from agentloop.errors import AdapterError
from agentloop.files import atomic
from agentloop.model_directory.configuration import is_multimodal
from agentloop.reading import open_tensors, read_object

TEXT_ONLY, MULTIMODAL = "base_model.model.model.", "base_model.model.model.language_model."
"""What PEFT and vLLM put before the names of a language model's modules."""
TOWERS = r".*_tower\..*"
"""Pattern of the modules beside a language model, some of which are named as its own: PEFT would adapt them too."""
HARMLESS = {
    "auto_mapping", "base_model_name_or_path", "bias", "corda_config", "ensure_weight_tying", "eva_config",
    "exclude_modules", "inference_mode", "init_lora_weights", "layers_pattern", "layers_to_transform", "loftq_config",
    "lora_alpha", "lora_dropout", "lora_ga_config", "megatron_config", "megatron_core", "peft_type", "peft_version",
    "qalora_group_size", "r", "revision", "runtime_config", "target_modules", "task_type", "use_rslora",
}  # fmt: skip
"""PEFT's settings that do not change what a trained adapter computes, or that are read here. Any other must be off: PEFT
gains variants that have plain LoRA's tensors."""
NAMES = re.compile(r"(?:base_model\.model\.)?(?:model\.|language_model\.)*(layers\.\d+\..*)")
"""Of an adapter's tensors: what stands in front of the language model's layers, text-only or multimodal, old or new."""
KEEPING_THE_BASE = (True, False, "gaussian", "orthogonal", "eva")
"""Ways to begin an adapter after which it still belongs to the unchanged base."""


def save(lora: LoraBuffer, directory: Path, *, base: str, model: Path | None, in_16bit: Sequence[str] = ()) -> None:
    """Write the files of `directory`, each whole or not at all, over those of an earlier adapter if there are any.

    `base` is the base's fingerprint, `model` its directory, from which PEFT loads it, `in_16bit` the linears that training in
    4 bit left in 16. Raises DiskError.
    """
    settings = lora.settings
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": settings.rslora,
        "inference_mode": True,
        "fan_in_fan_out": False,
        "target_modules": sorted({name.rpartition(".")[2] for name in lora.slots}),
        "layers_to_transform": None if settings.layers is None else list(settings.layers),
        "base_model_name_or_path": base if model is None else str(model.absolute()),
    }
    prefix = TEXT_ONLY
    if model is not None and is_multimodal(model):
        prefix = MULTIMODAL
        config["exclude_modules"] = TOWERS
    record = {"base": base} | ({"in_16bit": list(in_16bit)} if in_16bit else {})
    tensors = {prefix + name: view.detach().float().cpu().contiguous() for name, view in lora.named().items()}
    for name, value in (("agentloop.json", record), ("adapter_config.json", config)):
        with atomic(directory / name) as file:
            file.write_text(json.dumps(value, indent=2), encoding="utf-8")
    with atomic(directory / "adapter_model.safetensors") as file:
        save_file(tensors, file, metadata={"format": "pt"})


def read_config(directory: Path) -> dict[str, Any]:
    """PEFT's settings of the adapter in `directory`. Raises AdapterError where one changes what the adapter computes and
    is not supported."""
    path = directory / "adapter_config.json"
    config = read_object(path, AdapterError)
    if config.get("peft_type") != "LORA":
        raise AdapterError(f"{path}: peft_type {config.get('peft_type')!r} is not supported (only 'LORA')")
    for name, value in config.items():
        if value and name not in HARMLESS:
            raise AdapterError(f"{path}: {name} {value!r} is not supported")
    if not isinstance(config.get("use_rslora", False), bool):
        raise AdapterError(f"{path}: use_rslora {config['use_rslora']!r} is neither true nor false")
    if config.get("init_lora_weights", True) not in KEEPING_THE_BASE:
        raise AdapterError(f"{path}: init_lora_weights {config['init_lora_weights']!r} changes the base's weights")
    for name in ("r", "lora_alpha"):
        if type(config.get(name)) not in (int, float) or not 0 < config[name] < math.inf:
            raise AdapterError(f"{path}: {name} {config.get(name)!r} is not a number above 0")
    return config


def in_16bit(directory: Path) -> tuple[str, ...]:
    """The linears that were in 16 bit when the adapter was trained in 4. Raises AdapterError."""
    path = directory / "agentloop.json"
    return tuple(read_object(path, AdapterError).get("in_16bit", ())) if path.is_file() else ()


def target_modules(directory: Path) -> list[str]:
    """The last names of the modules that the adapter's file holds. Raises AdapterError."""
    with open_tensors(directory / "adapter_model.safetensors", AdapterError) as file:
        return sorted({name.partition(".lora_")[0].rpartition(".")[2] for name in file.keys()})


def load(lora: LoraBuffer, directory: Path, *, base: str) -> None:
    """Read `directory` into `lora`. Raises AdapterError where a file is broken, or base, rank, scale, modules or shapes
    differ."""
    path = directory / "adapter_model.safetensors"
    if not path.is_file():
        raise AdapterError(f"{directory}: no adapter_model.safetensors")
    record = directory / "agentloop.json"
    if record.is_file() and (owner := read_object(record, AdapterError).get("base")) != base:
        raise AdapterError(f"{directory}: trained on {owner}, not on {base}")
    config = read_config(directory)
    settings = lora.settings
    scale = config["lora_alpha"] / (config["r"] ** 0.5 if config.get("use_rslora") else config["r"])
    if (config["r"], scale) != (settings.rank, settings.scale):
        raise AdapterError(
            f"{directory}: rank {config['r']} and scale {scale}, the model has {settings.rank} and {settings.scale}"
        )
    with open_tensors(path, AdapterError) as file:
        tensors = {_plain(name): file.get_tensor(name) for name in file.keys()}
        if len(tensors) < len(file.keys()):
            raise AdapterError(f"{path}: it holds two adapters for the same layers")
    expected = lora.named()
    if missing := sorted(expected.keys() - tensors.keys()):
        raise AdapterError(f"{path}: {missing[0]} is missing")
    if extra := sorted(tensors.keys() - expected.keys()):
        raise AdapterError(f"{path}: {extra[0]} would be dropped")
    for name, view in expected.items():
        if tensors[name].shape != view.shape:
            raise AdapterError(f"{path}: {name} is {list(tensors[name].shape)}, not {list(view.shape)}")
        if not torch.isfinite(tensors[name]).all():
            raise AdapterError(f"{path}: {name} has NaN or infinity")
    lora.load(tensors)


def _plain(name: str) -> str:
    """`base_model.model.model.language_model.layers.…` -> `layers.…`; a tower's layers keep their name."""
    found = NAMES.fullmatch(name)
    return found[1] if found else name
