"""The processes of one training run, a device each, as torchrun starts them.

Every process holds the whole model and computes the gradient of its share of each batch; one all-reduce of the flat LoRA
gradient adds them up. All then make the same optimizer step, so nothing else is ever sent. The first process alone writes
and reports.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as distributed
from torch import Tensor

from agentloop.errors import SettingError

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Ranks:
    index: int = 0
    """Of this process."""
    count: int = 1

    @property
    def leads(self) -> bool:
        """Return True where this process is the one that writes and reports."""
        return self.index == 0

    def add_up(self, tensor: Tensor) -> Tensor:
        """The sum of all processes' tensors, in place, the same bits everywhere."""
        if self.count > 1:
            distributed.all_reduce(tensor)
        return tensor


@contextmanager
def joined() -> Iterator[Ranks]:
    """This process among those that torchrun started with it, or alone. Raises SettingError where devices are missing."""
    if not distributed.is_torchelastic_launched():
        yield Ranks()
        return
    # torchrun puts each process into a session of its own; it must not outlive torchrun.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if torch.cuda.is_available():
        index, devices = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if index >= devices:
            raise SettingError(
                f"training.devices: {os.environ['LOCAL_WORLD_SIZE']}, but this machine has {devices} GPUs"
            )
        torch.cuda.set_device(index)
    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Ranks(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()
