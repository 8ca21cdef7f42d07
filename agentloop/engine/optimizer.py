"""AdamW over the flat LoRA buffer, with the gradient's norm clipped, in two kernels.

State and parameters are plain tensors: what `state` returns is written as safetensors, and a run that loads it continues
bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from agentloop.engine.lora.buffer import LoraBuffer
from agentloop.engine.numerics.modes import usual_modes
from agentloop.errors import SettingError
from agentloop_kernels.adamw import adamw, clip_factor, gradient_norm
from agentloop_kernels.adamw_8bit import adamw_8bit, new_state


class FlatAdamW:
    """AdamW with decoupled weight decay (arXiv 1711.05101) over a model's adapter: the same update as torch.optim.AdamW.

    `lora` is `model.lora`. `bits=8` keeps both moments in 8 bits with a scale for each 256 values (arXiv 2110.02861), which
    takes 6 bytes a parameter less. Raises SettingError where `bits` is neither 8 nor 32.
    """

    @usual_modes()
    def __init__(
        self,
        lora: LoraBuffer,
        lr: float = 2e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        bits: Literal[8, 32] = 32,
    ) -> None:
        if bits not in (8, 32):
            raise SettingError(f"bits: {bits!r} is neither 8 nor 32")
        self.lora, self.lr, self.betas, self.eps, self.weight_decay, self.bits = (
            lora,
            lr,
            betas,
            eps,
            weight_decay,
            bits,
        )
        device = lora.parameters.device
        if bits == 8:
            self.first, self.second = new_state(lora.parameters.numel(), device)
        else:
            self.first, self.second = torch.zeros_like(lora.parameters), torch.zeros_like(lora.parameters)
        lora.optimizer_bytes = self.first.nbytes + self.second.nbytes
        self.steps = torch.zeros((), dtype=torch.float32, device=device)
        self._rate = torch.zeros_like(self.steps)

    @usual_modes()
    def step(self, *, learning_rate: float | None = None, max_grad_norm: float | None = None) -> Tensor:
        """Update the adapter from the accumulated gradients, clear them, and return their norm before clipping: [] fp32.

        `learning_rate`: of this step; None: the `lr` that the optimizer was made with. `max_grad_norm`: norm to which the
        gradients are clipped; None: they are not.
        """
        lora = self.lora
        norm = gradient_norm(lora.gradients)
        clip = clip_factor(norm, max_grad_norm) if max_grad_norm else torch.ones_like(norm)
        self.steps += 1
        self._rate.fill_(self.lr if learning_rate is None else learning_rate)
        update = adamw_8bit if self.bits == 8 else adamw
        update(
            lora.parameters,
            lora.gradients,
            self.first,
            self.second,
            lr=self._rate,
            step=self.steps,
            clip=clip,
            beta1=self.betas[0],
            beta2=self.betas[1],
            eps=self.eps,
            weight_decay=self.weight_decay,
            compute_copy=lora.rounded,
        )
        lora.version += 1
        lora.gradients.zero_()
        return norm

    def state(self) -> dict[str, Tensor]:
        """Return everything that the next step depends on, by name, on the CPU: parameters, both moments, number of steps.

        With 8 bits `first` holds the levels of both moments and `second` their scales.
        """
        tensors = {"parameters": self.lora.parameters, "first": self.first, "second": self.second, "steps": self.steps}
        return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}

    @usual_modes()
    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from what `state` returned, bit for bit."""
        self.lora.parameters.copy_(tensors["parameters"])
        self.first.copy_(tensors["first"])
        self.second.copy_(tensors["second"])
        self.steps.copy_(tensors["steps"])
        self.lora.gradients.zero_()
        self.lora.refresh()
