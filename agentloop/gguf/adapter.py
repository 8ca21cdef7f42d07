"""An adapter in PEFT's format written as a GGUF that llama.cpp and Ollama lay over the base's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from agentloop.errors import AdapterError
from agentloop.files import atomic
from agentloop.gguf import keys
from agentloop.gguf.configuration import read_configuration
from agentloop.gguf.file import library
from agentloop.gguf.hyperparameters import Hyperparameters
from agentloop.gguf.names import expected
from agentloop.reading import open_tensors, read_object

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_NAME = re.compile(
    r"base_model\.model\.(?:model\.)?(?:language_model\.)?(?P<module>layers\..+)\.lora_(?P<factor>[AB])\.weight"
)


def write_gguf_adapter(adapter: Path, base: Path, path: Path) -> None:
    """Write the adapter in the directory `adapter`, of the model in `base`, to `path`, whole or not at all.

    Raises AdapterError, naming file and tensor or setting, for what the base has no place for; ModelError for a base that
    llama.cpp does not compute; DiskError.
    """
    gguf = library(path)
    sizes = read_configuration(base)
    keys.check(sizes, base / "config.json")
    config = read_object(adapter / CONFIG, AdapterError)
    tensors = _tensors(adapter / WEIGHTS, sizes)
    with atomic(path) as temporary:
        writer = gguf.GGUFWriter(temporary, sizes.family)
        writer.add_type("adapter")
        writer.add_name(adapter.name)
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", _alpha(config))
        for name, values in tensors.items():
            writer.add_tensor(name, values)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _alpha(config: dict[str, Any]) -> float:
    """llama.cpp scales by alpha / rank, and knows no other way: rsLoRA's alpha / sqrt(rank) is put into alpha."""
    return config["lora_alpha"] * (config["r"] ** 0.5 if config.get("use_rslora") else 1)


def _tensors(path: Path, sizes: Hyperparameters) -> dict[str, Any]:
    """GGUF's name -> factor in fp32: lora_a is A [rank, inputs], lora_b is B [outputs, rank]."""
    places = {name: gguf for gguf, target in expected(sizes).items() for name in target.names}
    shapes = {name: target.shape_each for target in expected(sizes).values() for name in target.names}
    tensors = {}
    with open_tensors(path, AdapterError) as file:
        for name in file.keys():
            found = _NAME.fullmatch(name)
            own = f"model.{found['module']}.weight" if found else ""
            if found is None or own not in places:
                raise AdapterError(f"{path}: {name}: a GGUF of {sizes.family} has no place for it")
            values = file.get_tensor(name).float().numpy()
            outputs, inputs = shapes[own]
            given = (values.shape[1], inputs) if found["factor"] == "A" else (values.shape[0], outputs)
            if given[0] != given[1]:
                raise AdapterError(f"{path}: {name} is {list(values.shape)}, its projection {[outputs, inputs]}")
            gguf_name = places[own]
            tensors[f"{gguf_name}.lora_{found['factor'].lower()}"] = values
    return dict(sorted(tensors.items()))
