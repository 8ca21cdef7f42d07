"""The plain-torch references against autograd, in fp64: every kernel is later judged by them."""

import pytest
import torch

from agentloop_kernels import (
    adamw,
    adamw_8bit,
    add_norm,
    altup,
    attention,
    geglu,
    loss,
    magnitude,
    norm,
    ple,
    residual,
    rope,
    sparse_geglu,
)

EPS = 1e-6
DEEP = torch.float64


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(hash((seed, *shape)) % 2**31)
    return torch.randn(*shape, generator=generator, dtype=DEEP)


def gradients(output: torch.Tensor | tuple, upstream: torch.Tensor | tuple, inputs: list[torch.Tensor]) -> tuple:
    outputs = output if isinstance(output, tuple) else (output,)
    upstreams = upstream if isinstance(upstream, tuple) else (upstream,)
    return torch.autograd.grad(outputs, inputs, upstreams)


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def leaf(x: torch.Tensor) -> torch.Tensor:
    return x.clone().requires_grad_()


@pytest.mark.parametrize("unit_offset", [False, True])
def test_rms_norm(unit_offset):
    x, w, dy = leaf(normal(5, 24)), normal(24, seed=1), normal(5, 24, seed=2)
    y = norm.rms_norm(x, w, EPS, unit_offset=unit_offset)
    (dx,) = gradients(y, dy, [x])
    close(norm.rms_norm_backward(dy, x.detach(), w, EPS, unit_offset=unit_offset), dx)


def test_merge_attention():
    active, attended, laurel = (leaf(normal(5, 24, seed=s)) for s in range(3))
    weights = {
        name: normal(24, seed=7 + i) for i, name in enumerate(("attention_norm", "laurel_norm", "feedforward_norm"))
    }
    w_in, dm, dn = normal(24, seed=20), normal(5, 24, seed=21), normal(5, 24, seed=22)
    output = residual.merge_attention(active, attended, laurel, input_norm=w_in, eps=EPS, **weights)
    dactive, dattended, dlaurel = gradients(output, (dm, dn), [active, attended, laurel])
    merged = output[0].detach()
    dsum, ours_attended, ours_laurel = residual.merge_attention_backward(
        dm, dn, merged, attended.detach(), laurel.detach(), eps=EPS, **weights
    )
    close(ours_attended, dattended)
    close(ours_laurel, dlaurel)
    close(dsum + norm.rms_norm_backward(dsum, active.detach(), w_in, EPS), dactive)


def test_merge_attention_of_a_scaled_branch_is_the_same():
    x, laurel = normal(5, 24), normal(5, 24, seed=1)
    weights = dict.fromkeys(("input_norm", "attention_norm", "laurel_norm", "feedforward_norm"), normal(24, seed=3))
    whole = residual.merge_attention(x, x, laurel, eps=EPS, **weights)
    scaled = residual.merge_attention(x, x / 64, laurel, eps=EPS, attention_eps=EPS / 64**2, **weights)
    close(scaled[0], whole[0])


@pytest.mark.parametrize("y_scale", [1.0, 1 / 64, 500.0])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("with_norm", [True, False])
def test_add_norm(with_norm, last, y_scale):
    """`last` is the end of a layer whose follower norms for itself."""
    stream, y = leaf(normal(5, 24)), leaf(normal(5, 24, seed=1))
    w, w_next = normal(24, seed=2) if with_norm else None, None if last else normal(24, seed=3)
    options = {"norm": w, "next_norm": w_next, "eps": EPS, "y_scale": y_scale}
    branch = y / y_scale
    expected = stream + (torch.nn.functional.rms_norm(branch, (24,), w, EPS) if with_norm else branch)
    expected = (expected,) if last else (expected, torch.nn.functional.rms_norm(expected, (24,), w_next, EPS))
    total, normed = add_norm.add_norm(stream.detach(), y.detach(), **options)
    close(total, expected[0])
    upstream = (normal(5, 24, seed=4), normal(5, 24, seed=5))[: len(expected)]
    dstream, dbranch = gradients(expected, upstream, [stream, y])
    dtotal, dnormed = (*upstream, None)[:2]
    dsum, dy = add_norm.add_norm_backward(dtotal, dnormed, total, y.detach(), **options)
    close(dsum, dstream)
    close(dy, dbranch)
    if last:
        assert normed is None and dsum is dtotal
    else:
        close(normed, expected[1])
        over = add_norm.add_norm_backward(dtotal, dnormed, total, y.detach(), **options, dsum=dtotal, dy=dnormed)
        assert over == (dtotal, dnormed)
        close(dtotal, dstream)
        close(dnormed, dbranch)


def test_add_norm_of_a_scaled_branch_is_the_same():
    x, y, w = normal(5, 24), normal(5, 24, seed=1), normal(24, seed=2)
    whole = add_norm.add_norm(x, y, norm=w, next_norm=w, eps=EPS)
    scaled = add_norm.add_norm(x, y / 64, norm=w, next_norm=w, eps=EPS, y_scale=1 / 64)
    close(scaled[0], whole[0])
    close(scaled[1], whole[1])


def test_add_norm_keeps_a_wide_stream_wide():
    x, y, w = normal(5, 24).float(), normal(5, 24, seed=1).half(), normal(24, seed=2).float()
    total, normed = add_norm.add_norm(x, y, norm=w, next_norm=w, eps=EPS)
    assert (total.dtype, normed.dtype) == (torch.float32, torch.float32)
    dsum, dy = add_norm.add_norm_backward(total, y, total, y, norm=w, next_norm=w, eps=EPS)
    assert (dsum.dtype, dy.dtype) == (torch.float32, torch.float16)
    dsum, dy = add_norm.add_norm_backward(total, None, total, y, norm=w, next_norm=None, eps=EPS)
    assert (dsum.dtype, dy.dtype) == (torch.float32, torch.float16)


@pytest.mark.parametrize(("norm_heads", "norm_values"), [(True, True), (True, False), (False, False)])
def test_qkv_rope(norm_heads, norm_values):
    heads, kv_heads, width, tokens = 4, 2, 8, 7
    qkv = leaf(normal(tokens, (heads + 2 * kv_heads) * width))
    table = rope.rope_table(1.0 / 10000 ** (torch.arange(0, width, 2, dtype=DEEP) / width), 32)
    options = {
        "heads": heads, "kv_heads": kv_heads, "query_norm": normal(width, seed=1) if norm_heads else None,
        "key_norm": normal(width, seed=2) if norm_heads else None, "eps": EPS, "norm_values": norm_values,
    }  # fmt: skip
    positions = torch.tensor([0, 1, 2, 0, 1, 2, 3], dtype=torch.int32)
    output = rope.qkv_rope(qkv, table, positions, **options)
    if not norm_values:
        assert torch.equal(output[2].flatten(1), qkv[:, -kv_heads * width :])
        assert output[2].is_contiguous() and output[2].untyped_storage().data_ptr() != qkv.untyped_storage().data_ptr()
    upstream = tuple(normal(*o.shape, seed=9) for o in output)
    (dqkv,) = gradients(output, upstream, [qkv])
    close(rope.qkv_rope_backward(*upstream, qkv.detach(), table, positions, **options), dqkv)


@pytest.mark.parametrize("rows", [None, [1, 2, 5, 5, 8, 10, 11]])
@pytest.mark.parametrize(("window", "softcap"), [(None, None), (3, None), (3, 2.0)])
def test_attention(rows, window, softcap):
    tokens, heads, kv_heads, width = 12, 4, 2, 6
    rows = None if rows is None else torch.tensor(rows, dtype=torch.int32)
    plan = attention.plan_attention(
        torch.tensor([0, 5, 6, 10, 10]), tokens, 8, window=window, query_rows=rows
    )  # rows 10 and 11 belong to no segment and make one of their own
    q = leaf(normal(tokens if rows is None else len(rows), heads, width))
    k, v = leaf(normal(tokens, kv_heads, width, seed=1)), leaf(normal(tokens, kv_heads, width, seed=2))
    owner = torch.tensor([0] * 5 + [1] + [2] * 4 + [3] * 2)
    at = torch.arange(tokens) if rows is None else rows.long()
    seen = (owner[at][:, None] == owner) & (torch.arange(tokens) <= at[:, None])
    if window is not None:
        seen &= torch.arange(tokens) > at[:, None] - window
    scores = torch.einsum("qhd,khd->hqk", q, k.repeat_interleave(2, 1)) * 0.7
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~seen, float("-inf"))
    expected = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v.repeat_interleave(2, 1))
    dout = normal(*q.shape, seed=3)
    theirs = gradients(expected, dout, [q, k, v])
    inputs = (q.detach(), k.detach(), v.detach())
    out, lse = attention.attention(*inputs, plan, scale=0.7, softcap=softcap)
    close(out, expected)
    close(lse, scores.logsumexp(-1))
    ours = attention.attention_backward(dout, *inputs, out, lse, plan, scale=0.7, softcap=softcap)
    for a, b in zip(ours, theirs, strict=True):
        close(a, b)
    added = attention.attention_backward(
        dout, *inputs, out, lse, plan, scale=0.7, softcap=softcap, dkey=ours[1].clone(), dvalue=ours[2].clone(),
        accumulate=True,
    )  # fmt: skip
    close(added[1], 2 * theirs[1])
    close(added[2], 2 * theirs[2])


def test_geglu():
    gate_up, dh = leaf(normal(5, 48)), normal(5, 24, seed=1)
    h = geglu.geglu(gate_up)
    (theirs,) = gradients(h, dh, [gate_up])
    close(geglu.geglu_backward(dh, gate_up.detach()), theirs)
    in_place, hidden = gate_up.detach().clone(), dh.clone()
    geglu.geglu_backward(hidden, in_place, dgate_up=in_place, hidden=hidden)
    close(in_place, theirs)
    close(hidden, h.detach())


@pytest.mark.parametrize("sparsity", [0.5, 0.95])
def test_sparse_geglu(sparsity):
    gate_up, dh = leaf(normal(5, 96)), normal(5, 48, seed=1)
    t = sparse_geglu.sparsity_threshold(sparsity, torch.float32)
    h, statistics = sparse_geglu.sparse_geglu(gate_up, t)
    (theirs,) = gradients(h, dh, [gate_up])
    in_place, hidden = gate_up.detach().clone(), dh.clone()
    sparse_geglu.sparse_geglu_backward(hidden, in_place, statistics.detach(), t, dgate_up=in_place, hidden=hidden)
    close(in_place, theirs)
    close(hidden, h.detach())


def test_ple_gate():
    gate, inputs, dh = leaf(normal(5, 8)), normal(5, 3, 8, seed=1)[:, 1], normal(5, 8, seed=2)
    (theirs,) = gradients(ple.ple_gate(gate, inputs), dh, [gate])
    close(ple.ple_gate_backward(dh, gate.detach(), inputs), theirs)


@pytest.mark.parametrize("n", [2, 4])
def test_altup_layer(n):
    """One layer with a linear map in place of attention and feed-forward, from streams to streams."""
    tokens, width = 6, 24
    streams = leaf(normal(n, tokens, width))
    router = altup.fold_router(normal(n, width, seed=1), 1 + normal(width, seed=2))
    close(router, normal(n, width, seed=1) * (1 + normal(width, seed=2)) / width)
    router = router * 20
    common = {"router": router, "eps": EPS}
    prediction, correction = normal(n * n, n, seed=3), normal(n, n, seed=4)
    w = {name: normal(width, seed=5 + i) for i, name in enumerate(("input", "feedforward", "ple", "scale"))}
    mix, gate = normal(width, width, seed=10) / 5, normal(width, width, seed=11) / 5

    def layer(s):
        coefs, active, normed = altup.predict(s, prediction=prediction, input_norm=w["input"], **common)
        merged = active + normed @ mix
        activated, gains, first = altup.correct(
            merged, merged @ mix, active, correction=correction, feedforward_norm=w["feedforward"], scale=w["scale"],
            **common,
        )  # fmt: skip
        projected = torch.tanh(first @ gate)
        out = altup.advance(s, coefs, activated, gains, projected, ple_norm=w["ple"], eps=EPS)
        return coefs, active, normed, merged, activated, gains, first, projected, out

    upstream = normal(n, tokens, width, seed=30)
    values = layer(streams)
    (theirs,) = gradients(values[-1], upstream, [streams])
    coefs, active, normed, merged, activated, gains, first, projected, _ = (v.detach() for v in values)

    d = upstream.clone()
    dprojected = altup.advance_backward(d, projected, ple_norm=w["ple"], eps=EPS)
    dfirst = (dprojected * (1 - projected**2)) @ gate.T
    dactivated, dff = altup.correct_backward(
        d, dfirst, merged @ mix, active, activated, gains, correction=correction, feedforward_norm=w["feedforward"],
        scale=w["scale"], **common,
    )  # fmt: skip
    dmerged = dactivated + dff @ mix.T
    d[0] += dmerged
    altup.predict_backward(
        d, streams.detach(), coefs, dmerged @ mix.T, None, prediction=prediction, input_norm=w["input"], **common
    )
    close(d, theirs)


@pytest.mark.parametrize("tiny", [False, True])
def test_unembed_streams(tiny):
    """`tiny` puts one projection under the magnitude floor, where its length carries no gradient."""
    first, projected = leaf(normal(5, 16)), normal(3, 5, 16, seed=1)
    projected[1] *= 1e-4 if tiny else 1.0
    projected = leaf(projected)
    w, dy = normal(16, seed=2), normal(5, 16, seed=3)
    theirs = gradients(magnitude.unembed_streams(first, projected, w, EPS), dy, [first, projected])
    ours = magnitude.unembed_streams_backward(dy, first.detach(), projected.detach(), w, EPS)
    for a, b in zip(ours, theirs, strict=True):
        close(a, b)


@pytest.mark.parametrize("softcap", [None, 3.0])
def test_linear_cross_entropy(softcap):
    hidden, weight = leaf(normal(7, 16)), normal(40, 16, seed=1)
    labels = torch.tensor([3, 39, loss.IGNORED, 0, 5, loss.IGNORED, 12])
    z = hidden @ weight.T
    z = z if softcap is None else softcap * torch.tanh(z / softcap)
    expected = torch.nn.functional.cross_entropy(z, labels, reduction="none", ignore_index=loss.IGNORED)
    (theirs,) = gradients(expected.sum(), torch.ones((), dtype=DEEP), [hidden])
    losses, dhidden = loss.linear_cross_entropy(hidden.detach(), weight, labels, softcap, chunk_rows=3)
    close(losses, expected)
    close(dhidden, theirs)
    seen = loss.Observed(torch.empty(7, dtype=DEEP), torch.empty(7, dtype=torch.bool))
    close(loss.linear_logprobs(hidden.detach(), weight, labels, softcap, chunk_rows=4, observed=seen), -expected)
    close(seen.entropy, torch.distributions.Categorical(logits=z).entropy())
    assert seen.top.tolist() == (z.argmax(-1) == labels).tolist()


def test_gradient_norm_and_clip_factor():
    grads = normal(1000).float()
    norm = adamw.gradient_norm(grads)
    close(norm, grads.norm())
    clipped = grads * adamw.clip_factor(norm, 1.0)
    torch.testing.assert_close(clipped.norm(), torch.ones(()), rtol=1e-5, atol=0)
    assert adamw.clip_factor(norm, 1e6, scale=0.25) == 0.25


def test_adamw_equals_torch():
    weights, grads = normal(500).float(), normal(4, 500, seed=1).float()
    theirs = torch.nn.Parameter(weights.clone())
    optimizer = torch.optim.AdamW([theirs], lr=1e-2, weight_decay=0.1)
    state = torch.zeros(2, 500)
    for step, grad in enumerate(grads, start=1):
        theirs.grad = grad
        optimizer.step()
        scalars = {name: torch.tensor(x) for name, x in (("lr", 1e-2), ("step", float(step)), ("clip", 1.0))}
        adamw.adamw(weights, grad, state[0], state[1], weight_decay=0.1, **scalars)
    torch.testing.assert_close(weights, theirs.detach(), rtol=1e-6, atol=1e-7)


def test_adamw_8bit_follows_adamw():
    """On a quadratic both come down alike, though the moments have 8 bits."""
    target = normal(1000).float()
    exact, coarse = torch.zeros(1000), torch.zeros(1000)
    state, (levels, scales) = torch.zeros(2, 1000), adamw_8bit.new_state(1000, "cpu")
    for step in range(1, 201):
        scalars = {name: torch.tensor(x) for name, x in (("lr", 3e-2), ("step", float(step)), ("clip", 1.0))}
        adamw.adamw(exact, exact - target, state[0], state[1], **scalars)
        adamw_8bit.adamw_8bit(coarse, coarse - target, levels, scales, **scalars)
    start = target.square().mean()
    assert (exact - target).square().mean() < 1e-3 * start
    assert (coarse - target).square().mean() < 1e-2 * start
