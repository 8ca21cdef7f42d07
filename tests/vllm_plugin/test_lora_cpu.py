"""Grouped LoRA arithmetic against the definition, token by token."""

import pytest
import torch

from agentloop_vllm.lora_cpu import group_by_slot

SLOTS, RANK, INPUTS, SLICES = 3, 4, 10, (6, 3, 5)


def test_groups():
    groups = dict(group_by_slot(torch.tensor([2, -1, 0, 2, -1])))
    assert {slot: rows.tolist() for slot, rows in groups.items()} == {0: [2], 2: [0, 3]}
    assert group_by_slot(torch.tensor([1, 1, 1])) == ((1, None),)
    assert group_by_slot(torch.tensor([-1, -1])) == ()


@pytest.mark.parametrize("slots", [[1, 1, 1, 1], [-1, -1, -1], [0, 2, -1, 0, 1, 2, -1], [2]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sum_of_base_and_each_token_s_adapter(slots, dtype):
    from vllm.lora.layers import LoRAMapping

    from agentloop_vllm.lora_cpu import GroupedPunicaWrapper

    generator = torch.Generator().manual_seed(0)
    a = tuple(torch.randn(SLOTS, 1, RANK, INPUTS, generator=generator).to(dtype) for _ in SLICES)
    b = tuple(torch.randn(SLOTS, 1, size, RANK, generator=generator).to(dtype) for size in SLICES)
    x = torch.randn(len(slots), INPUTS, generator=generator).to(dtype)
    y = torch.randn(len(slots), sum(SLICES), generator=generator).to(dtype)
    expected = y.double()
    for row, slot in enumerate(slots):
        if slot >= 0:
            deltas = [
                b[part][slot, 0].double() @ (a[part][slot, 0].double() @ x[row].double()) for part in range(len(SLICES))
            ]
            expected[row] += 0.5 * torch.cat(deltas)

    wrapper = GroupedPunicaWrapper(max_num_batched_tokens=64, max_batches=8, device="cpu")
    # vLLM numbers adapters from 1, and 0 stands for none; slot i holds adapter i + 1.
    mapping = LoRAMapping(
        index_mapping=tuple(slot + 1 for slot in slots),
        prompt_mapping=tuple(slot + 1 for slot in slots),
        is_prefill=True,
    )
    wrapper.update_metadata(mapping, [1, 2, 3], SLOTS + 1, 100)
    wrapper.add_lora_linear(y, x, a, b, 0.5, SLICES)
    tolerance = 1e-4 if dtype == torch.float32 else 0.2
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=tolerance)
