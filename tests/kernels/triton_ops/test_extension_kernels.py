import pytest
from judging import normal

from agentloop_kernels import extension


@pytest.mark.parametrize("rows", [[(0, 40)], [(0, 24), (24, 40)], [(0, 16), (16, 24), (32, 40)]], ids=len)
def test_write_lora(agree, rows):
    rank, inputs, outputs = 8, 50, 40
    parts, used = [slice(*row) for row in rows], rank * len(rows)
    held = used * inputs + rank * sum(stop - start for start, stop in rows)
    inputs_held = {"flat": normal(held), "matrix": normal(outputs + used, inputs + used, seed=1)}

    def call(op, t, out):
        op(t["flat"], t["matrix"], parts, rank=rank, inputs=inputs, outputs=outputs, scale=0.5)
        return [t["matrix"]]

    agree(extension.triton_write_lora, extension.reference_write_lora, call, inputs_held)
