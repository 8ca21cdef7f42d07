"""From tokens to AltUp's streams, and from the last layer's streams to what the head reads."""

from __future__ import annotations

import torch
from torch import Tensor

from agentloop.engine.lora.projection import Workspace
from agentloop.engine.models.gemma.embedding import TokenEmbedding
from agentloop.engine.models.gemma3n.weights import Gemma3nWeights
from agentloop.engine.numerics.precision import Precision
from agentloop.model_directory.architecture import Architecture
from agentloop_kernels.magnitude import embed_streams, unembed_streams, unembed_streams_backward
from agentloop_kernels.ple import ple_inputs


class Gemma3nEmbedding:
    def __init__(self, shape: Architecture, weights: Gemma3nWeights, workspace: Workspace) -> None:
        self.shape, self.weights, self.workspace = shape, weights, workspace
        self.precision = Precision.of(workspace.dtype)
        self.tokens = TokenEmbedding(shape, weights, self.precision.compute)

    def embed(self, token_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Ids [tokens] -> streams [n, tokens, hidden] and the per-layer inputs [tokens, layers * ple]."""
        w, shape, first = self.weights, self.shape, self.tokens.rows(token_ids)
        in_table = torch.where(token_ids < shape.ple_vocab, token_ids, 0)
        projection = first @ w.ple_model_projection.t()
        ple = ple_inputs(
            projection,
            w.ple_table.rows(in_table),
            w.ple_projection_norm,
            scale=shape.hidden**-0.5,
            table_scale=shape.ple**0.5,
            eps=shape.eps,
            out=projection,
        )
        streams = first.new_empty(shape.streams, *first.shape, dtype=self.precision.streams)
        return embed_streams(first, torch.matmul(first, w.altup.transpose(1, 2)), out=streams), ple

    def unembed(self, streams: Tensor) -> tuple[Tensor, Tensor]:
        """[n, rows, hidden] -> the head's input [rows, hidden], and the other streams projected."""
        projected = torch.bmm(self.precision.lower(streams[1:]), self.weights.unembed.transpose(1, 2))
        projected = self.precision.restore(projected)
        hidden = self.workspace.new_empty(*streams.shape[1:])
        return unembed_streams(streams[0], projected, self.weights.final_norm, self.shape.eps, out=hidden), projected

    def unembed_backward(self, dhidden: Tensor, streams: Tensor, projected: Tensor) -> Tensor:
        """Gradient of the head's input -> that of the streams [n, rows, hidden]."""
        w = self.weights
        dstreams = torch.empty_like(streams)
        _, dprojected = unembed_streams_backward(
            dhidden, streams[0], projected, w.final_norm, self.shape.eps, dfirst=dstreams[0], dprojected=projected
        )
        if dprojected.dtype == w.unembed.dtype:
            torch.bmm(dprojected, w.unembed, out=dstreams[1:])
        else:
            dstreams[1:] = torch.bmm(dprojected.to(w.unembed.dtype), w.unembed)
        return dstreams
