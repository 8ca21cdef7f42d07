"""Each generation's tensors: what GGUF calls them, what transformers calls them, and how the values differ.

llama.cpp adds one to the norms of Gemma 1, 2 and 3, whose implementation in transformers multiplies by weight + 1; Gemma
3n's norms multiply by the weight itself. Gemma 3n's AltUp projections are one tensor there and several here.
"""

from __future__ import annotations

from dataclasses import dataclass

from agentloop.errors import ModelError
from agentloop.gguf.file import GgufFile, Tensor
from agentloop.gguf.hyperparameters import Hyperparameters


@dataclass(frozen=True)
class Target:
    """The place that one tensor of a GGUF has in a checkpoint."""

    names: tuple[str, ...]
    """transformers' name, or one for each slice of a tensor that is several there."""
    shape: tuple[int, ...]
    """Shape that the GGUF's tensor has to have."""
    shift: float = 0.0
    """Number that is added to every element."""
    needed: bool = True

    @property
    def shape_each(self) -> tuple[int, ...]:
        """Shape of the tensor of each name."""
        return self.shape[1:] if len(self.shape) == 3 else self.shape


def targets(file: GgufFile, sizes: Hyperparameters) -> list[tuple[Tensor, Target]]:
    """The file's tensors with what becomes of them, in the model's order.

    Raises ModelError, naming file and tensor, where one is missing, unknown or of another shape.
    """
    names = expected(sizes)
    unknown = next((name for name in file.tensors if name not in names), None)
    if unknown is not None:
        raise ModelError(f"{file.tensors[unknown].file}: tensor {unknown} is not one of {sizes.family}'s")
    found = []
    for name, target in names.items():
        tensor = file.tensors.get(name)
        if tensor is None:
            if target.needed:
                raise ModelError(f"{file.path}: tensor {name} is missing")
            continue
        if tensor.shape != target.shape:
            raise ModelError(
                f"{tensor.file}: tensor {name} is {list(tensor.shape)}, its keys imply {list(target.shape)}"
            )
        found.append((tensor, target))
    return found


def expected(s: Hyperparameters) -> dict[str, Target]:
    """Return what becomes of each tensor that a model of these sizes may have, by GGUF's name, in the model's order."""
    hidden, shift = s.hidden, 0.0 if s.family == "gemma3n" else -1.0
    tensors = {
        "token_embd.weight": Target(("model.embed_tokens.weight",), (s.vocab, hidden)),
        "output_norm.weight": Target(("model.norm.weight",), (hidden,), shift),
    }
    if not s.tied:
        tensors["output.weight"] = Target(("lm_head.weight",), (s.vocab, hidden))
    if s.family == "gemma3n":
        tensors |= _whole_model_3n(s)
    for index in range(s.layers):
        for name, shape in _layer(s, index).items():
            gguf, _, own = name.partition(" ")
            norm = own.endswith("norm")
            shared = index >= s.layers - s.shared_layers and gguf in ("attn_k", "attn_v", "attn_k_norm")
            tensors[f"blk.{index}.{gguf}.weight"] = Target(
                # the one parameter of a layer that is not a module's weight
                (f"model.layers.{index}.{own}{'' if own.endswith('correct_output_scale') else '.weight'}",),
                shape,
                shift if norm else 0.0,
                needed=not shared,
            )
    return tensors


def _whole_model_3n(s: Hyperparameters) -> dict[str, Target]:
    hidden, inputs, others = s.hidden, s.layers * s.per_layer, range(s.streams - 1)
    stacked = (s.streams - 1, hidden, hidden)
    return {
        "per_layer_token_embd.weight": Target(("model.embed_tokens_per_layer.weight",), (s.vocab, inputs)),
        "per_layer_model_proj.weight": Target(("model.per_layer_model_projection.weight",), (inputs, hidden)),
        "per_layer_proj_norm.weight": Target(("model.per_layer_projection_norm.weight",), (s.per_layer,)),
        "altup_proj.weight": Target(tuple(f"model.altup_projections.{i}.weight" for i in others), stacked),
        "altup_unembd_proj.weight": Target(
            tuple(f"model.altup_unembed_projections.{i}.weight" for i in others), stacked
        ),
    }


def _layer(s: Hyperparameters, index: int) -> dict[str, tuple[int, ...]]:
    """The shapes of one layer, by GGUF's and transformers' name, separated by a space."""
    hidden, queries, keys, inner = s.hidden, s.heads * s.head_dim, s.kv_heads * s.head_dim, s.intermediate[index]
    tensors = {
        "attn_norm input_layernorm": (hidden,),
        "attn_q self_attn.q_proj": (queries, hidden),
        "attn_k self_attn.k_proj": (keys, hidden),
        "attn_v self_attn.v_proj": (keys, hidden),
        "attn_output self_attn.o_proj": (hidden, queries),
        "ffn_gate mlp.gate_proj": (inner, hidden),
        "ffn_up mlp.up_proj": (inner, hidden),
        "ffn_down mlp.down_proj": (hidden, inner),
    }
    if s.family == "gemma":
        return tensors | {"ffn_norm post_attention_layernorm": (hidden,)}
    tensors |= {
        "post_attention_norm post_attention_layernorm": (hidden,),
        "ffn_norm pre_feedforward_layernorm": (hidden,),
        "post_ffw_norm post_feedforward_layernorm": (hidden,),
    }
    if s.family == "gemma2":
        return tensors
    tensors |= {"attn_q_norm self_attn.q_norm": (s.head_dim,), "attn_k_norm self_attn.k_norm": (s.head_dim,)}
    if s.family == "gemma3":
        return tensors
    return tensors | {
        "altup_correct_coef altup.correction_coefs": (s.streams, s.streams),
        "altup_correct_scale altup.correct_output_scale": (hidden,),
        "altup_predict_coef altup.prediction_coefs": (s.streams**2, s.streams),
        "altup_router altup.modality_router": (s.streams, hidden),
        "altup_router_norm altup.router_norm": (hidden,),
        "laurel_l laurel.linear_left": (s.laurel_rank, hidden),
        "laurel_r laurel.linear_right": (hidden, s.laurel_rank),
        "laurel_post_norm laurel.post_laurel_norm": (hidden,),
        "inp_gate per_layer_input_gate": (s.per_layer, hidden),
        "proj per_layer_projection": (hidden, s.per_layer),
        "post_norm post_per_layer_input_norm": (hidden,),
    }
