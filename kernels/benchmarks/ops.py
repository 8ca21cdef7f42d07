"""Every kernel against the roofline of the card it runs on, and against the same operation in eager torch.

    PYTHONPATH=kernels python kernels/benchmarks/ops.py [--tokens 8192] [--only altup] [--json OUT]

The two ceilings are measured first: a device-to-device copy (GB/s, bytes read and written) and a square bf16 GEMM. Each
case counts the bytes it must move, every input once and every output once, and its matrix FLOPs; "share" is the larger
of both over its ceiling and the measured time. `do_bench` clears the L2 between runs. Shapes are Gemma 3n E4B's.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import triton
from torch import Tensor
from triton.testing import do_bench

from agentloop_kernels import (
    adamw,
    adamw_8bit,
    add_norm,
    altup,
    altup_reference,
    attention,
    attention_triton,
    geglu,
    loss,
    magnitude,
    nf4,
    norm,
    ple,
    residual,
    rope,
    sparse_geglu,
)

HIDDEN, INTER, STREAMS, HEADS, KV_HEADS, HEAD_DIM, PLE, LAYERS, WORDS = 2048, 16384, 4, 8, 2, 256, 256, 35, 262_400
LORA_PARAMETERS = 37_190_000
EPS = 1e-6


@dataclass(frozen=True)
class Case:
    name: str
    bytes: int
    """Moved at least."""
    flops: int
    ours: Callable[[], object]
    peer: Callable[[], object]
    peer_name: str = "eager torch"


@dataclass(frozen=True)
class Result:
    name: str
    milliseconds: float
    gigabytes_per_second: float
    teraflops: float
    share: float
    peer_name: str
    peer_milliseconds: float


def normal(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(*shape, device="cuda", dtype=torch.float32).to(dtype)


def row_cases(tokens: int) -> Iterator[Case]:
    """Norms, the residual sums of Gemma 3n and Gemma 3, AltUp. A row is 4,096 bytes."""
    row = 2 * HIDDEN * tokens
    x, y, z, d, e = (normal(tokens, HIDDEN) for _ in range(5))
    out, out2, out3 = (torch.empty_like(x) for _ in range(3))
    w = normal(HIDDEN)
    streams, dstreams = normal(STREAMS, tokens, HIDDEN), normal(STREAMS, tokens, HIDDEN)
    streams_out, projections = torch.empty_like(streams), normal(STREAMS - 1, tokens, HIDDEN)
    router = altup.fold_router(normal(STREAMS, HIDDEN), w)
    prediction = normal(STREAMS**2, STREAMS, dtype=torch.float32) / 8
    correction = normal(STREAMS, STREAMS, dtype=torch.float32) / 8
    head = {"router": router, "prediction": prediction, "input_norm": w, "eps": EPS}
    tail = {"router": router, "correction": correction, "feedforward_norm": w, "scale": w, "eps": EPS}
    coefs, active, normed = altup.predict(streams, **head)
    activated, gains, first = altup.correct(x, y, active, **tail)
    norms = {"attention_norm": w, "laurel_norm": w, "feedforward_norm": w, "eps": EPS}

    def case(name: str, rows: int, ours: Callable[[], object], peer: Callable[[], object], **more: str) -> Case:
        return Case(name, rows * row, 0, ours, peer, **more)

    yield case(
        "norm.rms_norm", 2, lambda: norm.rms_norm(x, w, EPS, out=out),
        lambda: torch.nn.functional.rms_norm(x, (HIDDEN,), w, EPS), peer_name="torch.nn.functional.rms_norm",
    )  # fmt: skip
    yield case(
        "norm.rms_norm_backward", 3, lambda: norm.rms_norm_backward(x, y, w, EPS, out=out),
        lambda: norm.reference_rms_norm_backward(x, y, w, EPS),
    )  # fmt: skip
    yield case(
        "residual.merge_attention", 5,
        lambda: residual.merge_attention(x, y, z, input_norm=w, merged=out, normed=out2, **norms),
        lambda: residual.reference_merge_attention(x, y, z, input_norm=w, **norms),
    )  # fmt: skip
    yield case(
        "residual.merge_attention_backward", 8,
        lambda: residual.merge_attention_backward(
            x, y, z, d, e, dsum=out, dattention=out2, dlaurel=out3, **norms
        ),
        lambda: residual.reference_merge_attention_backward(x, y, z, d, e, **norms),
    )  # fmt: skip
    sandwich = {"norm": w.float(), "next_norm": w.float(), "eps": EPS}
    yield case(
        "add_norm.add_norm", 4, lambda: add_norm.add_norm(x, y, total=out, normed=out2, **sandwich),
        lambda: add_norm.reference_add_norm(x, y, **sandwich),
    )  # fmt: skip
    yield case(
        "add_norm.add_norm_backward", 6,
        lambda: add_norm.add_norm_backward(x, y, z, d, dsum=out, dy=out2, **sandwich),
        lambda: add_norm.reference_add_norm_backward(x, y, z, d, **sandwich),
    )  # fmt: skip
    yield case(
        "altup.predict", 6, lambda: altup.predict(streams, coefs=coefs, active=out, normed=out2, **head),
        lambda: altup_reference.reference_predict(streams, **head),
    )  # fmt: skip
    yield case(
        "altup.correct", 5, lambda: altup.correct(x, y, z, activated=out, gains=gains, first=out2, **tail),
        lambda: altup_reference.reference_correct(x, y, z, **tail),
    )  # fmt: skip
    given = (streams, coefs, activated, gains, z)
    yield case(
        "altup.advance", 10, lambda: altup.advance(*given, ple_norm=w, eps=EPS, out=streams_out),
        lambda: altup_reference.reference_advance(*given, ple_norm=w, eps=EPS),
    )  # fmt: skip
    yield case(
        "altup.advance_backward", 5,
        lambda: altup.advance_backward(dstreams, z, ple_norm=w, eps=EPS, dprojected=out),
        lambda: altup_reference.reference_advance_backward(dstreams, z, ple_norm=w, eps=EPS),
    )  # fmt: skip
    back = (dstreams, d, y, active, activated, gains)
    yield case(
        "altup.correct_backward", 11,
        lambda: altup.correct_backward(*back, dactivated=out, dfeedforward=out2, **tail),
        lambda: altup_reference.reference_correct_backward(*back, **tail),
    )  # fmt: skip
    again = (dstreams, streams, coefs, d, e)
    yield case(
        "altup.predict_backward", 14, lambda: altup.predict_backward(*again, **head),
        lambda: altup_reference.reference_predict_backward(*again, **head),
    )  # fmt: skip
    yield case(
        "magnitude.unembed_streams", 5, lambda: magnitude.unembed_streams(x, projections, w, EPS, out=out),
        lambda: magnitude.reference_unembed_streams(x, projections, w, EPS),
    )  # fmt: skip
    dprojections = torch.empty_like(projections)
    yield case(
        "magnitude.unembed_streams_backward", 9,
        lambda: magnitude.unembed_streams_backward(
            y, x, projections, w, EPS, dfirst=out, dprojected=dprojections
        ),
        lambda: magnitude.reference_unembed_streams_backward(y, x, projections, w, EPS),
    )  # fmt: skip


def feedforward_cases(tokens: int) -> Iterator[Case]:
    gate_up, dh = normal(tokens, 2 * INTER), normal(tokens, INTER)
    h, dgate_up = torch.empty_like(dh), torch.empty_like(gate_up)
    unit = 2 * INTER * tokens
    yield Case("geglu.geglu", 3 * unit, 0, lambda: geglu.geglu(gate_up, out=h), lambda: geglu.reference_geglu(gate_up))
    yield Case(
        "geglu.geglu_backward", 6 * unit, 0,
        lambda: geglu.geglu_backward(dh, gate_up, dgate_up=dgate_up, hidden=h),
        lambda: geglu.reference_geglu_backward(dh, gate_up, dgate_up=dgate_up, hidden=h),
    )  # fmt: skip
    t = sparse_geglu.sparsity_threshold(0.95, torch.bfloat16)
    _, statistics = sparse_geglu.sparse_geglu(gate_up, t)
    yield Case(
        "sparse_geglu.sparse_geglu", 3 * unit, 0,
        lambda: sparse_geglu.sparse_geglu(gate_up, t, out=h, statistics=statistics),
        lambda: sparse_geglu.reference_sparse_geglu(gate_up, t),
    )  # fmt: skip
    yield Case(
        "sparse_geglu.sparse_geglu_backward", 6 * unit, 0,
        lambda: sparse_geglu.sparse_geglu_backward(dh, gate_up, statistics, t, dgate_up=dgate_up, hidden=h),
        lambda: sparse_geglu.reference_sparse_geglu_backward(dh, gate_up, statistics, t, dgate_up=dgate_up, hidden=h),
    )  # fmt: skip
    gate, inputs = normal(tokens, PLE), normal(tokens, LAYERS, PLE)
    small = torch.empty_like(gate)
    yield Case(
        "ple.ple_gate", 3 * 2 * PLE * tokens, 0, lambda: ple.ple_gate(gate, inputs[:, 3], out=small),
        lambda: ple.reference_ple_gate(gate, inputs[:, 3]),
    )  # fmt: skip
    yield Case(
        "ple.ple_gate_backward", 4 * 2 * PLE * tokens, 0,
        lambda: ple.ple_gate_backward(small, gate, inputs[:, 3], out=small),
        lambda: ple.reference_ple_gate_backward(small, gate, inputs[:, 3]),
    )  # fmt: skip
    flat, rows, w = normal(tokens, LAYERS * PLE), normal(tokens, LAYERS * PLE), normal(PLE)
    options = {"scale": HIDDEN**-0.5, "table_scale": PLE**0.5, "eps": EPS}
    yield Case(
        "ple.ple_inputs", 3 * flat.nbytes, 0, lambda: ple.ple_inputs(flat, rows, w, out=rows, **options),
        lambda: ple.reference_ple_inputs(flat, rows, w, **options),
    )  # fmt: skip


def attention_cases(tokens: int) -> Iterator[Case]:
    count = HEADS + 2 * KV_HEADS
    qkv, dqkv = normal(tokens, count * HEAD_DIM), torch.empty(tokens, count * HEAD_DIM, device="cuda").bfloat16()
    table = rope.rope_table(1e4 ** -(torch.arange(0, HEAD_DIM, 2, device="cuda") / HEAD_DIM), tokens)
    positions = torch.arange(tokens, device="cuda", dtype=torch.int32)
    options = {
        "heads": HEADS, "kv_heads": KV_HEADS, "query_norm": normal(HEAD_DIM), "key_norm": normal(HEAD_DIM), "eps": EPS
    }  # fmt: skip
    q, k, v = rope.qkv_rope(qkv, table, positions, **options)
    parts = {"query": q, "key": k, "value": v}
    yield Case(
        "rope.qkv_rope", 2 * qkv.nbytes, 0, lambda: rope.qkv_rope(qkv, table, positions, **options, **parts),
        lambda: rope.reference_qkv_rope(qkv, table, positions, **options),
    )  # fmt: skip
    dq = normal(tokens, HEADS, HEAD_DIM)
    dk, dv = (normal(tokens, KV_HEADS, HEAD_DIM, dtype=torch.float32) for _ in range(2))
    yield Case(
        "rope.qkv_rope_backward", 2 * qkv.nbytes + dq.nbytes + dk.nbytes + dv.nbytes, 0,
        lambda: rope.qkv_rope_backward(dq, dk, dv, qkv, table, positions, **options, out=dqkv),
        lambda: rope.reference_qkv_rope_backward(dq, dk, dv, qkv, table, positions, **options),
    )  # fmt: skip
    # Scores of a trained model are spread by a few units; unit normals times sqrt(256) would be one-hot.
    q = q / 4
    segments = torch.arange(0, tokens + 1, min(tokens, 2048), device="cuda", dtype=torch.int32)
    lengths = segments.diff().tolist()
    some = torch.arange(tokens, device="cuda", dtype=torch.int32)
    some = some[(some // 64) % 10 < 3].contiguous()
    off = {"scale": 1.0, "softcap": None}
    for window in (512, None):
        label = "full" if window is None else f"window {window}"
        pairs = sum(min(i + 1, window or i + 1) for n in lengths for i in range(n))
        plan = attention.plan_attention(segments, tokens, min(tokens, 2048), window=window)
        out, lse = attention_triton.triton_attention(q, k, v, plan, out=None, **off)
        none = {"dquery": None, "dkey": None, "dvalue": None, "accumulate": False}
        flops, traffic = 4 * HEADS * HEAD_DIM * pairs, 2 * q.nbytes + k.nbytes + v.nbytes

        def forward(plan=plan):
            return attention_triton.triton_attention(q, k, v, plan, out=None, **off)

        def backward(plan=plan, out=out, lse=lse, none=none):
            return attention_triton.triton_attention_backward(dq, q, k, v, out, lse, plan, **none, **off)

        def flash(plan=plan):
            return attention.flash_attention(q, k, v, plan, scale=1.0)

        flash_out, flash_lse = flash()

        def flash_backward(plan=plan, out=flash_out, lse=flash_lse):
            return attention.flash_attention_backward(dq, q, k, v, out, lse, plan, scale=1.0)

        peer = "FlashAttention-2 in torch"
        yield Case(f"attention, {label}", traffic, flops, forward, flash, peer)
        yield Case(f"attention backward, {label}", 3 * traffic, 5 * flops // 2, backward, flash_backward, peer)
        # Three tenths of the rows are queries, in runs of 64; the peer computes all rows.
        few = attention.plan_attention(segments, tokens, min(tokens, 2048), window=window, query_rows=some)
        inside = (some % min(tokens, 2048)).tolist()
        fewer = 4 * HEADS * HEAD_DIM * sum(min(i + 1, window or i + 1) for i in inside)
        q_few, dq_few = q[some.long()].contiguous(), dq[some.long()].contiguous()
        out_few, lse_few = attention_triton.triton_attention(q_few, k, v, few, out=None, **off)

        def forward_few(few=few, q=q_few):
            return attention_triton.triton_attention(q, k, v, few, out=None, **off)

        def backward_few(few=few, q=q_few, dq=dq_few, out=out_few, lse=lse_few, none=none):
            return attention_triton.triton_attention_backward(dq, q, k, v, out, lse, few, **none, **off)

        yield Case(f"attention, {label}, 30 % queries", traffic, fewer, forward_few, flash, f"{peer}, all rows")
        yield Case(
            f"attention backward, {label}, 30 % queries", 2 * traffic, 5 * fewer // 2, backward_few, flash_backward,
            f"{peer}, all rows",
        )  # fmt: skip


def weight_cases() -> Iterator[Case]:
    weight = nf4.quantise(normal(INTER, HIDDEN))
    wide = torch.empty(INTER, HIDDEN + 32, device="cuda", dtype=torch.bfloat16)
    moved = weight.nbytes + 2 * INTER * HIDDEN
    try:
        import bitsandbytes.functional as bnb
    except ImportError:
        peer, name = (lambda: nf4.reference_dequantise(weight)), "eager torch"
    else:
        packed, state = bnb.quantize_4bit(normal(INTER, HIDDEN), quant_type="nf4", compress_statistics=True)
        peer, name = (lambda: bnb.dequantize_4bit(packed, state)), "bitsandbytes"
    yield Case("nf4.dequantise", moved, 0, lambda: nf4.dequantise(weight, out=wide[:, :HIDDEN]), peer, name)
    rows = loss.CHUNK_ROWS
    logits, labels = 4 * normal(rows, WORDS), torch.randint(WORDS, (rows,), device="cuda")
    scores = logits.clone()

    def eager_peer() -> None:
        z = 30.0 * torch.tanh(scores.detach().requires_grad_() / 30.0)
        torch.nn.functional.cross_entropy(z.float(), labels, reduction="sum").backward()

    yield Case(
        "loss.softcap_cross_entropy", 3 * logits.nbytes, 0,
        lambda: loss.softcap_cross_entropy(logits, labels, 30.0), eager_peer, "cross_entropy with autograd",
    )  # fmt: skip
    hidden, head = normal(rows, HIDDEN), normal(WORDS, HIDDEN) / 45
    yield Case(
        "loss.linear_cross_entropy", 2 * head.nbytes + 5 * logits.nbytes, 4 * rows * HIDDEN * WORDS,
        lambda: loss.linear_cross_entropy(hidden, head, labels, 30.0, logits=logits),
        lambda: torch.mm(torch.mm(hidden, head.T, out=logits), head), "its two GEMMs alone",
    )  # fmt: skip
    del hidden, head
    flat = [torch.zeros(LORA_PARAMETERS, device="cuda") for _ in range(3)] + [normal(LORA_PARAMETERS).float()]
    copy = torch.empty(LORA_PARAMETERS, device="cuda", dtype=torch.bfloat16)
    scalars = {name: torch.ones((), device="cuda") for name in ("lr", "step", "clip")}
    fused = torch.optim.AdamW([torch.nn.Parameter(flat[0].clone())], fused=True)
    fused.param_groups[0]["params"][0].grad = flat[3]
    yield Case(
        "adamw.adamw", 30 * LORA_PARAMETERS, 0,
        lambda: adamw.adamw(flat[0], flat[3], flat[1], flat[2], **scalars, compute_copy=copy), fused.step,
        "torch.optim.AdamW(fused), no copy",
    )  # fmt: skip
    state = adamw_8bit.new_state(LORA_PARAMETERS, "cuda")
    yield Case(
        "adamw_8bit.adamw_8bit", 18 * LORA_PARAMETERS, 0,
        lambda: adamw_8bit.adamw_8bit(flat[0], flat[3], *state, **scalars, compute_copy=copy), fused.step,
        "torch.optim.AdamW(fused), 32 bit",
    )  # fmt: skip
    yield Case(
        "adamw.gradient_norm", 4 * LORA_PARAMETERS, 0, lambda: adamw.gradient_norm(flat[3]),
        lambda: flat[3].norm(), "the same",
    )  # fmt: skip


def ceilings() -> tuple[float, float]:
    """(GB/s of a copy, TFLOP/s of a bf16 GEMM)."""
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    copy = 2 * source.nbytes / do_bench(lambda: target.copy_(source), return_mode="median") / 1e6
    a, b, c = normal(8192, 8192), normal(8192, 8192), normal(8192, 8192)
    gemm = 2 * 8192**3 / do_bench(lambda: torch.mm(a, b, out=c), return_mode="median") / 1e9
    return copy, gemm


def measure(case: Case, bandwidth: float, peak: float) -> Result:
    time = do_bench(case.ours, return_mode="median")
    peer = do_bench(case.peer, return_mode="median")
    rate, arithmetic = case.bytes / time / 1e6, case.flops / time / 1e9
    return Result(case.name, time, rate, arithmetic, max(rate / bandwidth, arithmetic / peak), case.peer_name, peer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--only", default="", help="cases whose name starts so")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    bandwidth, peak = ceilings()
    print(f"copy {bandwidth:.0f} GB/s, bf16 GEMM {peak:.0f} TFLOP/s, {arguments.tokens} tokens")
    print(f"{'kernel':42s} {'ms':>8s} {'GB/s':>6s} {'TFLOP/s':>8s} {'share':>6s} {'peer ms':>8s}  peer")
    results = []
    for cases in (row_cases, feedforward_cases, attention_cases, lambda _: weight_cases()):
        for case in cases(arguments.tokens):
            if not case.name.startswith(arguments.only):
                continue
            r = measure(case, bandwidth, peak)
            results.append(r)
            print(
                f"{r.name:42s} {r.milliseconds:8.4f} {r.gigabytes_per_second:6.0f} {r.teraflops:8.0f} {r.share:6.0%} "
                f"{r.peer_milliseconds:8.4f}  {r.peer_name}",
                flush=True,
            )
        torch.cuda.empty_cache()
    if arguments.json:
        record = {
            "machine": torch.cuda.get_device_name(), "python": platform.python_version(), "torch": torch.__version__,
            "triton": triton.__version__, "command": " ".join(sys.argv), "tokens": arguments.tokens,
            "copy_gigabytes_per_second": bandwidth, "gemm_teraflops": peak, "results": [asdict(r) for r in results],
        }  # fmt: skip
        arguments.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
