"""FastLanguageModel: load a Gemma 3n checkpoint, give it LoRA, train it. The calls are named and ordered as Unsloth's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from agentloop.engine.architecture import read_architecture
from agentloop.engine.checkpoint import Checkpoint
from agentloop.engine.fingerprint import base_fingerprint, default_cache
from agentloop.engine.lora import TARGETS, LoraSettings
from agentloop.engine.model import Gemma3n
from agentloop.engine.packed import packed_weights
from agentloop.engine.weights import load_weights
from agentloop.errors import ModelError, SettingError


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
    ) -> tuple[Gemma3n, Any]:
        """(model, tokenizer) of a checkpoint directory, text-only or multimodal (its language model alone is read).

        `dtype` is what is computed in: by default bf16 on a CUDA device (fp16 before compute capability 8), fp32 on the CPU.
        `load_in_4bit` packs the layers' linears into NF4, once for each base, under `cache_directory`
        (settings.paths.cache). `memory_budget`: GiB that a training step may take at its peak. `resident` keeps the
        dequantised weights (always so on the CPU); `graphs` replays steps as CUDA graphs (by default on CUDA). Raises
        ModelError, in one line, where the directory is incomplete or not supported.
        """
        directory = Path(model_name)
        if not directory.is_dir():
            raise ModelError(f"{model_name}: no such directory")
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        dtype = dtype or _default_dtype(chosen)
        shape = read_architecture(directory)
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
        )
        from transformers import AutoTokenizer

        return model, AutoTokenizer.from_pretrained(directory)

    @staticmethod
    def get_peft_model(
        model: Gemma3n,
        r: int = 16,
        target_modules: Sequence[str] = TARGETS,
        lora_alpha: float = 16,
        lora_dropout: float = 0.0,
        bias: str = "none",
        use_gradient_checkpointing: bool | str = "unsloth",
        random_state: int = 3407,
        use_rslora: bool = False,
        layers_to_transform: Sequence[int] | None = None,
    ) -> Gemma3n:
        """Give `model` a fresh adapter and return it. Raises SettingError for what the engine does not compute.

        `use_gradient_checkpointing` is accepted and ignored: what is kept and what is recomputed follows the memory budget.
        """
        if lora_dropout:
            raise SettingError(f"lora_dropout: {lora_dropout} is not supported, only 0")
        if bias != "none":
            raise SettingError(f"bias: {bias!r} is not supported, only 'none'")
        if r % 8:
            raise SettingError(f"r: {r} is no multiple of 8")
        if unknown := sorted(set(target_modules) - set(TARGETS)):
            raise SettingError(f"target_modules: {unknown[0]} cannot carry LoRA, only {', '.join(TARGETS)}")
        layers = None if layers_to_transform is None else tuple(layers_to_transform)
        model.attach_lora(LoraSettings(r, lora_alpha, tuple(target_modules), use_rslora, layers, random_state))
        return model

    @staticmethod
    def for_training(model: Gemma3n) -> Gemma3n:
        """Nothing to switch: kept because callers of this interface expect it."""
        return model

    @staticmethod
    def for_inference(model: Gemma3n) -> Gemma3n:
        """Nothing to switch, as above."""
        return model


def _default_dtype(device: torch.device) -> torch.dtype:
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
