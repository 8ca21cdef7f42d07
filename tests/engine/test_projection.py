"""The extended matrix: W and LoRA of a group in one GEMM, forward and backward."""

from __future__ import annotations

import os
import subprocess
import sys

import torch

from agentloop.engine.lora.buffer import LoraBuffer, LoraSettings
from agentloop.engine.lora.projection import ProjectionGroup, Workspace

CPU = torch.device("cpu")


def group_with(targets: tuple[str, ...]) -> tuple[ProjectionGroup, LoraBuffer, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    weights = {
        f"layers.0.{name}": torch.randn(rows, 64, dtype=torch.float64)
        for name, rows in (("q_proj", 48), ("k_proj", 16), ("v_proj", 16), ("linear_left", 8))
    }
    group = ProjectionGroup("query", list(weights.items()))
    settings = LoraSettings(rank=8, alpha=24, targets=targets)
    lora = LoraBuffer(
        settings,
        [[(n, 64, w.shape[0]) for n, w in weights.items() if settings.covers(0, n.rpartition(".")[2])]],
        device=CPU,
        dtype=torch.float64,
    )
    lora.parameters.normal_()
    group.attach(lora, CPU)
    return group, lora, weights


def test_one_product_computes_weight_and_adapter():
    for targets in (("q_proj", "k_proj", "v_proj"), ("q_proj", "v_proj"), ("v_proj",)):
        group, lora, weights = group_with(targets)
        matrix = Workspace(CPU, torch.float64, resident=True).matrix(group)
        x = group.new_input(5, matrix)
        x[:, :64].normal_()
        group.fill_tail(matrix, x)
        y = group.multiply(matrix, x)
        named = lora.named()
        for name, weight in weights.items():
            expected = x[:, :64] @ weight.T
            if f"{name}.lora_A.weight" in named:
                expected = (
                    expected + 3.0 * x[:, :64] @ named[f"{name}.lora_A.weight"].T @ named[f"{name}.lora_B.weight"].T
                )
            torch.testing.assert_close(y[:, group.rows[name]], expected)


KERNEL = """
import torch
from agentloop_kernels.extension import reference_write_lora, triton_write_lora
for rows in ([slice(0, 24), slice(24, 32), slice(32, 40)], [slice(0, 24), slice(32, 40)], [slice(4, 40)]):
    flat = torch.randn(8 * len(rows) * 64 + 8 * sum(r.stop - r.start for r in rows))
    expected, ours = torch.zeros(48 + 24, 64 + 24), torch.zeros(48 + 24, 64 + 24)
    reference_write_lora(flat, expected, rows, rank=8, inputs=64, outputs=48, scale=2.0)
    triton_write_lora(flat, ours, rows, rank=8, inputs=64, outputs=48, scale=2.0)
    assert torch.equal(ours, expected)
"""


def test_kernel_equals_reference():
    """In the interpreter, which must be chosen before Triton is imported: in a process of its own."""
    subprocess.run([sys.executable, "-c", KERNEL], check=True, env={**os.environ, "TRITON_INTERPRET": "1"})
