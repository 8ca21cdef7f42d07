"""In which dtype what is computed. bf16, fp32 and fp64 need no thought; fp16 does, because it ends at 65,504.

Cards before compute capability 8 (T4, V100, RTX 20) have fast fp16 only. What GEMMs read and write is then fp16, and:

- the streams and everything residual stay in fp32;
- what can outgrow fp16 on its way into the streams is kept 64 times smaller, and the eps of a norm behind it 4,096 times: both
  are powers of two, so the result is the same (without a norm, in Gemma 1, it is divided in fp32). That is GEGLU's product
  with down_proj's output, the per-layer input's branch, and attention's output with o_proj's. In Gemma 3n the last needs none
  of it: o_proj's input are means of normed values, at most head_dim^1/2 each;
- gradients are those of 16 times a token's loss on their way back, whatever weight the token has: a mean over thousands
  would vanish below fp16's smallest number. The weight is applied in fp32, when they are added to LoRA's. (On the tiny model
  any constant from 1 to 128 does equally well.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of sums and of what must not be rounded, where `dtype` is computed in: fp32, or fp64 beside fp64."""
    return torch.float64 if dtype == torch.float64 else torch.float32


@dataclass(frozen=True)
class Precision:
    compute: torch.dtype
    """Of weights, and of what GEMMs read and write."""
    streams: torch.dtype
    """Of everything residual, and its gradients."""
    branch: float = 1.0
    """What the outputs of branches that are normalised afterwards are multiplied by."""
    loss: float = 1.0
    """Where `scaled`: the weight of a token's loss until gradients are added to LoRA's."""

    @staticmethod
    def of(dtype: torch.dtype) -> Precision:
        if dtype == torch.float16:
            return Precision(dtype, torch.float32, branch=2.0**-6, loss=2.0**4)
        return Precision(dtype, dtype)

    @property
    def scaled(self) -> bool:
        return self.branch != 1.0

    def lower(self, x: Tensor) -> Tensor:
        """x * branch in the compute dtype; x itself where nothing is scaled."""
        return (x * self.branch).to(self.compute) if self.scaled else x

    def restore(self, x: Tensor) -> Tensor:
        """x / branch in the streams' dtype; x itself where nothing is scaled."""
        return x.to(self.streams).div_(self.branch) if self.scaled else x
