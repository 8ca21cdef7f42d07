"""Every kernel compiles for every architecture at Gemma 3n's widths, and what reads whole rows or heads at Gemma 3's, in
bf16 (sm_75: fp16), without a GPU; for sm_75 also what training and generation launch in fp16 on whole models.

The launchers run on meta tensors and their launches are noted instead of sent; each is then compiled for the target.
What must hold: shared memory within the card's limit, and (next to) no registers spilled.
"""

import json
import sys
from pathlib import Path

import pytest
import torch

from agentloop_kernels import (
    adamw,
    adamw_8bit,
    add_norm,
    altup,
    attention,
    attention_triton,
    decode_attention,
    extension,
    geglu,
    loss,
    magnitude,
    nf4,
    nf4_matmul,
    norm,
    ple,
    residual,
    rope,
    sparse_geglu,
)
from agentloop_kernels.launching import Launch, planning

sys.path.insert(0, str(Path(__file__).parents[2] / "kernels" / "benchmarks"))
from compiled import SHARED_LIMIT, planned, summary, usage  # noqa: E402

SPILL_LIMIT = 32
"""Bytes a thread. Attention on sm_90 spills 24: smaller tiles spill none and are slower."""
TOKENS, HIDDEN, INTER, STREAMS, HEADS, KV_HEADS, HEAD_DIM, WORDS = 64, 2048, 16384, 4, 8, 2, 256, 262400
GEMMA3 = [(1152, 4, 1, 256), (2560, 8, 4, 256), (3840, 16, 8, 256), (5376, 32, 16, 128)]
"""(hidden, heads, kv_heads, head_dim) of 1B, 4B, 12B, 27B."""
EPS = 1e-6


def launches(compute: torch.dtype) -> None:
    """Every launcher once, as the engine calls it for E4B, which computes in `compute`."""

    def tensor(*shape: int, dtype: torch.dtype = compute) -> torch.Tensor:
        return torch.empty(*shape, dtype=dtype, device="meta")

    row, wide, w = tensor(TOKENS, HIDDEN), tensor(TOKENS, 2 * INTER), tensor(HIDDEN)
    streams, projections = tensor(STREAMS, TOKENS, HIDDEN), tensor(STREAMS - 1, TOKENS, HIDDEN)
    router, prediction = tensor(STREAMS, HIDDEN, dtype=torch.float32), tensor(16, 4, dtype=torch.float32)
    coefs, gains = tensor(TOKENS, 16, dtype=torch.float32), tensor(TOKENS, 4, dtype=torch.float32)
    head = {"router": router, "prediction": prediction, "input_norm": w, "eps": EPS}
    tail = {"router": router, "correction": gains, "feedforward_norm": w, "scale": w, "eps": EPS}
    norms = {"attention_norm": w, "laurel_norm": w, "feedforward_norm": w, "eps": EPS}
    norm.triton_rms_norm(row, w, EPS)
    norm.triton_rms_norm_backward(row, row, w, EPS, residual=row)
    add_norm.triton_add_norm(row, row, norm=w, next_norm=w, eps=EPS)
    add_norm.triton_add_norm_backward(row, row, row, row, norm=w, next_norm=w, eps=EPS)
    residual.triton_merge_attention(row, row, row, input_norm=w, **norms)
    residual.triton_merge_attention_backward(row, row, row, row, row, **norms)
    altup.triton_predict(streams, **head)
    altup.triton_correct(row, row, row, **tail)
    altup.triton_advance(streams, coefs, row, gains, row, ple_norm=w, eps=EPS)
    altup.triton_advance_backward(streams, row, ple_norm=w, eps=EPS)
    altup.triton_correct_backward(streams, row, row, row, row, gains, **tail)
    altup.triton_predict_backward(streams, streams, coefs, row, row, **head)
    magnitude.triton_embed_streams(row, projections)
    magnitude.triton_unembed_streams(row, projections, w, EPS)
    magnitude.triton_unembed_streams_backward(row, row, projections, w, EPS)
    geglu.triton_geglu(wide)
    geglu.triton_geglu_backward(tensor(TOKENS, INTER), wide, dgate_up=wide, hidden=tensor(TOKENS, INTER))
    _, statistics = sparse_geglu.triton_sparse_geglu(wide, 1.6)
    hidden = tensor(TOKENS, INTER)
    sparse_geglu.triton_sparse_geglu_backward(hidden, wide, statistics, 1.6, dgate_up=wide, hidden=hidden)
    ple.triton_ple_gate(tensor(TOKENS, 256), tensor(TOKENS, 35, 256)[:, 3])
    ple.triton_ple_gate_backward(tensor(TOKENS, 256), tensor(TOKENS, 256), tensor(TOKENS, 35, 256)[:, 3])
    ple.triton_ple_inputs(
        tensor(TOKENS, 8960), tensor(TOKENS, 8960), tensor(256), scale=HIDDEN**-0.5, table_scale=16.0, eps=EPS
    )
    qkv, table = tensor(TOKENS, (HEADS + 2 * KV_HEADS) * HEAD_DIM), tensor(2048, HEAD_DIM, dtype=torch.float32)
    positions = tensor(TOKENS, dtype=torch.int32)
    options = {
        "heads": HEADS, "kv_heads": KV_HEADS, "query_norm": tensor(256), "key_norm": tensor(256), "eps": EPS
    }  # fmt: skip
    q, k, v = rope.triton_qkv_rope(qkv, table, positions, **options)
    rope.triton_qkv_rope_backward(q, k.float(), v.float(), qkv, table, positions, **options)
    plan = attention.AttentionPlan(positions, 64, 512, False, positions, positions, positions, positions)
    for softcap in (None, 50.0):  # Gemma 2's
        out, lse = attention_triton.triton_attention(q, k, v, plan, scale=1.0, softcap=softcap, out=None)
        attention_triton.triton_attention_backward(
            q, q, k, v, out, lse, plan, scale=1.0, softcap=softcap, dquery=None, dkey=k.float(), dvalue=v.float(),
            accumulate=True,
        )  # fmt: skip
    labels = tensor(TOKENS, dtype=torch.int64)
    loss.triton_softcap_cross_entropy(tensor(TOKENS, WORDS), labels, 30.0)
    loss.triton_softcap_cross_entropy(tensor(TOKENS, WORDS), labels, None)
    seen = loss.Observed(tensor(TOKENS, dtype=torch.float32), tensor(TOKENS, dtype=torch.bool))
    loss.triton_softcap_cross_entropy(tensor(TOKENS, WORDS), labels, 30.0, observed=seen)
    loss.triton_softcap_cross_entropy(tensor(TOKENS, WORDS), labels, None, observed=seen)
    flat, scalar = tensor(4096, dtype=torch.float32), tensor((), dtype=torch.float32)
    adamw.triton_adamw(
        flat, flat, flat, flat, lr=scalar, step=scalar, clip=scalar, compute_copy=tensor(4096)
    )  # fmt: skip
    bytes_, blocks = tensor(2, 4096, dtype=torch.uint8), tensor(2, 16, dtype=torch.float32)
    adamw_8bit.triton_adamw_8bit(
        flat, flat, bytes_, blocks, lr=scalar, step=scalar, clip=scalar, compute_copy=tensor(4096)
    )  # fmt: skip
    sizes = {"rank": 16, "inputs": HIDDEN, "outputs": 3072, "scale": 1.0}
    rows = [slice(0, 2048), slice(2048, 2560), slice(2560, 3072)]
    extension.triton_write_lora(tensor(48 * HIDDEN + 16 * 3072), tensor(3120, 2096), rows, **sizes)
    codes = tensor(INTER * HIDDEN // 2, dtype=torch.uint8), tensor(INTER * HIDDEN // 64, dtype=torch.uint8)
    packed = nf4.Nf4(*codes, tensor(2048, dtype=torch.float32), scalar, (INTER, HIDDEN))
    nf4.triton_dequantise(packed, out=tensor(INTER, HIDDEN + 32)[:, :HIDDEN])
    cells = tensor(8, KV_HEADS, 2048, HEAD_DIM)
    for rows in (1, 8):
        nf4_matmul.triton_nf4_matmul(tensor(rows, HIDDEN + 32)[:, :HIDDEN], packed)
        for softcap in (None, 50.0):
            decode_attention.triton_decode_attention(
                q[:rows], cells[:rows], cells[:rows], positions[:rows], softcap=softcap
            )


def gemma3_launches(compute: torch.dtype) -> None:
    """What computes on whole rows or heads, once for each size: norms in fp32, streams in fp32 and in `compute`."""
    for hidden, heads, kv_heads, head_dim in GEMMA3:
        y, w = torch.empty(TOKENS, hidden, dtype=compute, device="meta"), torch.empty(hidden, device="meta")
        for stream in (y, y.float()):
            norm.triton_rms_norm(stream, w, EPS, out=y)
            norm.triton_rms_norm_backward(y, stream, w, EPS, residual=stream, out=stream)
            add_norm.triton_add_norm(stream, y, norm=w, next_norm=w, eps=EPS, normed=y)
            add_norm.triton_add_norm(stream, y, norm=w, next_norm=None, eps=EPS)
            for branch_norm in (w, None):  # None: Gemma 1
                add_norm.triton_add_norm_backward(stream, y, stream, y, norm=branch_norm, next_norm=w, eps=EPS)
                add_norm.triton_add_norm_backward(stream, None, None, y, norm=branch_norm, next_norm=None, eps=EPS)
        qkv = torch.empty(TOKENS, (heads + 2 * kv_heads) * head_dim, dtype=compute, device="meta")
        table, w = torch.empty(2048, head_dim, device="meta"), torch.empty(head_dim, device="meta")
        positions = torch.empty(TOKENS, dtype=torch.int32, device="meta")
        for weight in (w, None):  # None: Gemma 1 and 2
            options = {"query_norm": weight, "key_norm": weight, "norm_values": False, "eps": EPS}
            options |= {"heads": heads, "kv_heads": kv_heads}
            d = rope.triton_qkv_rope(qkv, table, positions, **options)
            rope.triton_qkv_rope_backward(*d, qkv, table, positions, **options)


def failures(launched: list[Launch], capability: tuple[int, int]) -> list[str]:
    """What does not keep to the limits."""
    found = [(launch.name, usage(launch, capability)) for launch in launched]
    limit = SHARED_LIMIT[capability]
    return [f"{name}: {used}" for name, used in found if used.shared > limit or used.spilled > SPILL_LIMIT]


# What differs between sm_86 and sm_89, or sm_80 and both, is the tiles of attention.
@pytest.mark.parametrize(
    ("capability", "only"),
    [
        ((8, 6), None),
        pytest.param((9, 0), None, marks=pytest.mark.slow),
        ((7, 5), "_triton"),
        ((8, 0), "attention_triton"),
        ((8, 9), "attention_triton"),
    ],
)
def test_compiles_within_the_limits(capability, only):
    with planning(capability) as launched:
        launches(torch.bfloat16 if capability >= (8, 0) else torch.float16)
    chosen = [launch for launch in launched if only is None or only in launch.module]
    assert not failures(chosen, capability)
    assert len(launched) > 30


@pytest.mark.parametrize(
    "capability", [pytest.param((7, 5), marks=pytest.mark.slow), (8, 6), pytest.param((9, 0), marks=pytest.mark.slow)]
)
def test_gemma3_compiles_within_the_limits(capability):
    with planning(capability) as launched:
        gemma3_launches(torch.bfloat16 if capability >= (8, 0) else torch.float16)
    assert not failures(launched, capability)
    assert len(launched) > 50


PRODUCTS = ("attention_triton", "decode_attention", "nf4_matmul")
"""Where `tl.dot` multiplies: what takes shared memory and most registers."""


@pytest.mark.parametrize(
    ("model", "only"),
    [("270M", PRODUCTS), *(pytest.param(name, None, marks=pytest.mark.slow) for name in ("270M", "E4B", "4B"))],
)
def test_a_model_in_fp16_fits_a_card_without_bf16(model, only):
    """T4 and RTX 20: 64 KiB of shared memory, and no tensor cores that Triton uses."""
    paths = planned(model, (7, 5), torch.float16)
    assert all(len(launched) > 15 for launched in paths.values())
    chosen = [x for launched in paths.values() for x in launched if only is None or x.module.endswith(only)]
    names = {launch.name for launch in chosen}
    assert names >= {"_forward_kernel", "_dquery_kernel", "_dkey_dvalue_kernel", "_decode_kernel", "_nf4_matmul_kernel"}
    assert not failures(chosen, (7, 5))


def test_the_docs_table_of_cards_is_the_record():
    root = Path(__file__).parents[2]
    record = json.loads((root / "kernels/benchmarks/results/compiled.json").read_text())
    rows = (root / "docs/engine.md").read_text().splitlines()
    assert len(record["cards"]) == 9
    assert all(summary(record, name) in rows for name in record["cards"])
