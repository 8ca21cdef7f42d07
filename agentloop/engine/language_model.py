"""FastLanguageModel: load a Gemma 3n checkpoint, give it LoRA, train it. The calls are named and ordered as Unsloth's."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import torch

from agentloop.engine import nvml
from agentloop.engine.architecture import read_architecture
from agentloop.engine.checkpoint import Checkpoint
from agentloop.engine.compilation import compile_ahead
from agentloop.engine.fingerprint import base_fingerprint, default_cache
from agentloop.engine.lora import TARGETS, LoraSettings
from agentloop.engine.model import Gemma3n
from agentloop.engine.packed import packed_weights
from agentloop.engine.weights import load_weights
from agentloop.errors import ModelError, SettingError

IDLE = ("use_gradient_checkpointing", "max_seq_length", "token")
"""Arguments of Unsloth's that decide nothing here: memory follows its budget, and nothing is downloaded."""
NATURAL = {"init_lora_weights": True, "device_map": "auto", "fix_tokenizer": True}
"""And those of which one value is what happens anyway."""


class FastLanguageModel:
    @staticmethod
    def from_pretrained(
        model_name: str | Path,
        max_seq_length: int = 2048,
        dtype: torch.dtype | None = None,
        load_in_4bit: bool = True,
        *,
        device: str | torch.device | None = None,
        memory_budget: float | Literal["auto"] = "auto",
        resident: bool | None = None,
        graphs: bool | None = None,
        cache_directory: Path | None = None,
        **others: Any,
    ) -> tuple[Gemma3n, Any]:
        """(model, tokenizer) of a checkpoint directory, text-only or multimodal (its language model alone is read).

        `model_name` is the directory or its name under settings.paths.models. The directory of an adapter that
        `save_pretrained` wrote gives its base with that adapter.

        `dtype` is what is computed in: by default bf16 on a CUDA device (fp16 before compute capability 8), fp32 on the CPU.
        `load_in_4bit` packs the layers' linears into NF4, once for each base, under `cache_directory`
        (settings.paths.cache). `memory_budget`: GiB that a training step may take at its peak. `resident` keeps the
        dequantised weights (always so on the CPU); `graphs` replays steps as CUDA graphs (by default on CUDA). Raises
        ModelError, in one line, where the directory is incomplete or not supported.
        """
        _refuse(others)
        directory = _find(model_name)
        if (directory / "adapter_config.json").is_file():
            options = dict(
                max_seq_length=max_seq_length, dtype=dtype, load_in_4bit=load_in_4bit, device=device,
                memory_budget=memory_budget, resident=resident, graphs=graphs, cache_directory=cache_directory,
            )  # fmt: skip
            return _with_adapter(directory, options)
        shape = read_architecture(directory)
        # Before anything wakes CUDA up: it takes its time, and a process that uses it cannot be copied.
        capability = None if torch.device(device or "cuda").type == "cpu" else nvml.capability()
        compilation = compile_ahead(shape, dtype or _default_dtype(capability), capability) if capability else None
        # Importing transformers' tokenizers takes seconds; reading weights mostly waits.
        thread = ThreadPoolExecutor(1)
        tokenizer = thread.submit(_tokenizer, directory)
        thread.shutdown(wait=False)  # it ends with its task
        chosen = torch.device(device) if device else _default_device()
        if chosen.type == "cuda":
            if chosen.index is None:
                chosen = torch.device("cuda", torch.cuda.current_device())
            torch.cuda.set_device(chosen)
            capability = capability or torch.cuda.get_device_capability(chosen)
            dtype = dtype or _default_dtype(capability)
            compilation = compilation or compile_ahead(shape, dtype, capability)
        dtype = dtype or torch.float32
        checkpoint = Checkpoint(directory)
        cache = cache_directory or default_cache()
        fingerprint = base_fingerprint(directory, cache)
        packed = packed_weights(shape, checkpoint, fingerprint, cache, chosen) if load_in_4bit else None
        weights = load_weights(shape, checkpoint, packed, device=chosen, dtype=dtype, positions=max_seq_length)
        model = Gemma3n(
            shape,
            weights,
            fingerprint=fingerprint,
            device=chosen,
            dtype=dtype,
            max_seq_length=max_seq_length,
            memory_budget=memory_budget,
            resident=chosen.type == "cpu" or bool(resident),
            graphs=chosen.type == "cuda" if graphs is None else graphs,
            directory=directory,
            cache_directory=cache,
        )
        model.compilation = compilation
        return model, tokenizer.result()

    @staticmethod
    def get_peft_model(
        model: Gemma3n,
        r: int = 16,
        target_modules: Sequence[str] | str = TARGETS,
        lora_alpha: float = 16,
        lora_dropout: float = 0.0,
        bias: str = "none",
        use_gradient_checkpointing: bool | str = "unsloth",
        random_state: int = 3407,
        use_rslora: bool = False,
        layers_to_transform: Sequence[int] | int | None = None,
        **others: Any,
    ) -> Gemma3n:
        """Give `model` a fresh adapter and return it. Raises SettingError for what the engine does not compute.

        `target_modules` may be "all-linear", the seven projections. `layers_to_transform`: None for all. Layers that
        share another's keys and values have no k_proj and v_proj to train. `use_gradient_checkpointing` is accepted and
        ignored: what is kept and what is recomputed follows the memory budget.
        """
        _refuse(others)
        targets = TARGETS if target_modules == "all-linear" else target_modules
        if isinstance(targets, str):
            raise SettingError(f"target_modules: {targets!r} is neither a list of names nor 'all-linear'")
        if unknown := sorted(set(targets) - set(TARGETS)):
            raise SettingError(f"target_modules: {unknown[0]} cannot carry LoRA, only {', '.join(TARGETS)}")
        if r < 8 or r % 8:
            raise SettingError(f"r: {r} is no multiple of 8")
        if lora_alpha <= 0:
            raise SettingError(f"lora_alpha: {lora_alpha} is not positive")
        if lora_dropout:
            raise SettingError(
                f"lora_dropout: {lora_dropout} is not supported, only 0: weight and adapter are one matrix"
            )
        if bias != "none":
            raise SettingError(f"bias: {bias!r} is not supported, only 'none'")
        layers = (layers_to_transform,) if isinstance(layers_to_transform, int) else layers_to_transform
        if absent := [index for index in layers or () if index not in range(model.shape.layers)]:
            raise SettingError(
                f"layers_to_transform: there is no layer {absent[0]}, only 0 to {model.shape.layers - 1}"
            )
        chosen = None if layers is None else tuple(layers)
        model.attach_lora(LoraSettings(r, lora_alpha, tuple(targets), use_rslora, chosen, random_state))
        return model

    @staticmethod
    def for_training(model: Gemma3n) -> Gemma3n:
        """The model in training mode. Nothing else changes: no weights are merged or cast for either mode."""
        return model.train()

    @staticmethod
    def for_inference(model: Gemma3n) -> Gemma3n:
        """The model in evaluation mode, as above: `model.generate` and `model(input_ids)` work in both."""
        return model.eval()


def _with_adapter(directory: Path, options: dict[str, Any]) -> tuple[Gemma3n, Any]:
    """The base that the adapter in `directory` names, with the adapter. Raises ModelError, SettingError, AdapterError."""
    config = json.loads((directory / "adapter_config.json").read_text())
    model, tokenizer = FastLanguageModel.from_pretrained(config["base_model_name_or_path"], **options)
    names = ("r", "target_modules", "lora_alpha", "use_rslora", "layers_to_transform")
    model = FastLanguageModel.get_peft_model(model, **{name: config[name] for name in names if name in config})
    model.load_adapter(directory)
    if (directory / "tokenizer_config.json").is_file():
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(directory)
    return model, tokenizer


def _refuse(others: dict[str, Any]) -> None:
    """Arguments that only other implementations of this interface have may be passed where they change nothing."""
    for name, value in others.items():
        if value and name not in IDLE and NATURAL.get(name) != value:
            raise SettingError(f"{name}: {value!r} is not supported")


def _find(model_name: str | Path) -> Path:
    """A model's or an adapter's directory. Raises ModelError."""
    if Path(model_name).is_dir():
        return Path(model_name)
    # Imported when asked for: the engine itself needs no settings.
    from agentloop.settings import load

    models = load().paths.models
    if not (models / model_name).is_dir():
        raise ModelError(f"{model_name}: no such directory, here or in {models}; nothing is downloaded")
    return models / model_name


def _default_device() -> torch.device:
    """The CUDA device of this process (torchrun numbers them by LOCAL_RANK), or the CPU."""
    return (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if torch.cuda.is_available() else torch.device("cpu")
    )


def _tokenizer(directory: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(directory)


def _default_dtype(capability: tuple[int, int]) -> torch.dtype:
    """On a CUDA device."""
    return torch.bfloat16 if capability >= (8, 0) else torch.float16
