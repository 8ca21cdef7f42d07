"""`generate` continues as transformers does, which is the oracle: same weights, same adapter, same options, same seed."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, GenerationConfig, LogitsProcessor, StoppingCriteria, TextStreamer

from agentloop.engine import FastLanguageModel
from agentloop.engine.api.model import Gemma
from agentloop.engine.batch import join
from agentloop.engine.decoding.decoder import Decoder
from agentloop.engine.lora.buffer import TARGETS
from agentloop.engine.lora.projection import write_weight
from agentloop.engine.meta.blueprint import blueprint
from agentloop.errors import SettingError
from agentloop_kernels.launching import planning

FAMILIES = ["gemma3n", "gemma3", "gemma2", "gemma1"]
GREEDY = {"do_sample": False, "eos_token_id": [], "pad_token_id": 0}
LENGTHS = (90, 3, 70)
"""Of prompts: two are longer than the window of 64."""


@pytest.fixture
def model(checkpoint: Path, cache: Path) -> Gemma:
    return FastLanguageModel.for_inference(FastLanguageModel.from_pretrained(checkpoint, cache_directory=cache)[0])


@pytest.fixture
def tokenizer(checkpoint: Path, cache: Path) -> Any:
    return FastLanguageModel.from_pretrained(checkpoint, cache_directory=cache)[1]


@pytest.fixture
def peer(checkpoint: Path, model: Gemma) -> torch.nn.Module:
    """transformers on the dequantised weights. Eager, because its SDPA leaves Gemma 2's soft-cap out."""
    base = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32, attn_implementation="eager")
    modules = dict(base.model.named_modules())
    for layer in model.weights.layers:
        for group in layer.groups:
            for name, weight in group.parts:
                write_weight(weight, modules[name].weight.data)
    return base.eval()


def with_adapter(base: torch.nn.Module, model: Gemma) -> torch.nn.Module:
    """PEFT's model with the adapter that `model` has now."""
    settings = model.lora.settings
    targets = rf".*\.({'|'.join(TARGETS)})"
    peft = get_peft_model(base, LoraConfig(r=settings.rank, lora_alpha=int(settings.alpha), target_modules=targets))
    views = model.lora.named()
    for name, parameter in peft.named_parameters():
        if "lora_" in name:
            parameter.data = views[name[name.index("layers.") :].replace(".default", "")].clone()
    return peft.eval()


def prompts(vocab: int, lengths: tuple[int, ...] = LENGTHS, *, left: bool = True) -> dict[str, Tensor]:
    rng = random.Random(7)
    width = max(lengths)
    ids, mask = torch.zeros(len(lengths), width, dtype=torch.int64), torch.zeros(len(lengths), width, dtype=torch.int64)
    for row, length in enumerate(lengths):
        place = slice(width - length, width) if left else slice(length)
        ids[row, place] = torch.tensor([rng.randrange(4, vocab) for _ in range(length)])
        mask[row, place] = 1
    return {"input_ids": ids, "attention_mask": mask}


# The others' own parts (soft-capped scores, no norms) are in test_weights_read_as_they_are_stored as well.
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("gemma2", "gemma1")]


@pytest.mark.parametrize("checkpoint", ["gemma3n", "gemma3", *SLOW], indirect=True)
def test_256_greedy_tokens(model, peer, fill_adapter):
    """Prompts beyond the window, and four windows more; Gemma 3n's last layers share what a ring of keys holds."""
    inputs = prompts(model.shape.vocab)
    # Random weights soon repeat one token, which would show little.
    options = GREEDY | {"max_new_tokens": 256, "no_repeat_ngram_size": 2}
    ours = model.generate(**inputs, **options)
    assert ours.shape == (3, 90 + 256) and len(set(ours[0, 90:].tolist())) > 50
    assert torch.equal(ours, peer.generate(**inputs, **options))

    FastLanguageModel.get_peft_model(model, r=8, lora_alpha=16)
    fill_adapter(model)
    adapted = model.generate(**inputs, **options)
    assert not torch.equal(adapted, ours)
    assert torch.equal(adapted, with_adapter(peer, model).generate(**inputs, **options))


def test_padding_on_either_side(model):
    vocab = model.shape.vocab
    left, right = prompts(vocab), prompts(vocab, left=False)
    expected = model.generate(**left, **GREEDY, max_new_tokens=12)[:, 90:]
    assert torch.equal(model.generate(**right, **GREEDY, max_new_tokens=12)[:, 90:], expected)
    for row, length in enumerate(LENGTHS):
        alone = model.generate(left["input_ids"][row : row + 1, 90 - length :], **GREEDY, max_new_tokens=12)
        assert torch.equal(alone[0, length:], expected[row])
    # As transformers does, a pad token in a prompt without a mask is taken for padding.
    assert torch.equal(model.generate(left["input_ids"], **GREEDY, max_new_tokens=12)[:, 90:], expected)


class Only(LogitsProcessor):
    """Allows tokens below a number."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores.masked_fill(torch.arange(scores.shape[1]) >= 100, float("-inf"))


class AfterNine(StoppingCriteria):
    """Ends every sequence at nine tokens."""

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        return torch.full((len(input_ids),), input_ids.shape[1] >= 15)


MANY_ENDS = [5, 6, 7, 8, 9, 40, 41, 42, 44, 56, 77]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_new_tokens": 30, "use_cache": False},
        {"max_length": 40, "do_sample": True, "top_p": 0.9, "top_k": 20},
        {"do_sample": True, "temperature": 1.5, "min_p": 0.1, "max_new_tokens": 30},
        {"do_sample": True, "temperature": 2.0, "top_p": 0.0},
        {"do_sample": True, "temperature": None, "top_k": None, "top_p": None},
        {"do_sample": False, "repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "max_new_tokens": 60},
        {"do_sample": True, "num_return_sequences": 3, "max_new_tokens": 20},
        {"do_sample": False, "eos_token_id": MANY_ENDS, "max_new_tokens": 50},
        {"do_sample": True, "eos_token_id": MANY_ENDS, "min_new_tokens": 12, "max_new_tokens": 30, "pad_token_id": 1},
        {"do_sample": True, "eos_token_id": MANY_ENDS, "min_length": 12, "max_new_tokens": 30},
        {"do_sample": True, "stop_strings": ["a", "th"], "max_new_tokens": 50},
        {
            "do_sample": True, "typical_p": 0.9, "epsilon_cutoff": 1e-3, "eta_cutoff": 1e-3, "renormalize_logits": True,
            "suppress_tokens": [3, 4, 5], "begin_suppress_tokens": [9], "bad_words_ids": [[7], [8, 9]],
        },
        {"logits_processor": [Only()], "stopping_criteria": [AfterNine()], "max_new_tokens": 30},
        {"generation_config": GenerationConfig(do_sample=True, top_k=3, max_new_tokens=15)},
    ],
    ids=lambda options: "-".join(options) or "defaults",
)  # fmt: skip
def test_options(model, peer, tokenizer, options):
    """A batch and a single prompt, sampled with one seed. The checkpoint's own generation_config samples."""
    texts = ["How many apples are left?", "Compute"]
    if "stop_strings" in options:
        options = options | {"tokenizer": tokenizer}
    for few in (texts, texts[:1]):
        inputs = tokenizer(few, return_tensors="pt", padding=True, padding_side="left")
        torch.manual_seed(3)
        ours = model.generate(**inputs, **options)
        torch.manual_seed(3)
        assert torch.equal(ours, peer.generate(**inputs, **options))


def test_a_released_models_defaults(checkpoint, cache, tmp_path, peer, tokenizer):
    """Gemma 3 and 3n sample and name no temperature."""
    shutil.copytree(checkpoint, tmp_path / "released")
    released = {"do_sample": True, "top_k": 64, "top_p": 0.95, "eos_token_id": [1, 106], "pad_token_id": 0}
    (tmp_path / "released" / "generation_config.json").write_text(json.dumps(released), encoding="utf-8")
    model, _ = FastLanguageModel.from_pretrained(tmp_path / "released", cache_directory=cache)
    peer.generation_config = GenerationConfig(**released)
    inputs = tokenizer(["How many apples are left?"], return_tensors="pt")
    for options in ({}, {"do_sample": False}, {"eos_token_id": None}):
        torch.manual_seed(5)
        ours = model.generate(**inputs, **options, max_new_tokens=40)
        torch.manual_seed(5)
        assert torch.equal(ours, peer.generate(**inputs, **options, max_new_tokens=40))


def test_scores_and_logits(model, peer, tokenizer):
    inputs = tokenizer(["How many apples are left?", "Compute"], return_tensors="pt", padding=True, padding_side="left")
    asked = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True, "max_new_tokens": 6}
    ours, theirs = (each.generate(**inputs, **asked, do_sample=False, repetition_penalty=2.0) for each in (model, peer))
    assert type(ours) is type(theirs) and torch.equal(ours.sequences, theirs.sequences)
    assert len(ours.scores) == len(ours.logits) == 6
    torch.testing.assert_close(ours.scores, theirs.scores, rtol=0, atol=1e-4)
    torch.testing.assert_close(ours.logits, theirs.logits, rtol=0, atol=1e-4)


def test_streams(model, peer, tokenizer, capsys):
    inputs = tokenizer(["How many apples are left?"], return_tensors="pt")
    for each in (model, peer):
        each.generate(**inputs, streamer=TextStreamer(tokenizer), do_sample=False, max_new_tokens=12)
    ours, theirs = capsys.readouterr().out.rsplit("How many apples", 1)
    assert ours == f"How many apples{theirs}" and len(theirs) > len(" are left?\n")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("temperature", 0.0),
        ("temperature", -1.0),
        ("temperature", "0.7"),
        ("temperature", float("nan")),
        ("top_p", 1.5),
        ("top_k", -1),
        ("min_p", 2.0),
        ("repetition_penalty", 0.0),
        ("num_beams", 3),
        ("num_return_sequences", 0),
        ("stop_strings", "without a tokenizer"),
        ("max_new_tokens", 0),
        ("max_new_tokens", 2.5),
        ("max_new_tokens", 5000),
        ("max_length", 2),
        ("eos_token_id", 99999),
        ("bad_words_ids", []),
        ("do_sample", "yes"),
        ("past_key_values", object()),
        ("prompt_lookup_num_tokens", 3),
        ("guidance_scale", 2.0),
        ("output_attentions", True),
        ("unheard_of", 1),
        ("attention_mask", torch.ones(1, 2)),
        ("attention_mask", torch.zeros(1, 6)),
        ("input_ids", torch.tensor([[5, -1]])),
        ("input_ids", torch.tensor([[5, 1 << 20]])),
        ("input_ids", torch.tensor([5, 6])),
        ("input_ids", torch.zeros(1, 0, dtype=torch.int64)),
        ("input_ids", [[5, 6]]),
    ],
)  # fmt: skip
def test_what_is_refused(model, tokenizer, option, value):
    inputs = tokenizer(["How many apples are left?"], return_tensors="pt") | {"do_sample": True}
    with pytest.raises(SettingError, match=rf"^{option}: [^\n]+$"):
        model.generate(**inputs | {option: value})


def test_num_return_sequences_needs_sampling(model):
    with pytest.raises(SettingError, match="^num_return_sequences: "):
        model.generate(torch.tensor([[5, 6]]), num_return_sequences=2, do_sample=False)


def test_what_changes_nothing_is_accepted(model):
    ids = torch.tensor([[5, 6, 7]])
    plain = model.generate(ids, **GREEDY)
    idle = {
        "temperature": 2,
        "use_cache": True,
        "num_beams": 1,
        "cache_implementation": "static",
        "length_penalty": 1.0,
    }
    assert torch.equal(model.generate(inputs=ids, **GREEDY, **idle, token_type_ids=ids), plain)


def test_the_length_ends_at_max_seq_length(checkpoint, cache):
    model, _ = FastLanguageModel.from_pretrained(checkpoint, max_seq_length=30, cache_directory=cache)
    ids = torch.full((1, 25), 9)
    assert model.generate(ids, **GREEDY).shape == (1, 30)  # 20 new tokens by default
    with pytest.raises(SettingError, match="^max_new_tokens: .*max_seq_length"):
        model.generate(ids, **GREEDY, max_new_tokens=6)
    with pytest.raises(SettingError, match="^max_seq_length: "):
        model.generate(torch.full((1, 30), 9), **GREEDY)


def test_sliding_layers_keep_their_window(model):
    decoder = Decoder(model, [[5] * 90, [6] * 3], new=200, copies=2)
    slots = {index: key.shape[2] for index, (key, _) in decoder.cache.layers.items()}
    assert slots == {0: 64, 1: 64, 2: 290}  # of five layers two share their keys
    assert {key.shape[0] for key, _ in decoder.cache.layers.values()} == {4}


@pytest.mark.parametrize("checkpoint", FAMILIES, indirect=True)
@pytest.mark.parametrize("in_4bit", [True, False])
def test_weights_read_as_they_are_stored(checkpoint, cache, fill_adapter, in_4bit):
    """The way that CUDA takes, with the kernels' references, against the packed forward pass."""
    model, _ = FastLanguageModel.from_pretrained(checkpoint, load_in_4bit=in_4bit, cache_directory=cache)
    FastLanguageModel.get_peft_model(model, r=8)
    fill_adapter(model)
    given = prompts(model.shape.vocab)
    rows = [ids[mask != 0].tolist() for ids, mask in zip(given["input_ids"], given["attention_mask"], strict=True)]
    with torch.no_grad():
        for stream in (True, False):
            decoder = Decoder(model, rows, new=8, stream=stream)
            decoder.read()
            positions = torch.tensor(decoder.lengths, dtype=torch.int32)
            so_far = [list(row) for row in rows]
            for token in range(5, 12):
                got = decoder.step(torch.full((3,), token), positions)
                positions += 1
                for row in so_far:
                    row.append(token)
            batch = join([(row, [False] * len(row)) for row in so_far])
            batch.labels[batch.cu_seqlens[1:].long() - 1] = 0
            torch.testing.assert_close(got, model.logits(batch), rtol=0, atol=2e-5)


@pytest.mark.parametrize("checkpoint", FAMILIES, indirect=True)
@pytest.mark.parametrize("rows", [1, 3])
def test_a_step_waits_for_nothing(model, rows):
    """Meta tensors have no values to wait for: what runs on them can be recorded as a CUDA graph."""
    planned = blueprint(model.shape, max_seq_length=512)
    with planning((9, 0)) as launches, torch.no_grad():
        decoder = Decoder(planned, [[5] * 90] * rows, new=8)
        ids, positions = (torch.zeros(rows, dtype=kind, device="meta") for kind in (torch.int64, torch.int32))
        assert decoder.step(ids, positions).shape == (rows, model.shape.vocab)
    names = {launch.name for launch in launches}
    assert {"_nf4_matmul_kernel", "_decode_kernel", "_join_kernel"} <= names
    assert "_dequantise_kernel" not in names


def test_trains_as_before_it_generated(checkpoint, cache):
    """Bit for bit, also where inference mode or autocast was on."""
    batch = join([([5, 9, 17, 4, 30, 8, 7], [False, True, True, False, True, True, True])] * 3)
    gradients = []
    for talks in (False, True):
        model, _ = FastLanguageModel.from_pretrained(checkpoint, cache_directory=cache)
        FastLanguageModel.get_peft_model(model, r=8)
        if talks:
            with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
                made = model.generate(torch.tensor([[5, 6, 7]]), **GREEDY)
            assert torch.equal(made, model.generate(torch.tensor([[5, 6, 7]]), **GREEDY))
        model.loss_and_gradients(batch)
        gradients.append(model.lora.gradients.clone())
    assert torch.equal(*gradients) and gradients[0].any()


def test_a_change_of_the_adapter_is_seen(model):
    """An optimizer of torch's changes the parameter alone."""
    FastLanguageModel.get_peft_model(model, r=8)
    asked = GREEDY | {"max_new_tokens": 3, "return_dict_in_generate": True, "output_logits": True}
    ids = torch.tensor([[5, 6, 7]])
    before = model.generate(ids, **asked).logits
    with torch.no_grad():
        model.adapter.normal_(0, 0.2)
    for changed, same in zip(model.generate(ids, **asked).logits, before, strict=True):
        assert not torch.allclose(changed, same, atol=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="records a CUDA graph")
@pytest.mark.parametrize("checkpoint", FAMILIES, indirect=True)
def test_a_recorded_step_is_the_launched_one(checkpoint, cache, fill_adapter):
    rows = []
    for graphs in (True, False):
        model, _ = FastLanguageModel.from_pretrained(
            checkpoint, dtype=torch.float32, graphs=graphs, cache_directory=cache
        )
        FastLanguageModel.get_peft_model(model, r=8)
        fill_adapter(model)
        inputs = {name: tensor.cuda() for name, tensor in prompts(model.shape.vocab).items()}
        rows.append(model.generate(**inputs, **GREEDY, max_new_tokens=100))
    assert torch.equal(*rows)
