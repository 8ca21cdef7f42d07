"""Adapters on disk, in PEFT's format: its two files, and agentloop.json with the name of the base."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file

from agentloop.engine.architecture import is_multimodal
from agentloop.engine.lora import LoraBuffer
from agentloop.errors import AdapterError
from agentloop.files import atomic

TEXT_ONLY, MULTIMODAL = "base_model.model.model.", "base_model.model.model.language_model."
"""What PEFT and vLLM put before the names of a language model's modules."""


def save(lora: LoraBuffer, directory: Path, *, base: str, model: Path | None) -> None:
    """Write the files of `directory`, each whole or not at all, over those of an earlier adapter if there are any.

    `base` is the base's fingerprint, `model` its directory, from which PEFT loads it. Raises DiskError.
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
        "base_model_name_or_path": base if model is None else str(model),
    }
    prefix = MULTIMODAL if model is not None and is_multimodal(model) else TEXT_ONLY
    tensors = {prefix + name: view.detach().float().cpu().contiguous() for name, view in lora.named().items()}
    for name, value in (("agentloop.json", {"base": base}), ("adapter_config.json", config)):
        with atomic(directory / name) as file:
            file.write_text(json.dumps(value, indent=2))
    with atomic(directory / "adapter_model.safetensors") as file:
        save_file(tensors, file, metadata={"format": "pt"})


def load(lora: LoraBuffer, directory: Path, *, base: str) -> None:
    """Read `directory` into `lora`. Raises AdapterError where base, rank, scale or modules differ."""
    path = directory / "adapter_model.safetensors"
    if not path.is_file():
        raise AdapterError(f"{directory}: no adapter_model.safetensors")
    record = directory / "agentloop.json"
    if record.is_file() and (owner := json.loads(record.read_text())["base"]) != base:
        raise AdapterError(f"{directory}: trained on {owner}, not on {base}")
    config = json.loads((directory / "adapter_config.json").read_text())
    settings = lora.settings
    scale = config["lora_alpha"] / (config["r"] ** 0.5 if config.get("use_rslora") else config["r"])
    if (config["r"], scale) != (settings.rank, settings.scale):
        raise AdapterError(
            f"{directory}: rank {config['r']} and scale {scale}, the model has {settings.rank} and {settings.scale}"
        )
    with safe_open(path, framework="pt") as file:
        tensors = {_plain(name): file.get_tensor(name) for name in file.keys()}
    expected = lora.named().keys()
    if missing := sorted(expected - tensors.keys()):
        raise AdapterError(f"{directory}: {missing[0]} is missing")
    if extra := sorted(tensors.keys() - expected):
        raise AdapterError(f"{directory}: {extra[0]} would be dropped")
    lora.load(tensors)


def _plain(name: str) -> str:
    """`base_model.model.model.language_model.layers.…` -> `layers.…`."""
    return name[name.index("layers.") :] if "layers." in name else name
