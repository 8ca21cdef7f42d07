"""Gradients of every objective against autograd of a plain loss on transformers' logits, in fp64."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn.functional import logsigmoid

from agentloop.engine.batch import join
from agentloop.engine.memory.plans import Keep, StepPlan
from agentloop.settings import Dpo, Grpo, Kto, Sft, Training
from agentloop.training import gradient, objectives, steps
from agentloop.training.example import Example
from agentloop.training.ranks import Ranks

SETTINGS = {
    "sft": Training(),
    "sft, push down": Training(sft=Sft(push_down=0.5, push_above=0.0)),
    "sft, push down what is probable": Training(sft=Sft(push_down=0.5, push_above=1e-4)),
    "grpo": Training(objective="grpo", grpo=Grpo(clip_low=0.2, clip_high=0.28)),
    "grpo, wide clip, ratios truncated": Training(objective="grpo", grpo=Grpo(clip_low=1, clip_high=100, truncate=1.1)),
    "grpo by sequence": Training(objective="grpo", grpo=Grpo(normalization="sequence", baseline="mean")),
    "grpo by a constant": Training(objective="grpo", grpo=Grpo(normalization="constant")),
    "grpo by turns": Training(objective="grpo", grpo=Grpo(credit="turns")),
    "grpo, KL": Training(objective="grpo", grpo=Grpo(kl=0.3, normalization="sequence")),
    "grpo from the start": Training(objective="grpo", grpo=Grpo(anchor="start", truncate=1.2)),
    "dpo": Training(objective="dpo"),
    "dpo against the base": Training(objective="dpo", dpo=Dpo(beta=0.1, nll=0.0, reference="base")),
    "kto": Training(objective="kto", kto=Kto(desirable=1.5)),
    "kto against the base": Training(objective="kto", kto=Kto(beta=0.3, reference="base")),
}


def relative(ours, theirs) -> float:
    return float((ours - theirs).norm() / theirs.norm())


@pytest.fixture
def examples(trainable) -> list[Example]:
    """Three tasks; of the first a success twice token by token, of the last nothing but failures. Two conversations each in
    episodes 1 and 4."""
    draw, noise = random.Random(5), np.random.default_rng(5)
    found: list[Example] = []

    def add(episode: int, group: int, reward: float, ids: list[int], prompt: int) -> None:
        mask = [place >= prompt and place % 9 < 7 for place in range(len(ids))]
        own = np.concatenate([[0.0], trainable.logprobs(ids).numpy()])
        logprobs = np.where(mask, own + noise.normal(0, 0.25, len(ids)), 0).astype(np.float32)
        rewards = np.full(len(ids), np.nan, np.float32)
        ends = [place for place in range(len(ids)) if mask[place] and not [*mask, False][place + 1]]
        rewards[ends] = noise.choice([0.0, 0.5, 1.0, np.nan], len(ends))
        found.append(Example(tuple(ids), tuple(mask), logprobs, rewards, reward, 1.0, group, episode))

    episode = 0
    for group, rewards in enumerate([(1.0, 0.0, 1.0, 0.25), (0.0, 1.0, 0.0), (0.0, 0.0)]):
        prompt = [draw.randrange(trainable.shape.vocab) for _ in range(8)]
        shared = prompt + [draw.randrange(trainable.shape.vocab) for _ in range(6)]
        for reward in rewards:
            for conversation in range(2 if episode in (1, 4) else 1):
                ids = [*(shared if conversation == 0 else prompt)]
                ids += [draw.randrange(trainable.shape.vocab) for _ in range(draw.randrange(12, 90))]
                add(episode, group, reward, ids, 8)
            episode += 1
    again = next(each for each in found if each.episode == 0)
    other = next(each for each in found if each.episode == 2)
    found[found.index(other)] = replace(
        again, episode=2, logprobs=again.logprobs + np.where(again.mask, np.float32(0.1), 0)
    )
    return found


@pytest.fixture
def paired(examples) -> list[Example]:
    """(winner, loser) of two tasks; a winner of one pair has two conversations, and so has a loser of the other."""
    pairs = [(0, 1), (5, 4)]
    side = {episode: pair for pair, episodes in enumerate(pairs) for episode in episodes}
    order = {episode: place for place, episode in enumerate(side)}
    return [
        replace(each, group=side[each.episode], episode=order[each.episode])
        for each in examples
        if each.episode in side
    ]


def start_of(trainable):
    """What training starts from: an adapter of 0.8 of the strength, for the time of the block."""
    own = trainable.lora.parameters.clone()
    trainable.lora.parameters.mul_(0.8)
    trainable.lora.refresh()
    return own


def engine_gradient(trainable, settings, examples, *, packed=True, most=None):
    objective = objectives.chosen(settings)
    rows = objective.rows(examples)
    (step,) = steps.plan(rows, objective, budget=most or 10**6, epochs=1, seed=0)
    if not packed:
        singly = [row for batch in step.rows for row in batch]
        step = replace(
            step,
            rows=tuple((row,) for row in singly),
            batches=tuple(join([(row.token_ids, row.mask)]) for row in singly),
        )
    own = start_of(trainable)
    starts = [trainable.logprobs(each.token_ids) for each in examples]
    if policies := objective.asks:
        for policy, column in policies.items():
            gradient.ask(trainable, rows, policy, column, budget=200, ranks=Ranks())
    trainable.lora.parameters.copy_(own)
    trainable.lora.refresh()
    sums = gradient.add_gradient(trainable, objective, step, step.shares(0, 1), Ranks(), observe=True).read()
    return {name: sum_ for name, sum_ in sums.items()} | {"loss": sums["loss"] / step.divisor}, starts


# plain losses, from the formulas


def supervised(example):
    return torch.tensor(example.mask[1:])


def stored(example):
    return torch.from_numpy(example.logprobs[1:]).double()


def group_advantages(examples, settings):
    """[tokens - 1] of each example."""
    groups = defaultdict(list)
    for each in examples:
        groups[each.group].append(each)

    def relative_to(values, value):
        values = np.array(values, dtype=float)
        spread = values.std() if settings.baseline == "mean_std" else 1.0
        return 0.0 if values.max() == values.min() else (value - values.mean()) / spread

    found = []
    for each in examples:
        group = groups[each.group]
        if settings.credit == "turns":
            given = [float(r) for other in group for r in other.turn_rewards if not np.isnan(r)]
            found.append([
                sum(relative_to(given, float(r)) for r in each.turn_rewards[place:] if not np.isnan(r))
                for place in range(1, len(each.token_ids))
            ])  # fmt: skip
        else:
            rewards = list({other.episode: other.reward for other in group}.values())
            found.append([relative_to(rewards, each.reward)] * (len(each.token_ids) - 1))
    return [torch.tensor(values, dtype=torch.float64) for values in found]


def sft_loss(oracle, examples, training, **_):
    if not training.sft.push_down:
        count = sum(each.written for each in examples)
        return -sum(oracle.logprobs(list(each.token_ids))[supervised(each)].sum() for each in examples) / count
    successes = {each.token_ids: each for each in examples if each.solved}
    total = -sum(oracle.logprobs(list(each.token_ids))[supervised(each)].sum() for each in successes.values())
    tokens, seen = sum(each.written for each in successes.values()), set()
    for each in examples:
        others = [other.token_ids for other in successes.values() if other.group == each.group]
        if each.solved or not others:
            continue
        shared = max(next((i for i, (a, b) in enumerate(zip(each.token_ids, o)) if a != b), len(o)) for o in others)
        key = each.token_ids[: shared + 1]
        if shared < len(each.token_ids) and each.mask[shared] and key not in seen:
            seen.add(key)
            logp = oracle.logprobs(list(key))[shared - 1]
            tokens += 1
            if logp.detach().exp() > training.sft.push_above:
                total = total + training.sft.push_down * logp
    assert seen
    return total / tokens


def grpo_loss(oracle, examples, training, starts, base):
    settings = training.grpo
    kept = [
        (each, advantage, start, under)
        for each, advantage, start, under in zip(examples, group_advantages(examples, settings), starts, base)
        if settings.kl or (advantage[supervised(each)] != 0).any()
    ]
    length = np.mean([each.written for each in examples])
    divisor = {
        "token": sum(each.written for each, *_ in kept), "sequence": len(kept), "constant": len(kept) * length,
    }[settings.normalization]  # fmt: skip
    # rows that are the same have the mean of their stored log probabilities
    same = defaultdict(list)
    for each in examples:
        same[each.group, each.token_ids].append(stored(each))
    total = torch.zeros((), dtype=torch.float64)
    for each, advantage, start, under in kept:
        logp = oracle.logprobs(list(each.token_ids))
        sampled = torch.stack(same[each.group, each.token_ids]).mean(0)
        anchor, weight = (sampled, 1.0)
        if settings.anchor == "start":
            anchor, weight = start, (start - sampled).exp().clamp(max=settings.truncate)
        r = (logp - anchor).exp()
        clipped = torch.minimum(r * advantage, r.clamp(1 - settings.clip_low, 1 + settings.clip_high) * advantage)
        counted = torch.where(r.detach() > settings.truncate, settings.truncate * (logp - anchor), r) * advantage
        bound = torch.where(clipped.detach() < (r * advantage).detach(), clipped, counted)
        loss = -weight * bound
        if settings.kl:
            loss = loss + settings.kl * ((under - logp).exp() - 1 - (under - logp))
        loss = loss[supervised(each)].sum()
        total = total + (loss / each.written if settings.normalization == "sequence" else loss)
    return total / divisor


def gains(oracle, examples, reference, base):
    found, tokens, nll = defaultdict(float), defaultdict(int), defaultdict(float)
    for each, under in zip(examples, base):
        logp = oracle.logprobs(list(each.token_ids))
        against = stored(each) if reference == "sampled" else under
        found[each.episode] = found[each.episode] + (logp - against)[supervised(each)].sum()
        nll[each.episode] = nll[each.episode] - logp[supervised(each)].sum()
        tokens[each.episode] += each.written
    return found, {episode: nll[episode] / tokens[episode] for episode in nll}


def dpo_loss(oracle, examples, training, base, **_):
    found, nll = gains(oracle, examples, training.dpo.reference, base)
    winners = {each.group: each.episode for each in examples if each.solved}
    losers = {each.group: each.episode for each in examples if not each.solved}
    each = [
        -logsigmoid(training.dpo.beta * (found[winners[pair]] - found[losers[pair]]))
        + training.dpo.nll * nll[winners[pair]]
        for pair in winners
    ]
    return sum(each) / len(each)


def kto_loss(oracle, examples, training, base, **_):
    settings = training.kto
    found, _ = gains(oracle, examples, settings.reference, base)
    solved = {each.episode: each.solved for each in examples}
    zero = (sum(found.values()) / len(found)).detach().clamp(min=0)
    each = [
        settings.desirable * (1 - torch.sigmoid(settings.beta * (gain - zero))) if solved[episode]
        else settings.undesirable * (1 - torch.sigmoid(settings.beta * (zero - gain)))
        for episode, gain in found.items()
    ]  # fmt: skip
    return sum(each) / len(each)


LOSSES = {"sft": sft_loss, "grpo": grpo_loss, "dpo": dpo_loss, "kto": kto_loss}


def check(trainable, oracle, settings, rows, *, packed=True):
    base = [trainable.logprobs(each.token_ids, adapter=False) for each in rows]
    sums, starts = engine_gradient(trainable, settings, rows, packed=packed)
    loss = LOSSES[settings.objective](oracle, rows, settings, starts=starts, base=base)
    ours = trainable.lora.named_gradients()
    for name, expected in oracle.gradients(loss).items():
        assert relative(ours[name], expected) < 2e-5, name
    return sums, float(loss.detach())


def rows_for(name, examples, paired):
    rows = {"successes": [each for each in examples if each.solved], "groups": examples, "pairs": paired}
    return rows[SETTINGS[name].rows]


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("name", SETTINGS)
def test_equal_to_autograd(trainable, oracle, examples, paired, name, packed):
    """Also where each side of a pair, and each conversation of an episode, has a batch of its own."""
    sums, loss = check(trainable, oracle, SETTINGS[name], rows_for(name, examples, paired), packed=packed)
    if "truncated" not in name and "start" not in name and "push" not in name:  # whose surrogate has another value
        assert sums["loss"] == pytest.approx(loss, rel=1e-5)
    assert sums["entropy"] > 0


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("keep", list(Keep))
@pytest.mark.parametrize("name", ["sft, push down", "grpo", "dpo"])
def test_levels_and_skipping_are_exact(trainable, oracle, examples, paired, name, keep, skip, monkeypatch):
    monkeypatch.setattr(trainable, "plan", StepPlan((keep,) * trainable.shape.layers, chunk=64, head_rows=32))
    monkeypatch.setattr(trainable, "results_and_gradients", partial(trainable.results_and_gradients, skip=skip))
    check(trainable, oracle, SETTINGS[name], rows_for(name, examples, paired))


def test_something_is_clipped_and_truncated(trainable, examples):
    """Or the tests above would say nothing of it."""
    sums, _ = engine_gradient(trainable, SETTINGS["grpo"], examples)
    assert sums["clipped"] > 5
    sums, _ = engine_gradient(trainable, SETTINGS["grpo, wide clip, ratios truncated"], examples)
    assert sums["truncated"] > 5 and sums["clipped"] == 0


def test_the_gate_decides(trainable, examples):
    found = []
    for above in (0.0, 0.5):
        trainable.lora.gradients.zero_()
        engine_gradient(trainable, Training(sft=Sft(push_down=0.5, push_above=above)), examples)
        found.append(trainable.lora.gradients.clone())
    assert relative(*found) > 1e-3


def test_identical_samples_become_one_row(examples):
    rows = objectives.chosen(SETTINGS["grpo"]).rows(examples)
    assert sorted(row.weight for row in rows)[-2:] == [1.0, 2.0]
    # the group of failures alone has nothing to tell, but with a KL term it has
    groups = {each.token_ids: each.group for each in examples}
    assert {groups[row.token_ids] for row in rows} == {0, 1}
    assert {groups[row.token_ids] for row in objectives.chosen(SETTINGS["grpo, KL"]).rows(examples)} == {0, 1, 2}


@pytest.mark.parametrize("name", ["grpo", "dpo", "kto"])
def test_several_processes_add_up(trainable, examples, paired, name):
    """Each computes its share of every batch; what an episode gains is added up before its coefficient is known."""
    settings, rows = SETTINGS[name], rows_for(name, examples, paired)
    engine_gradient(trainable, settings, rows)
    expected = trainable.lora.gradients.clone()
    trainable.lora.gradients.zero_()
    objective = objectives.chosen(settings)
    (step,) = steps.plan(objective.rows(rows), objective, budget=10**6, epochs=1, seed=0)
    if name != "grpo":
        whole = gradient._gains(trainable, objective, step.shares(0, 1), Ranks())
        parts = [gradient._gains(trainable, objective, step.shares(rank, 3), Ranks()) for rank in range(3)]
        assert torch.allclose(sum(parts), whole, atol=1e-9)

        class Added(Ranks):
            def add_up(self, tensor):
                return whole.clone() if len(tensor) == len(whole) and tensor.dtype == torch.float64 else tensor
    else:
        Added = Ranks
    for rank in range(3):
        gradient.add_gradient(trainable, objective, step, step.shares(rank, 3), Added())
    assert relative(trainable.lora.gradients, expected) < 1e-6


def test_a_unit_longer_than_a_batch_has_a_step_of_several(trainable, paired):
    objective = objectives.chosen(SETTINGS["dpo"])
    rows = objective.rows(paired)
    longest = max(len(row.token_ids) for row in rows)
    whole = steps.plan(rows, objective, budget=10**6, epochs=1, seed=0)
    parts = steps.plan(rows, objective, budget=longest, epochs=2, seed=0)
    assert [len(step.batches) for step in whole] == [1] and [step.epoch for step in parts] == [0, 0, 1, 1]
    assert all(len(step.batches) > 1 and max(batch.tokens for batch in step.batches) <= longest for step in parts)
    for step in parts:
        assert len({row.unit for batch in step.rows for row in batch}) == 1 == step.divisor


@pytest.mark.parametrize("name", SETTINGS)
def test_a_rule_waits_for_nothing(examples, paired, name):
    """On torch's meta device nothing can be read, as little as inside a CUDA graph; and what pads a batch counts nothing."""
    objective = objectives.chosen(SETTINGS[name])
    rows = objective.rows(rows_for(name, examples, paired))
    if objective.rule is None:
        assert name == "sft" and all(row.columns is None for row in rows)
        return
    width = rows[0].columns.shape[1]
    losses, columns = torch.empty(7, device="meta"), torch.empty(7, width, device="meta")
    assert objective.rule(losses, columns).shape == (7,)
    assert all(not each.shape for each in objective.figures(losses, columns).values())
    assert torch.equal(objective.rule(torch.zeros(7), torch.zeros(7, width)), torch.zeros(7))
    again = objectives.chosen(SETTINGS[name])
    again.rows(rows_for(name, examples, paired))
    assert objective.rule == again.rule and hash(objective.rule) == hash(again.rule)  # one graph serves both
