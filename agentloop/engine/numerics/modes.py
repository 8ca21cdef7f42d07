"""Torch's modes, in which a caller may be and of which the engine's arithmetic must not know.

A buffer made under `torch.inference_mode` can never be trained, autocast rounds what must not be rounded, and a default
dtype or device of the caller's changes what a new tensor is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

HOST = torch.device("cpu")


@contextmanager
def usual_modes() -> Iterator[None]:
    """No gradient, no inference mode, no autocast, fp32 and the CPU by default: a context manager, and a decorator."""
    dtype = torch.get_default_dtype()
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        if torch.is_grad_enabled():
            stack.enter_context(torch.no_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device() != HOST:
            stack.enter_context(HOST)  # only then: it makes every call of torch slower
        if dtype != torch.float32:
            stack.callback(torch.set_default_dtype, dtype)
            torch.set_default_dtype(torch.float32)
        yield
