"""The process that writes a base as its quantisation leaves it. Its request is written by dequantised.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from agentloop import job
from agentloop.engine.io.dequantised import dequantised_checkpoint
from agentloop.records import Quantization


def write(request: dict[str, Any]) -> str:
    """The directory. Without a card it holds the numbers with which the trainer computes there, unrounded."""
    quantization = Quantization.of(request["quantization"])
    return str(
        dequantised_checkpoint(
            Path(request["model"]), Path(request["cache"]), quantization, exact=not torch.cuda.is_available()
        )
    )


if __name__ == "__main__":
    job.main(write)
