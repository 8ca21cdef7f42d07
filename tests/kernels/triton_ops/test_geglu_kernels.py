import pytest
import torch
from judging import DEVICE, normal

from agentloop_kernels import geglu, ple, sparse_geglu

ROWS = 4


@pytest.mark.parametrize("inter", [256, 200, 2500])
def test_geglu(agree, inter):
    inputs = {"gate_up": 2 * normal(ROWS, 2 * inter), "dh": normal(ROWS, inter, seed=1)}
    agree(
        geglu.triton_geglu,
        geglu.reference_geglu,
        lambda op, t, out: [op(t["gate_up"], out=out(ROWS, inter))],
        inputs,
    )
    agree(
        geglu.triton_geglu_backward,
        geglu.reference_geglu_backward,
        lambda op, t, out: [op(t["dh"], t["gate_up"], dgate_up=out(ROWS, 2 * inter))],
        inputs,
    )


def test_geglu_backward_in_place(agree):
    def call(op, t, out):
        op(t["dh"], t["gate_up"], dgate_up=t["gate_up"], hidden=t["dh"])
        return [t["gate_up"], t["dh"]]

    inputs = {"gate_up": normal(ROWS, 400), "dh": normal(ROWS, 200, seed=1)}
    agree(geglu.triton_geglu_backward, geglu.reference_geglu_backward, call, inputs)


@pytest.mark.parametrize("inter", [256, 384, 5000])
@pytest.mark.parametrize("mean", [0.0, 30.0])
def test_sparse_geglu(agree, inter, mean):
    """A large mean would lose the deviation if it were the difference of two large sums."""
    t_95 = sparse_geglu.sparsity_threshold(0.95, torch.float32)
    inputs = {"gate_up": normal(ROWS, 2 * inter) + mean, "dh": normal(ROWS, inter, seed=1)}
    gate = inputs["gate_up"][:, :inter]
    inputs["statistics"] = torch.stack([gate.mean(-1), gate.std(-1, unbiased=False)], dim=-1)

    def forward(op, t, out):
        return op(t["gate_up"], t_95, out=out(ROWS, inter), statistics=out(ROWS, 2, dtype=torch.float32, dense=True))

    def backward(op, t, out):
        op(t["dh"], t["gate_up"], t["statistics"], t_95, dgate_up=t["gate_up"], hidden=t["dh"])
        return [t["gate_up"], t["dh"]]

    agree(sparse_geglu.triton_sparse_geglu, sparse_geglu.reference_sparse_geglu, forward, inputs)
    agree(
        sparse_geglu.triton_sparse_geglu_backward, sparse_geglu.reference_sparse_geglu_backward, backward, inputs,
        ("statistics",),
    )  # fmt: skip


def test_sparse_geglu_of_a_constant_row_is_finite(dtype):
    gate_up = torch.ones(1, 128, dtype=dtype, device=DEVICE)
    _, statistics = sparse_geglu.triton_sparse_geglu(gate_up, 1.6)
    gradient = sparse_geglu.triton_sparse_geglu_backward(gate_up[:, :64], gate_up, statistics, 1.6)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("width", [32, 24])
def test_ple_gate(agree, width):
    rows = 70
    inputs = {"gate": normal(rows, width), "ple": normal(rows, 3, width, seed=1), "dh": normal(rows, width, seed=2)}
    agree(
        ple.triton_ple_gate,
        ple.reference_ple_gate,
        lambda op, t, out: [op(t["gate"], t["ple"][:, 1], out=out(rows, width))],
        inputs,
    )
    agree(
        ple.triton_ple_gate_backward,
        ple.reference_ple_gate_backward,
        lambda op, t, out: [op(t["dh"], t["gate"], t["ple"][:, 1], out=out(rows, width))],
        inputs,
    )


@pytest.mark.parametrize(("layers", "width"), [(35, 32), (5, 24)])
def test_ple_inputs(agree, layers, width):
    inputs = {
        "projection": 20 * normal(ROWS, layers * width), "rows": normal(ROWS, layers * width, seed=1),
        "w": normal(width, seed=2),
    }  # fmt: skip
    agree(
        ple.triton_ple_inputs,
        ple.reference_ple_inputs,
        lambda op, t, out: [
            op(
                t["projection"], t["rows"], t["w"], scale=64**-0.5, table_scale=width**0.5, eps=1e-6,
                out=out(ROWS, layers * width),
            )
        ],
        inputs,
    )  # fmt: skip
