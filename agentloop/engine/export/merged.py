"""The adapter merged into its base: a checkpoint that transformers and vLLM read like any other, without LoRA.

Each covered weight becomes W + s B A, summed in fp32 and rounded once to the dtype in which the base is stored. W is either
the original weight or what NF4 made of it: an adapter trained in 4 bit corrects the latter's errors, which the former does
not have. Which one it is stands in the directory's README.md and config.json. A base that comes in 4 bit has only the latter.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from agentloop.engine.io.checkpoint import Checkpoint
from agentloop.engine.io.dequantised import dequantised_checkpoint
from agentloop.engine.lora.buffer import LoraBuffer, LoraSlot
from agentloop.errors import SettingError
from agentloop.files import atomic
from agentloop.model_directory.configuration import is_packed
from agentloop.model_directory.files import other_files, weight_files
from agentloop.records import NF4, Quantization
from agentloop_kernels.precision import wide

Base = Literal["bf16", "dequantised"]
_RECORDS = "agentloop_"
"""Files that tell where the base came from begin with it: of the merged model it would not be true."""
ONTO = {"bf16": "original weights", "dequantised": "dequantised NF4 weights"}


def write_merged(
    lora: LoraBuffer,
    directory: Path,
    *,
    base: Base,
    model: Path,
    cache: Path,
    fingerprint: str,
    quantization: Quantization,
    beside: Mapping[str, str] | None = None,
    finish: Callable[[Path], None] = lambda written: None,
) -> None:
    """Write `directory`, whole or not at all. `model` is the base's directory, `fingerprint` its name, `quantization` what the
    adapter was trained on, `beside` the texts of further files by name. `finish` is given the directory under its temporary
    name; what it raises leaves nothing behind.

    `cache` is where the dequantised base is, or is put. Raises SettingError where `directory` exists, DiskError.
    """
    if directory.exists():
        raise SettingError(f"{directory}: exists already; a merged model is written to a directory of its own")
    shipped = is_packed(model)
    if shipped and base == "bf16":
        base = "dequantised"
        warnings.warn(
            f"{model} holds 4-bit weights alone: the adapter is merged onto the dequantised ones", stacklevel=3
        )
    source = weights_under(base, model, cache, quantization)
    prefix = Checkpoint(source).prefix
    slots = {f"{prefix}{name}.weight": slot for name, slot in lora.slots.items()}
    description = {"base": fingerprint, "onto": base, "adapter": asdict(lora.settings)}
    with atomic(directory) as temporary:
        temporary.mkdir()
        for file in other_files(source):
            if not file.name.startswith(_RECORDS):
                shutil.copy(file, temporary / file.name)
        for file in weight_files(source):
            _merge_file(file, temporary / file.name, lora, slots, {"merged_onto": base, "base": fingerprint})
        config = json.loads((source / "config.json").read_text(encoding="utf-8"))
        (temporary / "config.json").write_text(
            json.dumps(config | {"agentloop_merged": description}, indent=2), encoding="utf-8"
        )
        (temporary / "README.md").write_text(
            _readme(model.name, base, shipped or quantization.in_4bit, shipped, description), encoding="utf-8"
        )
        for name, text in (beside or {}).items():
            (temporary / name).write_text(text, encoding="utf-8")
        finish(temporary)


def weights_under(base: Base, model: Path, cache: Path, quantization: Quantization) -> Path:
    """The directory of the weights that an adapter goes onto: `model`, or the dequantised base, made where it is missing.

    Of a `model` that comes in 4 bit it is the latter in any case. Raises ModelError, DiskError.
    """
    if base == "bf16" and not is_packed(model):
        return model
    return dequantised_checkpoint(model, cache, quantization if quantization.in_4bit else NF4)


def _merge_file(
    source: Path, target: Path, lora: LoraBuffer, slots: dict[str, LoraSlot], metadata: dict[str, str]
) -> None:
    with safe_open(source, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        metadata = (file.metadata() or {"format": "pt"}) | metadata
    for name in tensors.keys() & slots.keys():
        tensors[name] = merged(tensors[name], lora, slots[name])
    save_file(tensors, target, metadata=metadata)
    _order_metadata(target)


def _order_metadata(file: Path) -> None:
    """safetensors writes metadata in another order each time, and the same merge has to give the same bytes: a base is named
    by them."""
    with open(file, "r+b") as opened:
        size = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        opened.seek(8)
        opened.write(text.ljust(size))


def merged(weight: Tensor, lora: LoraBuffer, slot: LoraSlot) -> Tensor:
    """`weight` [outputs, inputs] with the slot's adapter, on the CPU in its own dtype."""
    b, a = slot.view_b(lora.parameters), slot.view_a(lora.parameters)
    return wide(weight).add((b @ a).cpu().to(wide(weight).dtype), alpha=lora.settings.scale).to(weight.dtype)


def _readme(name: str, base: Base, quantised: bool, shipped: bool, description: dict) -> str:
    trained_on = ONTO["dequantised" if quantised else "bf16"]
    original = " The base came in 4 bit: there were no original weights to merge it onto." if shipped else ""
    return (
        f"# {name} with an adapter merged onto its {ONTO[base]}\n\nMade by agentloop. The adapter was trained on the "
        f"base's {trained_on}.{original}\n\n```json\n{json.dumps(description, indent=2)}\n```\n"
    )
