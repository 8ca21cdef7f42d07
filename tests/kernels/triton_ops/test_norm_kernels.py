import pytest
import torch
from agentloop_kernels import norm, residual, rope
from judging import normal

EPS = 1e-6
ROWS = 3


@pytest.mark.parametrize("width", [1, 64, 96, 1500])
@pytest.mark.parametrize("weight", ["plain", "unit_offset", "none"])
def test_rms_norm(agree, width, weight):
    inputs = {"x": 3 * normal(ROWS, width), "w": normal(width, seed=1)}
    agree(
        norm.triton_rms_norm,
        norm.reference_rms_norm,
        lambda op, t, out: [
            op(
                t["x"], None if weight == "none" else t["w"], EPS, unit_offset=weight == "unit_offset",
                out=out(ROWS, width),
            )
        ],
        inputs,
    )  # fmt: skip


@pytest.mark.parametrize("width", [64, 96])
@pytest.mark.parametrize("weight", ["plain", "unit_offset", "none"])
@pytest.mark.parametrize("residual", [False, True])
def test_rms_norm_backward(agree, width, weight, residual):
    inputs = {name: normal(ROWS, width, seed=i) for i, name in enumerate(("dy", "x", "r"))} | {"w": normal(width)}
    agree(
        norm.triton_rms_norm_backward,
        norm.reference_rms_norm_backward,
        lambda op, t, out: [
            op(
                t["dy"], t["x"], None if weight == "none" else t["w"], EPS, unit_offset=weight == "unit_offset",
                residual=t["r"] if residual else None, out=out(ROWS, width),
            )
        ],
        inputs,
    )  # fmt: skip


def _merge_inputs(width: int) -> dict[str, torch.Tensor]:
    tensors = ("active", "attention", "laurel", "merged", "dmerged", "dnormed")
    weights = ("input_norm", "attention_norm", "laurel_norm", "feedforward_norm")
    inputs = {name: normal(ROWS, width, seed=i) for i, name in enumerate(tensors)}
    return inputs | {name: 1 + normal(width, seed=20 + i) / 4 for i, name in enumerate(weights)}


def _weights(t: dict[str, torch.Tensor], *names: str) -> dict[str, torch.Tensor]:
    return {name: t[name] for name in names}


@pytest.mark.parametrize("width", [64, 96])
def test_merge_attention(agree, width):
    agree(
        residual.triton_merge_attention,
        residual.reference_merge_attention,
        lambda op, t, out: op(
            t["active"], t["attention"], t["laurel"], eps=EPS, attention_eps=EPS / 16, merged=out(ROWS, width),
            normed=out(ROWS, width),
            **_weights(t, "input_norm", "attention_norm", "laurel_norm", "feedforward_norm"),
        ),
        _merge_inputs(width),
    )  # fmt: skip


def test_merge_attention_over_its_input(agree):
    agree(
        residual.triton_merge_attention,
        residual.reference_merge_attention,
        lambda op, t, out: op(
            t["active"], t["attention"], t["laurel"], eps=EPS, merged=t["active"],
            **_weights(t, "input_norm", "attention_norm", "laurel_norm", "feedforward_norm"),
        ),
        _merge_inputs(64),
    )  # fmt: skip


@pytest.mark.parametrize("width", [64, 96])
def test_merge_attention_backward(agree, width):
    agree(
        residual.triton_merge_attention_backward,
        residual.reference_merge_attention_backward,
        lambda op, t, out: op(
            t["dmerged"], t["dnormed"], t["merged"], t["attention"], t["laurel"], eps=EPS, attention_eps=EPS / 16,
            dsum=out(ROWS, width), dattention=out(ROWS, width), dlaurel=out(ROWS, width),
            **_weights(t, "attention_norm", "laurel_norm", "feedforward_norm"),
        ),
        _merge_inputs(width),
    )  # fmt: skip


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 2), (3, 0), (0, 2)])
@pytest.mark.parametrize("head_dim", [32, 24])
def test_qkv_rope(agree, heads, kv_heads, head_dim):
    tokens, count = 7, heads + 2 * kv_heads
    inputs = {
        "qkv": normal(tokens, count * head_dim), "query_norm": normal(head_dim, seed=1),
        "key_norm": normal(head_dim, seed=2), "dq": normal(tokens, heads, head_dim, seed=3),
        "dk": normal(tokens, kv_heads, head_dim, seed=4), "dv": normal(tokens, kv_heads, head_dim, seed=5),
        "table": rope.rope_table(1.0 / 10000 ** (torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim), 20),
        "positions": torch.tensor([0, 1, 2, 0, 1, 18, 19], dtype=torch.int32),
    }  # fmt: skip
    options = {"heads": heads, "kv_heads": kv_heads, "eps": EPS}

    def norms(t):
        return {"query_norm": t["query_norm"] if heads else None, "key_norm": t["key_norm"] if kv_heads else None}

    def forward(op, t, out):
        buffers = {
            name: out(tokens, n, head_dim, dense=True)
            for name, n in (("query", heads), ("key", kv_heads), ("value", kv_heads))
        }
        return [x for x in op(t["qkv"], t["table"], t["positions"], **options, **norms(t), **buffers) if x.numel()]

    def backward(op, t, out):
        d = (t["dq"] if heads else None, *((t["dk"], t["dv"]) if kv_heads else (None, None)))
        return [op(*d, t["qkv"], t["table"], t["positions"], **options, **norms(t), out=out(tokens, count * head_dim))]

    # dk and dv of layers that share keys and values arrive in fp32.
    wide = ("table", "dk", "dv")
    agree(rope.triton_qkv_rope, rope.reference_qkv_rope, forward, inputs, wide)
    agree(rope.triton_qkv_rope_backward, rope.reference_qkv_rope_backward, backward, inputs, wide)
