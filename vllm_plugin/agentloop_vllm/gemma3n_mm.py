"""Gemma 3n with its vision and audio towers for vLLM 0.26 and newer: LoRA on the language model, towers optional.

vLLM builds the language model inside from the registry, which gives it this package's text-only class
(gemma3n.py). With `--language-model-only` no tower is loaded; vLLM's own class then fails at the first forward, because it
expects embeddings and is given ids.
"""

from __future__ import annotations

import torch
from vllm.model_executor.models import gemma3n_mm
from vllm.model_executor.models.interfaces import SupportsLoRA
from vllm.sequence import IntermediateTensors


class Gemma3nForConditionalGeneration(gemma3n_mm.Gemma3nForConditionalGeneration, SupportsLoRA):
    """vLLM's class with LoRA on its language model; it also takes token ids where no tower has made embeddings of them."""

    def forward(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: object,
    ) -> torch.Tensor | IntermediateTensors:
        """Hidden states [tokens, hidden]."""
        if inputs_embeds is None and intermediate_tensors is None:
            return self.language_model.model(input_ids, positions)
        return super().forward(input_ids, positions, intermediate_tensors, inputs_embeds, **kwargs)
