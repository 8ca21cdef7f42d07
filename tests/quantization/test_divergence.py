"""KL divergence from the base in 16 bit, against transformers' own logits; a base that NF4 breaks, and what mends it."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from agentloop.engine import FastLanguageModel
from agentloop.engine.io.checkpoint import Checkpoint
from agentloop.engine.io.dequantised import dequantised_checkpoint
from agentloop.engine.io.packed import packed_weights
from agentloop.errors import SettingError
from agentloop.quantization import measuring_worker as worker
from agentloop.quantization.divergence import Comparison
from agentloop.records import Quantization
from tests.quantization.conftest import TINY

IDS = [2, 5, 9, 17, 4, 30, 8, 7, 11, 3, 90, 41]
MASK = [False] * 5 + [True] * 7


def comparison(directory, cache) -> Comparison:
    model, _ = FastLanguageModel.from_pretrained(
        directory, max_seq_length=64, load_in_4bit=False, graphs=False, cache_directory=cache
    )
    packed = packed_weights(model.shape, Checkpoint(directory), model.fingerprint, cache, model.device)
    return Comparison(model, packed, [(IDS, MASK)])


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def tiny(cache):
    return comparison(TINY, cache)


@pytest.fixture(scope="module")
def outlying(broken, cache):
    return comparison(broken, cache)


def test_it_is_what_transformers_says_of_the_dequantised_base(tiny, cache):
    names = sorted(tiny.original)
    kept = tuple(names[:3])

    def log_probabilities(directory):
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float64)
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([IDS]), use_cache=False).logits[0, :-1]
        return torch.log_softmax(logits, -1)[torch.tensor(MASK[1:])]

    p = log_probabilities(TINY)
    q = log_probabilities(dequantised_checkpoint(TINY, cache, Quantization(True, kept)))
    found = tiny.of(names[3:])
    assert found.kl == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=2e-3) and found.kl > 1e-4
    assert found.tokens == sum(MASK[1:])


def test_the_model_is_left_as_it_was(tiny):
    assert tiny.of([]).kl == pytest.approx(0, abs=1e-9)
    assert tiny.of(sorted(tiny.original)).kl > 1e-3
    assert tiny.of([]).kl == pytest.approx(0, abs=1e-9)


def test_outliers_break_a_base_in_nf4_alone_and_are_found(tiny, outlying):
    names = sorted(outlying.original)
    down = [name for name in names if name.endswith("down_proj")]
    assert outlying.of(names).kl > 10 * tiny.of(names).kl
    rest = outlying.of([name for name in names if name not in down]).kl
    assert rest < 3 * tiny.of(names).kl < outlying.of(down).kl


def request(directory, cache, **asked):
    plain = {"in_16bit": None, "tolerance": None, "most_bytes": None, "total_bytes": None}
    return plain | {
        "model": str(directory), "cache": str(cache), "prompts": [IDS[:6]], "sequences": [[IDS, MASK]], "stop": [1],
        "new_tokens": 4,
    } | asked  # fmt: skip


def test_a_plan_mends_it_with_few_bytes(broken, outlying, cache):
    episode = sum(MASK)
    found = worker.measure(request(broken, cache, tolerance=0.05 * episode))
    none, dynamic, nf4 = (found[kind] for kind in ("none", "dynamic", "nf4"))
    assert none["kl"] == pytest.approx(0, abs=1e-9) and none["tokens"] > sum(MASK[1:])
    assert nf4["kl"] > 0.05 >= dynamic["kl"]
    assert dynamic["episode_kl"] == pytest.approx(dynamic["kl"] * episode)
    assert nf4["bytes"] < dynamic["bytes"] < none["bytes"]
    first = [name for name in dynamic["in_16bit"] if name.endswith("down_proj")]
    assert len(first) > len(dynamic["in_16bit"]) / 2
    # what was planned is what is measured when it is asked for
    again = worker.measure(request(broken, cache, in_16bit=dynamic["in_16bit"]))["dynamic"]
    assert again == dynamic
    within = worker.measure(request(broken, cache, tolerance=1e-9, total_bytes=(nf4["bytes"] + dynamic["bytes"]) // 2))
    assert within["dynamic"]["bytes"] <= (nf4["bytes"] + dynamic["bytes"]) // 2 and within["dynamic"]["kl"] < nf4["kl"]


def test_too_few_bytes_are_refused(broken, cache):
    with pytest.raises(SettingError, match="^--bytes: .* GiB, but in NF4 alone it takes"):
        worker.measure(request(broken, cache, tolerance=0.1, total_bytes=1000))


def test_a_dynamic_base_trains_saves_and_comes_back(tiny, cache, tmp_path):
    kept = tuple(sorted(tiny.original)[:3])
    model, _ = FastLanguageModel.from_pretrained(TINY, in_16bit=kept, cache_directory=cache)
    assert model.quantization == Quantization(True, kept)
    FastLanguageModel.get_peft_model(model, r=8)
    model.save_pretrained(tmp_path / "adapter")
    again, _ = FastLanguageModel.from_pretrained(tmp_path / "adapter", cache_directory=cache)
    assert again.quantization == model.quantization
    model.save_pretrained_merged(tmp_path / "merged", base="dequantised")
    merged, _ = FastLanguageModel.from_pretrained(tmp_path / "merged", load_in_4bit=False, cache_directory=cache)
    torch.testing.assert_close(merged.logprobs(IDS), model.logprobs(IDS, adapter=False), rtol=1e-3, atol=2e-3)
    with pytest.raises(SettingError, match="^in_16bit: 'layers.99.mlp.down_proj' is no linear of this model"):
        FastLanguageModel.from_pretrained(TINY, in_16bit=["layers.99.mlp.down_proj"], cache_directory=cache)


def test_prompts_are_continued_until_the_turn_ends(cache):
    model, _ = FastLanguageModel.from_pretrained(TINY, max_seq_length=64, load_in_4bit=False, cache_directory=cache)
    prompts = [IDS[:6], IDS[:3]]
    free = worker.continued(model, prompts, 5, [])
    assert [len(ids) for ids, _ in free] == [11, 8] and [sum(mask) for _, mask in free] == [5, 5]
    assert worker.continued(model, prompts, 5, []) == free
    third = free[0][0][8]
    place = free[0][0][6:].index(third) + 1
    ids, mask = worker.continued(model, prompts, 5, [third])[0]
    assert ids == free[0][0][: 6 + place] and sum(mask) == place
