import pytest
import torch
from judging import normal

from agentloop_kernels import add_norm, norm, residual, rope
from agentloop_kernels.precision import buffer

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


# The stream and its gradient in fp32, as the norms always are, and the branch in 16 bit; or all streams alike.
WEIGHTS = ("norm", "next_norm")
STREAMS = {"alike": WEIGHTS, "wide_stream": (*WEIGHTS, "stream", "total", "dtotal")}


def _add_norm_inputs(width: int) -> dict[str, torch.Tensor]:
    """y is the first columns of a wider buffer."""
    names = ("stream", "total", "dtotal", "dnormed")
    inputs = {name: normal(ROWS, width, seed=i) for i, name in enumerate(names)} | {"y": normal(ROWS, width + 5)}
    return inputs | {name: 1 + normal(width, seed=20 + i) / 4 for i, name in enumerate(WEIGHTS)}


def _add_norm_options(t: dict[str, torch.Tensor], last: bool, with_norm: bool = True) -> dict[str, object]:
    norms = {"norm": t["norm"] if with_norm else None, "next_norm": None if last else t["next_norm"]}
    return {**norms, "eps": EPS, "y_scale": 1 / 4}


@pytest.mark.parametrize("width", [1, 64, 97, 1500, 2560])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("streams", STREAMS)
@pytest.mark.parametrize("with_norm", [True, False])
def test_add_norm(agree, width, last, streams, with_norm):
    def call(op, t, out):
        like = t["stream"]
        # The reference too rounds what is normed to the branch's dtype.
        normed = None if last else buffer(out(ROWS, width), (ROWS, width), t["y"])
        total = out(ROWS, width, dtype=like.dtype)
        results = op(like, t["y"][:, :width], **_add_norm_options(t, last, with_norm), total=total, normed=normed)
        assert total is None or results[0] is total
        assert results[1] is normed
        return [x for x in results if x is not None]

    inputs = _add_norm_inputs(width)
    agree(add_norm.triton_add_norm, add_norm.reference_add_norm, call, inputs, STREAMS[streams])


@pytest.mark.parametrize("last", [False, True])
def test_add_norm_over_its_input(agree, last):
    def call(op, t, out):
        results = op(t["stream"], t["y"][:, :96], **_add_norm_options(t, last), total=t["stream"])
        assert results[0] is t["stream"]
        return [x for x in results if x is not None]

    agree(add_norm.triton_add_norm, add_norm.reference_add_norm, call, _add_norm_inputs(96), WEIGHTS)


@pytest.mark.parametrize("y_scale", [1 / 4, 700.0])
def test_add_norm_takes_the_eps_of_the_branch(agree, y_scale):
    """y so small that its eps counts."""

    def forward(op, t, out):
        return op(
            t["stream"] / 256, t["y"][:, :64], norm=t["norm"], next_norm=t["next_norm"], eps=EPS, y_scale=y_scale,
            total=out(ROWS, 64), normed=out(ROWS, 64),
        )  # fmt: skip

    def backward(op, t, out):
        return op(
            t["dtotal"] / 256, t["dnormed"] / 256, t["total"], t["y"][:, :64], norm=t["norm"],
            next_norm=t["next_norm"], eps=EPS, y_scale=y_scale, dsum=out(ROWS, 64), dy=out(ROWS, 64),
        )  # fmt: skip

    inputs = _add_norm_inputs(64)
    inputs["y"] /= 2**10
    agree(add_norm.triton_add_norm, add_norm.reference_add_norm, forward, inputs, WEIGHTS)
    agree(add_norm.triton_add_norm_backward, add_norm.reference_add_norm_backward, backward, inputs, WEIGHTS)


def test_add_norm_norms_the_unrounded_sum(agree):
    """`normed` in fp32 shows what it was made of."""

    def call(op, t, out):
        deep = torch.promote_types(t["y"].dtype, torch.float32)
        normed = buffer(out(ROWS, 96, dtype=torch.float32), (ROWS, 96), t["y"], deep)
        return op(t["stream"], t["y"][:, :96], **_add_norm_options(t, False), total=out(ROWS, 96), normed=normed)

    agree(add_norm.triton_add_norm, add_norm.reference_add_norm, call, _add_norm_inputs(96), WEIGHTS)


@pytest.mark.parametrize("width", [64, 97, 1500, 2560])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("streams", STREAMS)
@pytest.mark.parametrize("with_norm", [True, False])
def test_add_norm_backward(agree, width, last, streams, with_norm):
    def call(op, t, out):
        dtotal, dnormed = t["dtotal"], None if last else t["dnormed"]
        dsum = None if last else out(ROWS, width, dtype=dtotal.dtype)
        dy = out(ROWS, width)
        results = op(
            dtotal, dnormed, t["total"], t["y"][:, :width], **_add_norm_options(t, last, with_norm), dsum=dsum, dy=dy
        )  # fmt: skip
        assert results[0].dtype == dtotal.dtype and results[1].dtype == t["y"].dtype
        assert dy is None or results[1] is dy
        assert not last or results[0] is dtotal
        return results

    inputs = _add_norm_inputs(width)
    agree(add_norm.triton_add_norm_backward, add_norm.reference_add_norm_backward, call, inputs, STREAMS[streams])


@pytest.mark.parametrize("swapped", [False, True])
def test_add_norm_backward_over_its_inputs(agree, swapped):
    def call(op, t, out):
        over = ("dnormed", "dtotal") if swapped else ("dtotal", "dnormed")
        return op(
            t["dtotal"], t["dnormed"], t["total"], t["y"][:, :96], **_add_norm_options(t, False),
            dsum=t[over[0]], dy=t[over[1]],
        )  # fmt: skip

    agree(
        add_norm.triton_add_norm_backward, add_norm.reference_add_norm_backward, call, _add_norm_inputs(96), WEIGHTS
    )  # fmt: skip


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 2), (3, 0), (0, 2)])
@pytest.mark.parametrize("head_dim", [32, 24])
@pytest.mark.parametrize(("norm_heads", "norm_values"), [(True, True), (True, False), (False, False)])
def test_qkv_rope(agree, heads, kv_heads, head_dim, norm_heads, norm_values):
    tokens, count = 7, heads + 2 * kv_heads
    inputs = {
        "qkv": normal(tokens, count * head_dim), "query_norm": normal(head_dim, seed=1),
        "key_norm": normal(head_dim, seed=2), "dq": normal(tokens, heads, head_dim, seed=3),
        "dk": normal(tokens, kv_heads, head_dim, seed=4), "dv": normal(tokens, kv_heads, head_dim, seed=5),
        "table": rope.rope_table(1.0 / 10000 ** (torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim), 20),
        "positions": torch.tensor([0, 1, 2, 0, 1, 18, 19], dtype=torch.int32),
    }  # fmt: skip
    options = {"heads": heads, "kv_heads": kv_heads, "eps": EPS, "norm_values": norm_values}

    def norms(t):
        present = {"query_norm": heads and norm_heads, "key_norm": kv_heads and norm_heads}
        return {name: t[name] if there else None for name, there in present.items()}

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
    if not norm_values:  # Gemma 3, whose norms are fp32
        wide = (*wide, "query_norm", "key_norm")
    agree(rope.triton_qkv_rope, rope.reference_qkv_rope, forward, inputs, wide)
    agree(rope.triton_qkv_rope_backward, rope.reference_qkv_rope_backward, backward, inputs, wide)
