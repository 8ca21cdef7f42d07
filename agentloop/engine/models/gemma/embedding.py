"""From tokens to the residual stream, and from the last layer to what the head reads."""

from __future__ import annotations

import torch
from torch import Tensor

from agentloop.engine.lora.projection import Workspace
from agentloop.engine.models.gemma.weights import GemmaWeights
from agentloop.engine.models.weights import ModelWeights
from agentloop.engine.numerics.precision import Precision
from agentloop.model_directory.architecture import Architecture
from agentloop_kernels.norm import rms_norm, rms_norm_backward


class TokenEmbedding:
    """Rows of the embedding times the square root of their width, as every generation of Gemma reads them."""

    def __init__(self, shape: Architecture, weights: ModelWeights, dtype: torch.dtype) -> None:
        self.weights, self.dtype = weights, dtype
        # Rounded to the weights' dtype, as transformers does.
        self.scale = float(torch.tensor(shape.hidden**0.5, dtype=dtype))

    def rows(self, token_ids: Tensor) -> Tensor:
        """Ids [tokens] -> [tokens, hidden]."""
        return self.weights.embedding[token_ids].to(self.dtype) * self.scale


class GemmaEmbedding:
    def __init__(self, shape: Architecture, weights: GemmaWeights, workspace: Workspace) -> None:
        self.shape, self.weights, self.workspace = shape, weights, workspace
        self.precision = Precision.of(workspace.dtype)
        self.tokens = TokenEmbedding(shape, weights, self.precision.compute)

    def embed(self, token_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Ids [tokens] -> the stream [1, tokens, hidden], and per-layer inputs of width 0."""
        first = self.tokens.rows(token_ids)
        return first.to(self.precision.streams)[None], first.new_empty(len(first), 0)

    def unembed(self, streams: Tensor) -> tuple[Tensor, None]:
        """[1, rows, hidden] -> the head's input [rows, hidden]."""
        hidden = self.workspace.new_empty(*streams.shape[1:])
        return rms_norm(streams[0], self.weights.final_norm, self.shape.eps, out=hidden), None

    def unembed_backward(self, dhidden: Tensor, streams: Tensor, saved: None) -> Tensor:
        """Gradient of the head's input -> that of the stream [1, rows, hidden]."""
        dstreams = torch.empty_like(streams)
        rms_norm_backward(dhidden, streams[0], self.weights.final_norm, self.shape.eps, out=dstreams[0])
        return dstreams
