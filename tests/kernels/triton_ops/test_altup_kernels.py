import pytest
import torch
from judging import normal

from agentloop_kernels import altup, magnitude

EPS = 1e-6
TOKENS = 3
WIDE = ("router", "prediction", "correction", "coefs", "gains")
SIZES = pytest.mark.parametrize(("n", "width"), [(4, 64), (2, 96), (3, 40)])


def pair(name: str) -> tuple:
    return getattr(altup, f"triton_{name}"), getattr(altup, f"reference_{name}")


def inputs(n: int, width: int) -> dict[str, torch.Tensor]:
    rows = ("merged", "feedforward", "active", "activated", "projected", "dfirst", "dnormed", "dsum")
    weights = ("input_norm", "feedforward_norm", "ple_norm", "scale")
    made = {name: normal(TOKENS, width, seed=i) for i, name in enumerate(rows)}
    made |= {name: 1 + normal(width, seed=20 + i) / 4 for i, name in enumerate(weights)}
    return made | {
        "streams": normal(n, TOKENS, width, seed=30), "dstreams": normal(n, TOKENS, width, seed=31),
        "router": normal(n, width, seed=32) / width**0.5, "prediction": normal(n * n, n, seed=33),
        "correction": normal(n, n, seed=34), "coefs": normal(TOKENS, n * n, seed=35),
        "gains": 1 + normal(TOKENS, n, seed=36),
    }  # fmt: skip


def head(t: dict[str, torch.Tensor]) -> dict:
    return {name: t[name] for name in ("router", "prediction", "input_norm")} | {"eps": EPS}


def tail(t: dict[str, torch.Tensor]) -> dict:
    return {name: t[name] for name in ("router", "correction", "feedforward_norm", "scale")} | {"eps": EPS}


@SIZES
def test_predict(agree, n, width):
    def call(op, t, out):
        coefs = out(TOKENS, n * n, dtype=torch.float32, dense=True)
        return op(t["streams"], **head(t), coefs=coefs, active=out(TOKENS, width), normed=out(TOKENS, width))

    agree(*pair("predict"), call, inputs(n, width), WIDE)


@SIZES
def test_correct(agree, n, width):
    def call(op, t, out):
        return op(
            t["merged"], t["feedforward"], t["active"], **tail(t), feedforward_eps=EPS / 16,
            activated=out(TOKENS, width), gains=out(TOKENS, n, dtype=torch.float32, dense=True),
            first=out(TOKENS, width),
        )  # fmt: skip

    agree(*pair("correct"), call, inputs(n, width), WIDE)


@SIZES
@pytest.mark.parametrize("in_place", [False, True])
def test_advance(agree, n, width, in_place):
    def call(op, t, out):
        to = t["streams"] if in_place else out(n, TOKENS, width)
        given = (t["streams"], t["coefs"], t["activated"], t["gains"], t["projected"])
        return [op(*given, ple_norm=t["ple_norm"], eps=EPS, out=to)]

    agree(*pair("advance"), call, inputs(n, width), WIDE)


@SIZES
def test_advance_backward(agree, n, width):
    def call(op, t, out):
        return [op(t["dstreams"], t["projected"], ple_norm=t["ple_norm"], eps=EPS, dprojected=out(TOKENS, width))]

    agree(*pair("advance_backward"), call, inputs(n, width), WIDE)


@SIZES
@pytest.mark.parametrize("in_place", [False, True])
def test_correct_backward(agree, n, width, in_place):
    def call(op, t, out):
        result = op(
            t["dstreams"], t["dfirst"], t["feedforward"], t["active"], t["activated"], t["gains"], **tail(t),
            feedforward_eps=EPS / 16, dactivated=t["dfirst"] if in_place else out(TOKENS, width),
            dfeedforward=out(TOKENS, width),
        )  # fmt: skip
        return *result, t["dstreams"]

    agree(*pair("correct_backward"), call, inputs(n, width), WIDE)


@SIZES
@pytest.mark.parametrize("summed", [False, True])
def test_predict_backward(agree, n, width, summed):
    def call(op, t, out):
        op(t["dstreams"], t["streams"], t["coefs"], t["dnormed"], t["dsum"] if summed else None, **head(t))
        return [t["dstreams"]]

    agree(*pair("predict_backward"), call, inputs(n, width), WIDE)


@SIZES
def test_embed_streams(agree, n, width):
    def call(op, t, out):
        return [op(t["first"], t["projected"], out=out(n, TOKENS, width))]

    made = {"first": 3 * normal(TOKENS, width), "projected": normal(n - 1, TOKENS, width, seed=1)}
    agree(magnitude.triton_embed_streams, magnitude.reference_embed_streams, call, made)


@SIZES
@pytest.mark.parametrize("tiny", [False, True])
def test_unembed_streams(agree, n, width, tiny):
    """`tiny` puts a projection under the magnitude floor."""
    made = {"first": 3 * normal(TOKENS, width), "projected": normal(n - 1, TOKENS, width, seed=1)}
    made["projected"][0] *= 1e-3 if tiny else 1.0
    made |= {"w": normal(width, seed=2), "dy": normal(TOKENS, width, seed=3)}

    def forward(op, t, out):
        return [op(t["first"], t["projected"], t["w"], EPS, out=out(TOKENS, width))]

    def backward(op, t, out):
        given = (t["dy"], t["first"], t["projected"], t["w"], EPS)
        return op(*given, dfirst=out(TOKENS, width), dprojected=out(n - 1, TOKENS, width))

    agree(magnitude.triton_unembed_streams, magnitude.reference_unembed_streams, forward, made)
    agree(magnitude.triton_unembed_streams_backward, magnitude.reference_unembed_streams_backward, backward, made)
