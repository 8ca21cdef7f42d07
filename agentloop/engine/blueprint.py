"""A model that has shapes but no weights: everything on torch's meta device, from config.json alone.

It answers what a real one would need and do on a CUDA device: how much memory a step takes (`agentloop doctor --train`) and
which kernels it launches (compilation.py). Nothing is read, nothing is computed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

import torch
from torch import Tensor

from agentloop.engine.architecture import Architecture
from agentloop.engine.checkpoint import Checkpoint
from agentloop.engine.families import load_weights
from agentloop.engine.lora import TARGETS, LoraSettings
from agentloop.engine.model import Gemma
from agentloop.engine.packed import PackedWeights
from agentloop.errors import ModelError
from agentloop.records import NF4, Quantization
from agentloop_kernels.nf4 import BLOCK, NESTED_BLOCK, Nf4

META = torch.device("meta")
TYPES = ("BF16", "F16", "F32", "F64")
"""Of weights, as safetensors calls them."""


def blueprint(
    shape: Architecture,
    *,
    dtype: torch.dtype = torch.bfloat16,
    max_seq_length: int,
    quantization: Quantization = NF4,
    resident: bool = False,
    rank: int = 16,
    targets: Sequence[str] = TARGETS,
    memory_budget: float | Literal["auto"] = "auto",
) -> Gemma:
    """The model that `FastLanguageModel` would make on a CUDA device, with an adapter, as meta tensors."""
    checkpoint = ImpliedCheckpoint(shape)
    model = Gemma(
        shape,
        load_weights(
            shape,
            checkpoint,
            checkpoint.packed(quantization.in_16bit) if quantization.in_4bit else None,
            device=META,
            dtype=dtype,
            positions=max_seq_length,
        ),
        fingerprint="",
        device=META,
        dtype=dtype,
        max_seq_length=max_seq_length,
        memory_budget=memory_budget,
        resident=resident,
        graphs=False,
    )
    model.attach_lora(LoraSettings(rank=rank, targets=tuple(targets)))
    return model


def check_sizes(checkpoint: Checkpoint, shape: Architecture) -> None:
    """Raises ModelError where a tensor is missing, no floating-point one, or of another size than config.json implies.

    Reads headers alone.
    """
    implied, types = ImpliedCheckpoint(shape), checkpoint.types()
    sizes = checkpoint.sizes()
    for name, size in sizes.items():
        if name.startswith("layers.") and int(name.split(".")[1]) >= shape.layers:
            raise ModelError(f"{checkpoint.directory}: the weights have {name}, config.json only {shape.layers} layers")
        try:
            expected = tuple(implied.tensor(name).shape)
        except KeyError:
            continue  # not the language model's
        if size != expected:
            raise ModelError(
                f"{checkpoint.directory}: {name} is {list(size)} in the weights, {list(expected)} by config.json"
            )
        if types[name] not in TYPES:
            raise ModelError(
                f"{checkpoint.directory}: {name} is {types[name]} in the weights, not {' or '.join(TYPES)}"
            )
    missing = next((name for name in _read_names(shape) if name not in sizes), None)
    if missing is not None:
        raise ModelError(f"{checkpoint.directory}: the weights lack {checkpoint.prefix}{missing}")


def _read_names(shape: Architecture) -> list[str]:
    """The tensors that a model of this architecture is made from."""
    asked = _AskedCheckpoint(shape)
    load_weights(shape, asked, None, device=META, dtype=torch.bfloat16, positions=1)
    return asked.names


class ImpliedCheckpoint:
    """The tensors that a checkpoint of this architecture holds. Stands where a `Checkpoint` is read."""

    def __init__(self, shape: Architecture) -> None:
        self.shape = shape

    def head(self) -> None:
        """Tied to the embeddings, as in every Gemma."""

    def packed(self, in_16bit: Collection[str] = ()) -> PackedWeights:
        """Its NF4 linears, without those named."""
        weights = {name: self.tensor(f"{name}.weight") for name in self.shape.linears if name not in in_16bit}
        return PackedWeights({name: _packed(w) for name, w in weights.items() if w.shape[1] % BLOCK == 0})

    def tensor(self, name: str) -> Tensor:
        """`name` as in `Checkpoint.tensor`: [..] bf16 on the meta device. Raises KeyError where the model has none."""
        parts = name.removesuffix(".weight").split(".")
        layer = int(parts[1]) if parts[0] == "layers" else 0
        key = ".".join(part for part in parts if not part.isdigit())
        return torch.empty(self._size(key, layer), dtype=torch.bfloat16, device=META)

    def _size(self, key: str, layer: int) -> tuple[int, ...]:
        s = self.shape
        hidden, inter, query, keys = s.hidden, s.intermediate[layer], s.heads * s.head_dim, s.kv_heads * s.head_dim
        return {
            "embed_tokens": (s.vocab, hidden),
            "embed_tokens_per_layer": (s.ple_vocab, s.layers * s.ple),
            "per_layer_model_projection": (s.layers * s.ple, hidden),
            "per_layer_projection_norm": (s.ple,),
            "altup_projections": (hidden, hidden),
            "altup_unembed_projections": (hidden, hidden),
            "norm": (hidden,),
            "layers.input_layernorm": (hidden,),
            "layers.post_attention_layernorm": (hidden,),
            "layers.pre_feedforward_layernorm": (hidden,),
            "layers.post_feedforward_layernorm": (hidden,),
            "layers.post_per_layer_input_norm": (hidden,),
            "layers.laurel.post_laurel_norm": (hidden,),
            "layers.laurel.linear_left": (s.laurel_rank, hidden),
            "layers.laurel.linear_right": (hidden, s.laurel_rank),
            "layers.self_attn.q_norm": (s.head_dim,),
            "layers.self_attn.k_norm": (s.head_dim,),
            "layers.self_attn.q_proj": (query, hidden),
            "layers.self_attn.k_proj": (keys, hidden),
            "layers.self_attn.v_proj": (keys, hidden),
            "layers.self_attn.o_proj": (hidden, query),
            "layers.altup.modality_router": (s.streams, hidden),
            "layers.altup.router_norm": (hidden,),
            "layers.altup.prediction_coefs": (s.streams**2, s.streams),
            "layers.altup.correction_coefs": (s.streams, s.streams),
            "layers.altup.correct_output_scale": (hidden,),
            "layers.mlp.gate_proj": (inter, hidden),
            "layers.mlp.up_proj": (inter, hidden),
            "layers.mlp.down_proj": (hidden, inter),
            "layers.per_layer_input_gate": (s.ple, hidden),
            "layers.per_layer_projection": (hidden, s.ple),
        }[key]


class _AskedCheckpoint(ImpliedCheckpoint):
    """One that remembers what it was asked for."""

    def __init__(self, shape: Architecture) -> None:
        super().__init__(shape)
        self.names: list[str] = []

    def tensor(self, name: str) -> Tensor:
        self.names.append(name)
        return super().tensor(name)


def _packed(weight: Tensor) -> Nf4:
    blocks = weight.numel() // BLOCK
    return Nf4(
        packed=torch.empty(weight.numel() // 2, dtype=torch.uint8, device=META),
        absmax8=torch.empty(blocks, dtype=torch.uint8, device=META),
        absmax_scale=torch.empty(-(-blocks // NESTED_BLOCK), dtype=torch.float32, device=META),
        offset=torch.empty((), dtype=torch.float32, device=META),
        shape=tuple(weight.shape),
    )
