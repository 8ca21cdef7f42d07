"""NF4 against bitsandbytes on the CPU."""

import bitsandbytes.functional as bnb
import pytest
import torch

from agentloop_kernels import nf4
from agentloop_kernels.blockwise import dynamic_code

CPU = torch.device("cpu")


def from_bitsandbytes(packed: torch.Tensor, state: bnb.QuantState) -> nf4.Nf4:
    return nf4.Nf4(packed.view(-1), state.absmax, state.state2.absmax, state.offset, tuple(state.shape))


@pytest.fixture(params=[torch.float32, torch.float16, torch.bfloat16], ids=["fp32", "fp16", "bf16"])
def weight(request) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(96, 320, generator=generator).to(request.param)


def test_codes_equal_bitsandbytes():
    assert torch.equal(dynamic_code(CPU), bnb.create_dynamic_map())
    assert torch.equal(dynamic_code(CPU, signed=False), bnb.create_dynamic_map(signed=False))
    assert torch.equal(nf4.nf4_code(CPU), bnb.get_4bit_type("nf4", device="cpu")[:16])


def test_dequantise_is_bit_exact(weight):
    packed, state = bnb.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
    theirs = bnb.dequantize_4bit(packed, state)
    ours = nf4.dequantise(from_bitsandbytes(packed, state), dtype=weight.dtype)
    assert torch.equal(ours, theirs)


def test_quantise_equals_bitsandbytes(weight):
    packed, state = bnb.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
    ours = nf4.quantise(weight)
    assert torch.equal(ours.packed, packed.view(-1))
    assert torch.equal(ours.absmax_scale, state.state2.absmax)
    assert torch.equal(ours.offset, state.offset)
    # bitsandbytes' CPU code looks up the nearest level in a table and misses it in some 0.2 % of blocks.
    off = (ours.absmax8.int() - state.absmax.int()).abs()
    assert off.max() <= 2 and (off > 0).float().mean() < 0.02
    assert (distance(ours, weight, ours.absmax8) <= distance(ours, weight, state.absmax) + 1e-6).all()


def distance(packed: nf4.Nf4, weight: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Of each block's scale from the level that its code stands for."""
    absmax = weight.float().view(-1, nf4.BLOCK).abs().amax(-1)
    blocks = torch.arange(absmax.numel()) // nf4.NESTED_BLOCK
    return (dynamic_code(CPU)[codes.long()] * packed.absmax_scale[blocks] + packed.offset - absmax).abs()


def test_quantise_takes_the_nearest_scale(weight):
    ours = nf4.quantise(weight)
    absmax = weight.float().view(-1, nf4.BLOCK).abs().amax(-1)
    blocks = torch.arange(absmax.numel()) // nf4.NESTED_BLOCK
    levels = dynamic_code(CPU)[None, :] * ours.absmax_scale[blocks][:, None] + ours.offset
    distance = (levels - absmax[:, None]).abs()
    chosen = distance.gather(1, ours.absmax8.long()[:, None]).squeeze(1)
    assert (chosen <= distance.amin(1) + 1e-6).all()


def test_zero_blocks_stay_zero():
    weight = torch.zeros(2, 128)
    weight[1, 64:] = 1.0
    assert torch.equal(nf4.dequantise(nf4.quantise(weight), dtype=torch.float32)[0], torch.zeros(128))


def test_dequantise_into_a_corner(weight):
    packed = nf4.quantise(weight)
    whole = torch.full((100, 352), float("nan"), dtype=weight.dtype)
    nf4.dequantise(packed, out=whole[:96, :320])
    assert torch.equal(whole[:96, :320], nf4.dequantise(packed, dtype=weight.dtype))
    assert whole[96:].isnan().all() and whole[:, 320:].isnan().all()


def test_tensors_round_trip(weight):
    packed = nf4.quantise(weight)
    again = nf4.Nf4.from_tensors(packed.tensors())
    assert again.shape == packed.shape
    assert torch.equal(nf4.dequantise(again), nf4.dequantise(packed))


def test_size():
    packed = nf4.quantise(torch.zeros(256, 2048))
    assert packed.nbytes / (256 * 2048) == pytest.approx(0.5159, abs=1e-4)


def test_columns_must_be_whole_blocks():
    with pytest.raises(ValueError, match="multiple of 64"):
        nf4.quantise(torch.zeros(4, 100))
