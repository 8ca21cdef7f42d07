"""Which linears stay in 16 bit: by KL per byte, whole fused matrices, as few as are enough, no more than there is room for."""

from agentloop.quantization.plan import Cost, choose, units

COSTS = [Cost(("a",), 0.4, 100), Cost(("b", "c"), 0.3, 10), Cost(("d",), 0.2, 50), Cost(("e",), 0.1, 1000)]
"""By KL per byte: b and c, then a and d alike, then e."""
BY_NAME = {name: cost.kl / len(cost.unit) for cost in COSTS for name in cost.unit}


def joint(in_16bit):
    return sum(kl for name, kl in BY_NAME.items() if name not in in_16bit)


def test_what_is_fused_is_one_unit():
    linears = [
        f"layers.{layer}.{name}"
        for layer in (0, 10)
        for name in ("self_attn.q_proj", "self_attn.k_proj", "mlp.down_proj")
    ]
    assert units(linears) == [
        ("layers.0.self_attn.q_proj", "layers.0.self_attn.k_proj"),
        ("layers.0.mlp.down_proj",),
        ("layers.10.self_attn.q_proj", "layers.10.self_attn.k_proj"),
        ("layers.10.mlp.down_proj",),
    ]


def test_as_few_bytes_as_are_enough():
    assert choose(COSTS, joint, tolerance=2.0) == ()
    assert choose(COSTS, joint, tolerance=0.75) == ("b", "c")
    assert choose(COSTS, joint, tolerance=0.15) == ("a", "b", "c", "d")
    assert choose(COSTS, joint, tolerance=0.01) == ("a", "b", "c", "d", "e")


def test_a_budget_binds_and_is_spent_where_it_does_the_most():
    assert choose(COSTS, joint, tolerance=0.01, most_bytes=0) == ()
    assert choose(COSTS, joint, tolerance=0.01, most_bytes=115) == ("a", "b", "c")
    # a does not fit any more, what follows it does
    assert choose(COSTS, joint, tolerance=0.01, most_bytes=70) == ("b", "c", "d")
    # with room for more, no more than is enough
    assert choose(COSTS, joint, tolerance=0.75, most_bytes=115) == ("b", "c")
