"""All LoRA weights of a model in one flat buffer, with views for each projection.

Y = X W' + s (X A') B' with A [rank, in], B [out, rank] and s = alpha / rank (alpha / sqrt(rank) for rsLoRA). One buffer for
the weights, one for the gradients, one in the compute dtype: the optimizer, the norm and the checkpoint are then one pass
over one tensor each, and a data-parallel step needs one all-reduce.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from agentloop.engine.numerics.precision import Precision, wide_dtype
from agentloop.errors import ModelError

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
FEEDFORWARD = ("gate_proj", "up_proj", "down_proj")
TARGETS = ATTENTION + FEEDFORWARD
"""The seven projections that can carry LoRA."""


@dataclass(frozen=True)
class LoraSettings:
    rank: int = 16
    alpha: float = 16
    targets: tuple[str, ...] = TARGETS
    rslora: bool = False
    layers: tuple[int, ...] | None = None
    """Layers that carry LoRA; None for all."""
    seed: int = 3407

    @property
    def width(self) -> int:
        """The rank in the buffers, a multiple of 8 as GEMMs want it. What fills it up is zero in A and in B: neither has
        a gradient then, and both stay zero."""
        return -(-self.rank // 8) * 8

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    def covers(self, layer: int, target: str) -> bool:
        return target in self.targets and (self.layers is None or layer in self.layers)


@dataclass(frozen=True)
class LoraSlot:
    """The place of one projection's A and B in the flat buffers."""

    name: str
    """`layers.N.self_attn.q_proj` and the like."""
    a: slice
    b: slice
    rank: int
    """Filled up to the buffers' width."""
    inputs: int
    outputs: int

    def view_a(self, flat: Tensor) -> Tensor:
        """[rank, inputs]."""
        return flat[self.a].view(self.rank, self.inputs)

    def view_b(self, flat: Tensor) -> Tensor:
        """[outputs, rank]."""
        return flat[self.b].view(self.outputs, self.rank)


class LoraBuffer:
    """The flat buffers. `groups` are lists of (name, inputs, outputs); the A of one group lie one behind the other."""

    def __init__(
        self,
        settings: LoraSettings,
        groups: Iterable[list[tuple[str, int, int]]],
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.settings = settings
        self.slots: dict[str, LoraSlot] = {}
        end = 0
        for group in groups:
            starts = []
            for _, inputs, _ in group:
                starts.append(end)
                end += settings.width * inputs
            for (name, inputs, outputs), start in zip(group, starts, strict=True):
                self.slots[name] = LoraSlot(
                    name,
                    slice(start, start + settings.width * inputs),
                    slice(end, end + settings.width * outputs),
                    settings.width,
                    inputs,
                    outputs,
                )
                end += settings.width * outputs
        precision = wide_dtype(dtype)
        self.parameter = torch.nn.Parameter(torch.zeros(end, dtype=precision, device=device))
        """[size] fp32: what an optimizer changes. The model exchanges it where torch exchanged its own."""
        self.gradients = torch.zeros_like(self.parameters)
        """[size] fp32: `loss_and_gradients` adds to it, the optimizer's step clears it."""
        self.rounded = None if dtype == precision else torch.zeros(end, dtype=dtype, device=device)
        """[size] a copy of the parameters in the dtype that GEMMs read; None where that is their own."""
        self.loaded = False
        """The weights were read from a file."""
        self.address = self.parameters.data_ptr()
        """Where the parameters were when they were last refreshed."""
        self._loss_scale = Precision.of(dtype).loss
        self.unscale = torch.ones((), dtype=precision, device=device) if Precision.of(dtype).scaled else None
        """[]: what gradients are still to be multiplied by when a projection adds them here."""
        self.version = 0
        """Raised by `refresh`: whoever holds a copy of the compute weights compares it."""
        self.optimizer_bytes = 2 * self.parameters.nbytes
        """What the optimizer keeps beside; AdamW's two fp32 moments unless it says otherwise."""
        self._initialise()

    def _initialise(self) -> None:
        # As PEFT: kaiming_uniform_(a=sqrt(5)) for A, that is uniform within inputs^-1/2, and zero for B.
        generator = torch.Generator().manual_seed(self.settings.seed)
        for slot in self.slots.values():
            a = torch.rand(self.settings.rank, slot.inputs, generator=generator) * 2 - 1
            slot.view_a(self.parameters)[: self.settings.rank].copy_(a / math.sqrt(slot.inputs))
        self.refresh()

    @property
    def parameters(self) -> Tensor:
        """The values of `parameter`, [size] fp32, to be changed in place."""
        return self.parameter.data

    @property
    def compute(self) -> Tensor:
        """[size]: the weights as the GEMMs read them."""
        return self.parameters if self.rounded is None else self.rounded

    @property
    def nbytes(self) -> int:
        """Return the bytes of parameters, gradients and the rounded copy."""
        copy = 0 if self.rounded is None else self.rounded.nbytes
        return self.parameters.nbytes + self.gradients.nbytes + copy

    @property
    def trained(self) -> bool:
        """It would be a loss to begin anew: the weights come from a file, or some B is not zero any more."""
        return self.loaded or any(bool(slot.view_b(self.parameters).any()) for slot in self.slots.values())

    def differences(self, settings: LoraSettings) -> str:
        """Name the first of `settings` that asks for another adapter than this one, with both values; "" where none does.

        The seed does where the weights came from it: not in those of a file.
        """
        own = self.settings
        pairs = {
            "r": (settings.rank, own.rank),
            "lora_alpha": (settings.alpha, own.alpha),
            "use_rslora": (settings.rslora, own.rslora),
            "target_modules": (sorted(settings.targets), sorted(own.targets)),
            "layers_to_transform": (settings.layers, own.layers),
            "random_state": (settings.seed, settings.seed if self.loaded else own.seed),
        }
        return next((f"{name}: {asked}, not {had}" for name, (asked, had) in pairs.items() if asked != had), "")

    def refresh(self) -> None:
        """Copy the parameters into the compute weights after they changed.

        Raises ModelError where they were exchanged for others of another size, dtype or device.
        """
        given, own = self.parameters, self.gradients
        if (given.shape, given.dtype, given.device) != (own.shape, own.dtype, own.device):
            raise ModelError(
                f"adapter: has been replaced by {list(given.shape)} {given.dtype} on {given.device}; it is "
                f"{list(own.shape)} {own.dtype} on {own.device}"
            )
        if self.rounded is not None:
            self.rounded.copy_(given)
        self.address = given.data_ptr()
        self.version += 1

    def backward_weights(self, weights: Tensor) -> Tensor:
        """The weights of the tokens' losses as the backward pass takes them: in fp16 the largest is a constant, and
        `unscale` holds what was taken out."""
        if self.unscale is None:
            return weights
        largest = weights.abs().amax().clamp_min(torch.finfo(weights.dtype).tiny)
        self.unscale.copy_(largest / self._loss_scale)
        return weights / largest * self._loss_scale

    def named(self) -> dict[str, Tensor]:
        """Views of the parameters by PEFT's names inside the model: `layers.N.….lora_A.weight`."""
        return self._views(self.parameters)

    def named_gradients(self) -> dict[str, Tensor]:
        """Views of the gradients under the same names."""
        return self._views(self.gradients)

    def _views(self, flat: Tensor) -> dict[str, Tensor]:
        views, rank = {}, self.settings.rank
        for name, slot in self.slots.items():
            views[f"{name}.lora_A.weight"] = slot.view_a(flat)[:rank]
            views[f"{name}.lora_B.weight"] = slot.view_b(flat)[:, :rank]
        return views

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Replace the parameters; `tensors` has exactly the names and shapes of `named`."""
        self.parameters.zero_()
        for name, view in self.named().items():
            view.copy_(tensors[name])
        self.loaded = True
        self.refresh()

    def describe(self) -> dict[str, Any]:
        return {
            "parameters": sum(map(Tensor.numel, self.named().values())),
            "projections": len(self.slots),
            "rank": self.settings.rank,
        }
