"""A base in NF4 as a directory that bitsandbytes' users read: transformers, PEFT, vLLM.

Each packed weight becomes bitsandbytes' tensors (`weight` uint8 [elements / 2, 1], absmax, nested_absmax, the two code books,
quant_state as JSON in bytes), value by value what the engine has; all else is copied as it is stored. config.json gets the
quantization_config, whose llm_int8_skip_modules names every other linear: those left in 16 bit, those that are too narrow
for NF4's blocks, the head, and towers. A fused matrix of vLLM's (qkv_proj, gate_up_proj) is named too where its parts are left.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from agentloop.engine.io.checkpoint import Checkpoint
from agentloop.engine.io.dequantised import write_index
from agentloop.engine.io.packed import PackedWeights, packed_weights
from agentloop.errors import SettingError
from agentloop.files import atomic
from agentloop.model_directory.configuration import read_architecture
from agentloop.model_directory.files import other_files, weight_files
from agentloop.model_directory.fingerprint import base_fingerprint
from agentloop.records import Quantization
from agentloop_kernels.blockwise import dynamic_code
from agentloop_kernels.nf4 import BLOCK, NESTED_BLOCK, Nf4, nf4_code

_STATE = "quant_state.bitsandbytes__nf4"
_FUSED = {"self_attn.q_proj": "self_attn.qkv_proj", "mlp.gate_proj": "mlp.gate_up_proj"}
"""First part of a matrix that vLLM fuses, and its name there."""


def write(model: Path, directory: Path, quantization: Quantization, *, cache: Path) -> int:
    """Write `directory`, whole or not at all, and return the bytes of its weights. `model` is the base's directory.

    Raises SettingError where `directory` exists, ModelError, DiskError.
    """
    if directory.exists():
        raise SettingError(f"{directory}: exists already; a quantised model is written to a directory of its own")
    checkpoint = Checkpoint(model)
    if checkpoint.packed:
        raise SettingError(f"{model}: is in bitsandbytes' 4 bit already")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    packed = packed_weights(
        read_architecture(model), checkpoint, base_fingerprint(model, cache), cache, device,
        in_16bit=quantization.in_16bit,
    )  # fmt: skip
    skipped: set[str] = {"lm_head"}
    size = 0
    with atomic(directory) as temporary:
        temporary.mkdir()
        for file in other_files(model):
            if not file.name.endswith(".safetensors.index.json"):  # names of tensors, which are others now
                shutil.copy(file, temporary / file.name)
        for file in weight_files(model):
            skipped |= _rewrite(file, temporary / file.name, checkpoint.prefix, packed)
            size += (temporary / file.name).stat().st_size
        write_index(temporary)
        config = json.loads((model / "config.json").read_text(encoding="utf-8"))
        config["quantization_config"] = _config(sorted(skipped | _fused(skipped)), checkpoint.dtype)
        (temporary / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    return size


def _rewrite(source: Path, target: Path, prefix: str, packed: PackedWeights) -> set[str]:
    """Copy a safetensors file with the packed linears in bitsandbytes' form. Returns the names of all other matrices."""
    tensors: dict[str, Tensor] = {}
    others = set()
    with safe_open(source, framework="pt") as file:
        for name in file.keys():
            linear = name.removeprefix(prefix).removesuffix(".weight")
            if name.startswith(prefix) and linear in packed:
                stored = file.get_slice(name).get_dtype()
                tensors |= {f"{name}{part}": tensor for part, tensor in _parts(packed.linear(linear), stored).items()}
                continue
            tensors[name] = file.get_tensor(name)
            if name.endswith(".weight") and tensors[name].dim() == 2 and "embed_tokens" not in name:
                others.add(name.removesuffix(".weight"))
        save_file(tensors, target, metadata=file.metadata() or {"format": "pt"})
    return others


def _parts(weight: Nf4, stored: str) -> dict[str, Tensor]:
    """bitsandbytes' tensors of a weight, by what their names end with."""
    cpu = weight.to("cpu")
    state = {
        "quant_type": "nf4",
        "blocksize": BLOCK,
        "dtype": {"BF16": "bfloat16", "F16": "float16"}.get(stored, "float32"),
        "shape": list(cpu.shape),
        "nested_blocksize": NESTED_BLOCK,
        "nested_dtype": "float32",
        "nested_offset": float(cpu.offset),
    }
    return {
        "": cpu.packed.view(-1, 1),
        ".absmax": cpu.absmax8,
        ".quant_map": nf4_code(torch.device("cpu")).clone(),
        ".nested_absmax": cpu.absmax_scale,
        ".nested_quant_map": dynamic_code(torch.device("cpu")).clone(),
        f".{_STATE}": torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8),
    }


def _config(skipped: list[str], dtype: torch.dtype) -> dict[str, Any]:
    return {
        "quant_method": "bitsandbytes",
        "_load_in_4bit": True,
        "_load_in_8bit": False,
        "load_in_4bit": True,
        "load_in_8bit": False,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_compute_dtype": "float32" if dtype == torch.float32 else str(dtype).removeprefix("torch."),
        "llm_int8_enable_fp32_cpu_offload": False,
        "llm_int8_has_fp16_weight": False,
        "llm_int8_threshold": 6.0,
        "llm_int8_skip_modules": skipped,
    }


def _fused(skipped: set[str]) -> set[str]:
    return {
        name.removesuffix(part) + fused for name in skipped for part, fused in _FUSED.items() if name.endswith(part)
    }
