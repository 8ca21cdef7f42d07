"""Which sequences share a batch, and the sizes that their steps are padded to."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from agentloop.engine.batch import PackedBatch, join, pack, split
from agentloop.engine.batch.shapes import KnownShapes, StepShape, exact, rounded
from agentloop.errors import SettingError
from agentloop.proof import synthetic

Row = tuple[list[int], list[bool]]


def rows_like_an_agents(count: int, *, median: float = 700, most: int = 8192, supervised: float = 0.3) -> list[Row]:
    rng = random.Random(count)
    lengths = [min(most, synthetic.row_length(rng, median)) for _ in range(count)]
    return [synthetic.row(rng, length, supervised, 1000) for length in lengths]


KINDS = {
    "an agent's": (rows_like_an_agents(300), 8192),
    "a few": (rows_like_an_agents(9), 4096),
    "one": (rows_like_an_agents(1), 8192),
    "all long": ([([7] * length, [True] * length) for length in range(3000, 8000, 97)], 8192),
    "all equal": ([([7] * 500, [False, True] * 250) for _ in range(40)], 2048),
    "as long as a batch": ([([7] * 512, [True] * 512) for _ in range(5)], 512),
    "one giant": ([*rows_like_an_agents(30, most=1000), ([7] * 4000, [True] * 4000)], 4096),
    "nothing to train on": ([([7] * 300, [False] * 300) for _ in range(20)], 1024),
    "one token": ([([7], [True])] * 10, 4),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_sequence_is_in_one_batch_and_whole(kind):
    rows, budget = KINDS[kind]
    batches = pack(rows, budget)
    packed = []
    for batch in batches:
        assert batch.tokens <= budget
        for start, end in pairwise(batch.cu_seqlens.tolist()):
            assert batch.positions[start:end].tolist() == list(range(end - start))
            packed.append(tuple(batch.token_ids[start:end].tolist()))
    assert sorted(packed) == sorted(tuple(ids) for ids, _ in rows)
    assert sum(batch.supervised for batch in batches) == sum(sum(mask[1:]) for _, mask in rows)


def first_fit(rows: list[Row], budget: int) -> int:
    """Number of batches where each sequence goes into the first with room for it."""
    room: list[int] = []
    for ids, _ in rows:
        place = next((place for place, free in enumerate(room) if free >= len(ids)), None)
        if place is None:
            room.append(budget - len(ids))
        else:
            room[place] -= len(ids)
    return len(room)


@pytest.mark.parametrize("kind", KINDS)
def test_no_more_is_computed_than_with_first_fit(kind):
    """What counts is the number of batches times the fullest: nearly always they are as few, and never are they padded to
    more in all."""
    rows, budget = KINDS[kind]
    batches = pack(rows, budget)
    assert len(batches) * max(batch.tokens for batch in batches) <= 1.02 * first_fit(rows, budget) * budget


def test_the_batches_of_an_agent_are_alike():
    batches = pack(*KINDS["an agent's"])
    tokens, supervised = [batch.tokens for batch in batches], [batch.supervised for batch in batches]
    assert min(tokens) > 0.9 * max(tokens)
    mean = sum(supervised) / len(supervised)
    assert max(supervised) < 1.03 * mean


def test_no_batch_is_nearly_empty():
    """First fit left a last batch with whatever did not fit: an optimizer step on a handful of tokens."""
    rows = [([7] * 200, [True] * 200) for _ in range(41)]
    tokens = [batch.tokens for batch in pack(rows, 2048)]
    assert min(tokens) >= max(tokens) - 200


def test_another_order_gives_other_company():
    rows, budget = KINDS["an agent's"]
    shuffled = random.Random(1).sample(rows, len(rows))
    mine, others = (
        {frozenset(tuple(batch.token_ids.tolist()) for batch in [each]) for each in pack(order, budget)}
        for order in (rows, shuffled)
    )
    assert len(mine & others) < len(mine) / 4
    assert mine == {frozenset([tuple(batch.token_ids.tolist())]) for batch in pack(rows, budget)}


def test_longer_than_the_budget():
    with pytest.raises(SettingError, match=r"training\.batch_tokens: sequence 1 has 9 tokens, the budget is 8"):
        pack([([7] * 8, [True] * 8), ([7] * 9, [True] * 9)], 8)
    assert pack([], 8) == []


# sizes


@pytest.mark.parametrize("kind", KINDS)
def test_every_batch_of_the_run_has_a_size(trainable, kind):
    batches = [batch for batch in pack(*KINDS[kind]) if batch.supervised]
    known = KnownShapes(trainable.shape, batches)
    assert len(known.shapes) <= 4
    for batch in batches:
        chosen = known.covering(exact(batch))
        assert chosen in known.shapes and chosen.covers(exact(batch))


def test_batches_that_are_alike_have_one_size(trainable):
    batches = pack(*KINDS["an agent's"])
    (shape,) = KnownShapes(trainable.shape, batches).shapes
    assert shape.tokens < 1.03 * max(batch.tokens for batch in batches)


def test_batches_that_differ_have_a_few(trainable):
    """Half of the steps are a quarter as large: one size for all would compute 1.6 times what is there."""
    batches = [join([([7] * length, [False, True] * (length // 2))]) for length in [8000, 2000] * 20]
    known = KnownShapes(trainable.shape, batches)
    assert sorted(shape.tokens for shape in known.shapes) == [2048, 8064]


def test_a_batch_of_another_run_is_not_blown_up(trainable):
    known = KnownShapes(trainable.shape, [join([([7] * 8000, [True] * 8000)])])
    assert known.covering(exact(join([([7] * 100, [True] * 100)]))) is None


@pytest.mark.parametrize("tokens", [1, 255, 256, 257, 2049, 4100, 8191, 32768, 99_999])
def test_sizes_that_nothing_is_known_of_are_rounded_up_by_an_eighth_at_most(tokens):
    shape = StepShape(tokens, rows=max(1, tokens // 3), segments=5, longest=tokens, skip=True)
    padded = rounded(shape)
    assert padded.covers(shape)
    assert padded.tokens <= max(256, tokens + max(256, tokens // 8)) and padded.segments == 16


@pytest.mark.parametrize("ids", [[], [7] * 300], ids=["no sequence", "no label"])
def test_a_batch_with_nothing_to_train_on_has_a_size_too(trainable, ids):
    """One of several devices may get none of a batch's sequences; what fits the card is asked for its share as well."""
    batch = split(join([(ids, [False] * len(ids))]), 2)[0] if ids else split(join([([7, 8], [True] * 2)]), 2)[1]
    trainable.graphs = True
    for known in ([], [join([([7] * 400, [True] * 400)])]):
        trainable.expect(known)
        assert trainable.needed(batch) > 0


@pytest.mark.parametrize("skip", [True, False])
def test_padding_to_a_known_size_is_exact(trainable, sequences, skip):
    """The same losses and gradients as without, in fp64."""
    batch = join(sequences)
    expected = trainable.loss_and_gradients(batch, skip=skip).loss_sum
    gradients = trainable.lora.gradients.clone()
    trainable.lora.gradients.zero_()
    larger: list[PackedBatch] = [batch, join(sequences * 2)]
    trainable.expect(larger)
    trainable.graphs = True
    trainable._graphs = Launched(trainable)
    loss = trainable.loss_and_gradients(batch, skip=skip).loss_sum
    assert trainable._graphs.tokens > batch.tokens
    assert float(loss) == pytest.approx(float(expected), rel=1e-12)
    assert float((trainable.lora.gradients - gradients).norm() / gradients.norm()) < 1e-12


class Launched:
    """Steps as CUDA graphs get them, computed as they are."""

    def __init__(self, model) -> None:
        self.model, self.tokens = model, 0

    def run(self, inputs, scale, plan, observe, rule, *, recurs):
        self.tokens = inputs.token_ids.numel()
        return self.model._step(inputs, scale, plan, observe, rule)


def test_a_continued_run_pads_alike(trainable):
    """Sizes depend on the run's batches alone: half of a run's steps, done before, change none of the others."""
    batches = [join([([7] * length, [True] * length)]) for length in (900, 4000, 910, 3900, 905)]
    assert KnownShapes(trainable.shape, batches).shapes == KnownShapes(trainable.shape, reversed(batches)).shapes
