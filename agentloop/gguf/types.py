"""The type that each tensor of a written GGUF has, by the type that was asked for.

Norms, AltUp's small matrices and whatever has rows of an odd length stay wider, as llama.cpp's own converter and quantiser
leave them. In Q4_K_M the head, and the value and down projections of about half of the layers, are in Q6_K.
"""

from __future__ import annotations

from dataclasses import dataclass

from agentloop.errors import SettingError
from agentloop.gguf import llama_library
from agentloop.gguf.hyperparameters import Hyperparameters
from agentloop.gguf.names import Target

FILE_TYPES = {
    "f32": "ALL_F32",
    "f16": "MOSTLY_F16",
    "bf16": "MOSTLY_BF16",
    "q8_0": "MOSTLY_Q8_0",
    "q4_k_m": "MOSTLY_Q4_K_M",
}
"""What can be asked for -> what a file of it is called in its keys."""
_WIDE = ("altup_correct_coef", "altup_predict_coef", "altup_router")
"""Matrices of some thousand elements, by which everything else is multiplied: in fp32 whatever is asked for."""
_NOT_QUANTISED = ("altup", "laurel", "per_layer_model_proj")
_NARROWER = {"Q4_K": "Q5_0", "Q6_K": "Q8_0", "Q5_0": "F16", "Q8_0": "F16"}
"""Type -> the one that is taken where it does not divide a row."""
_BLOCK = {"Q4_K": 256, "Q6_K": 256, "Q5_0": 32, "Q8_0": 32}
"""Elements that a row has to be a multiple of."""
LIBRARYS_OWN = ("Q4_K", "Q6_K")
"""Types that llama.cpp's library makes, as the package gguf does not."""


def check(kind: str) -> None:
    """Raise SettingError, naming the argument, for a type that is not written, or not without llama.cpp's library."""
    if kind not in FILE_TYPES:
        raise SettingError(f"quantization_method: {kind!r:.40} is not supported ({', '.join(FILE_TYPES)})")
    if kind == "q4_k_m" and (reason := llama_library.missing()):
        raise SettingError(f"quantization_method: q4_k_m is made by llama.cpp; {reason}")


@dataclass(frozen=True)
class Types:
    """Tensor by tensor what a model of these sizes is stored in."""

    sizes: Hyperparameters
    kind: str

    def of(self, name: str, target: Target) -> str:
        """Return gguf's name of the type of the tensor `name`."""
        if len(target.shape) == 1 or self.kind == "f32" or any(part in name for part in _WIDE):
            return "F32"
        if self.kind in ("f16", "bf16"):
            return self.kind.upper()
        if any(part in name for part in _NOT_QUANTISED):
            return "F16"
        chosen = "Q8_0" if self.kind == "q8_0" else self._mixed(name)
        while target.shape[-1] % _BLOCK.get(chosen, 1):
            chosen = _NARROWER[chosen]
        return chosen

    def _mixed(self, name: str) -> str:
        head = "token_embd.weight" if self.sizes.tied else "output.weight"
        part = name.split(".")
        important = part[0] == "blk" and part[2] in ("attn_v", "ffn_down") and self._counts_more(int(part[1]))
        return "Q6_K" if name == head or important else "Q4_K"

    def _counts_more(self, layer: int) -> bool:
        """The first and last eighth of the layers, and every third between them."""
        eighth, layers = self.sizes.layers // 8, self.sizes.layers
        return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2
