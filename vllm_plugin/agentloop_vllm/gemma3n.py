"""Text-only Gemma 3n for vLLM 0.26 and newer: per-layer embeddings computed, LoRA supported, both checkpoint layouts read.

vLLM's own class leaves the per-layer embeddings (PLE) out unless a caller passes them, and for a text-only checkpoint
nobody does; it also lacks `SupportsLoRA`, and with tensor parallelism each rank cuts its activations off by statistics of
its own. What differs between the versions is named here and in adapter_guard.py:

- before 0.30 the layers that share keys and values still own k and v projections and a key norm, which transformers 5 no
  longer saves (`_with_unused_keys`);
- before 0.32 the rank and alpha patterns of an adapter are ignored (adapter_guard.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn
from vllm.config import VllmConfig
from vllm.distributed import get_tensor_model_parallel_world_size, tensor_model_parallel_all_reduce
from vllm.model_executor.layers.activation import GeluAndMulSparse
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.models import gemma3n as vllm_gemma3n
from vllm.model_executor.models.interfaces import SupportsLoRA
from vllm.model_executor.models.utils import AutoWeightsLoader, WeightsMapper, maybe_prefix
from vllm.sequence import IntermediateTensors

from agentloop_vllm import adapter_guard

_NOT_SERVED = ("model.vision_tower.", "model.audio_tower.", "model.embed_vision.", "model.embed_audio.")
"""Weights that a checkpoint may hold and this class has no place for."""


class Gemma3nTextModel(vllm_gemma3n.Gemma3nTextModel):
    """vLLM's text model, which computes the per-layer embeddings itself where the caller did not.

    They are computed in here, not in the class around it, because this is what vLLM compiles: a tensor made outside would
    have a new address at every step, and piecewise CUDA graphs would replay the old one.
    """

    def forward(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        per_layer_inputs: torch.Tensor | None = None,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor | IntermediateTensors:
        """Hidden states [tokens, hidden]. `per_layer_inputs`: [tokens, layers, width] of the multimodal class."""
        if per_layer_inputs is None and input_ids is not None:
            # [tokens, layers * width] -> [tokens, layers, width]
            per_layer_inputs = self.get_per_layer_input_embeddings(input_ids).view(
                -1, self.config.num_hidden_layers, self.config.hidden_size_per_layer_input
            )
        return super().forward(input_ids, positions, per_layer_inputs, intermediate_tensors, inputs_embeds, **kwargs)


class WholeRowGeluAndMulSparse(nn.Module):
    """vLLM's activation for tensor parallelism: the cut-off follows from mean and deviation of the whole row.

    vLLM takes those of the part that a rank holds ("in expectation they are the same", activation.py): another model.
    """

    def __init__(self, of_a_part: GeluAndMulSparse) -> None:
        super().__init__()
        self.deviations, self.approximate = float(of_a_part.std_multiplier), of_a_part.approximate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[tokens, 2 * width], gate and up -> [tokens, width]; `width` is this rank's part."""
        gate, up = x.chunk(2, dim=-1)
        wide = gate.float()
        moments = torch.stack([wide.sum(-1), wide.square().sum(-1)], dim=-1)  # [tokens, 2]
        moments = tensor_model_parallel_all_reduce(moments) / (wide.shape[-1] * get_tensor_model_parallel_world_size())
        mean, square = moments.split(1, dim=-1)
        cutoff = mean + self.deviations * (square - mean.square()).clamp_min(0).sqrt()
        return nn.functional.gelu(torch.relu(gate - cutoff.to(gate.dtype)), approximate=self.approximate) * up


class Gemma3nForCausalLM(vllm_gemma3n.Gemma3nForCausalLM, SupportsLoRA):
    """vLLM's class with the text model above, with LoRA, and with weights of either checkpoint layout."""

    # Adapters and weights saved from the multimodal class carry `language_model` in their names.
    hf_to_vllm_mapper = WeightsMapper(orig_to_new_prefix={"model.language_model.": "model."})

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        # vLLM's own __init__ with another text model: the class is not a parameter there.
        nn.Module.__init__(self)
        config = vllm_config.model_config.hf_config
        if vllm_config.cache_config.kv_sharing_fast_prefill:
            raise ValueError("--kv-sharing-fast-prefill is not supported for Gemma 3n by agentloop-vllm")
        adapter_guard.install(vllm_config)
        self.config = config
        self.cache_config = vllm_config.cache_config
        self.model = Gemma3nTextModel(vllm_config=vllm_config, prefix=maybe_prefix(prefix, "model"))
        if get_tensor_model_parallel_world_size() > 1:
            for layer in self.model.layers:
                if isinstance(layer.mlp.act_fn, GeluAndMulSparse):
                    layer.mlp.act_fn = WholeRowGeluAndMulSparse(layer.mlp.act_fn)
        self.logits_processor = LogitsProcessor(config.vocab_size, soft_cap=config.final_logit_softcapping)
        self._head: torch.Tensor | None = None
        """An output head that the checkpoint holds, until it is compared. [vocabulary, hidden]"""
        self._embedding_loaded = False

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """May be called more than once, with parts. Raises ValueError for an output head that is not the embedding."""
        named = ((name.replace("model.language_model.", "model.", 1), tensor) for name, tensor in weights)
        loaded = AutoWeightsLoader(self).load_weights(self._with_unused_keys(self._without_head(named)))
        self._embedding_loaded |= any(name.endswith(".embed_tokens.weight") for name in loaded)
        if self._head is not None and self._embedding_loaded:
            embedding = self.model.embed_tokens
            rows = slice(embedding.shard_indices.org_vocab_start_index, embedding.shard_indices.org_vocab_end_index)
            held = embedding.weight[: rows.stop - rows.start].cpu()
            if not torch.equal(held, self._head[rows].to(held.dtype)):
                raise ValueError(
                    "Gemma 3n with an output head of its own is not supported: lm_head.weight is not the embedding"
                )
            self._head = None
        return loaded

    def _without_head(self, weights: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
        """The embedding is what this class multiplies by; a copy of it in the checkpoint is looked at and left out."""
        for name, tensor in weights:
            if name == "lm_head.weight":
                self._head = tensor
            else:
                yield name, tensor

    def _with_unused_keys(self, weights: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
        """The weights that are served, and zeros for what vLLM before 0.30 waits for in KV-shared layers.

        Such layers never use these weights; zeros keep what they compute in vain finite.
        """
        config, seen = self.config, set()
        for name, tensor in weights:
            if not name.startswith(_NOT_SERVED):
                seen.add(name)
                yield name, tensor
        keys = (config.num_key_value_heads * config.head_dim, config.hidden_size)
        for index in range(config.num_hidden_layers - config.num_kv_shared_layers, config.num_hidden_layers):
            stem = f"model.layers.{index}.self_attn"
            owned = hasattr(self.model.layers[index].self_attn, "k_norm")
            for name, shape in (("k_proj", keys), ("v_proj", keys), ("k_norm", (config.head_dim,))):
                if owned and f"{stem}.{name}.weight" not in seen:
                    yield f"{stem}.{name}.weight", torch.zeros(shape)
