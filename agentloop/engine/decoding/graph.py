"""A step of generation as a CUDA graph: hundreds of kernels for one token, which take longer to launch than to run."""

from __future__ import annotations

import torch
from torch import Tensor

from agentloop.engine.decoding.decoder import Decoder

WORTH_RECORDING = 8
"""Steps from which on a graph is recorded; to record one takes about as long as to launch two."""


class RecordedStep:
    """Stands for `decoder.step` on a CUDA device. The first step is launched, which compiles kernels; the second is recorded
    and replayed from then on. What it returns is overwritten by the next step."""

    def __init__(self, decoder: Decoder) -> None:
        self._step = decoder.step
        self._calls = 0
        self._graph = torch.cuda.CUDAGraph()

    def __call__(self, token_ids: Tensor, positions: Tensor, longest: int | None = None) -> Tensor:
        self._calls += 1
        if self._calls == 1:
            return self._step(token_ids, positions)
        if self._calls == 2:
            self._token_ids, self._positions = token_ids.clone(), positions.clone()
            with torch.cuda.graph(self._graph):
                self._logits = self._step(self._token_ids, self._positions)
        self._token_ids.copy_(token_ids)
        self._positions.copy_(positions)
        self._graph.replay()
        return self._logits
