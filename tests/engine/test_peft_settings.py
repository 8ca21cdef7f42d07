"""Adapters that PEFT wrote: what is read is what PEFT computes, and what is not computed here is refused by name.

Also how long an adapter stays on a model, and whose tokens and directories it remembers.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import warnings

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Gemma3Config, Gemma3ForConditionalGeneration, Gemma3TextConfig

from agentloop.engine import FastLanguageModel
from agentloop.engine.io.adapter import HARMLESS
from agentloop.engine.lora.buffer import TARGETS
from agentloop.errors import AdapterError, SettingError

IDS = [3, 50, 7, 8, 90, 12, 44, 5]


@pytest.fixture(scope="module")
def base(checkpoint, cache):
    return FastLanguageModel.from_pretrained(checkpoint, cache_directory=cache)


@pytest.fixture
def model(base):
    return FastLanguageModel.get_peft_model(base[0].unload(), r=8, lora_alpha=16)


@pytest.fixture
def adapter(model, fill_adapter, tmp_path):
    fill_adapter(model)
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def change(directory, **settings):
    path = directory / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def refusal(directory, cache) -> str:
    with pytest.raises(AdapterError) as error:
        FastLanguageModel.from_pretrained(directory, cache_directory=cache)
    assert "\n" not in str(error.value) and str(directory) in str(error.value)
    return str(error.value)


def logprobs(network) -> torch.Tensor:
    with torch.no_grad():
        logits = network(input_ids=torch.tensor([IDS])).logits[0, :-1]
    return torch.log_softmax(logits, -1).gather(-1, torch.tensor(IDS[1:])[:, None])[:, 0]


# settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("alora_invocation_tokens", [5, 7]),
        ("kasa_config", {"beta": 0.1}),
        ("velora_config", {"rank": 1}),
        ("monteclora_config", {"samples": 4}),
        ("arrow_config", {"top_k": 2}),
        ("use_qalora", True),
        ("use_bdlora", {"blocks": 2}),
        ("a_variant_of_next_year", True),
        ("use_rslora", "false"),
    ],
)
def test_a_setting_that_is_on_and_not_computed_is_refused(adapter, cache, name, value):
    change(adapter, **{name: value})
    assert f"adapter_config.json: {name} {value!r} is " in refusal(adapter, cache)


@pytest.mark.parametrize(
    "settings", [{"a_variant_of_next_year": off} for off in (None, False, {}, [], "")] + [{"lora_dropout": 0.05}]
)
def test_a_setting_that_is_off_is_read(adapter, model, cache, settings):
    change(adapter, **settings)
    again, _ = FastLanguageModel.from_pretrained(adapter, cache_directory=cache)
    assert torch.equal(again.lora.parameters, model.lora.parameters)


def test_each_setting_of_pefts_is_off_or_known(adapter, model, cache, tmp_path):
    """Of the PEFT that is installed: its plain LoRA loads."""
    plain = LoraConfig(r=8, lora_alpha=16, target_modules=list(TARGETS))
    plain.save_pretrained(tmp_path / "plain")
    written = json.loads((tmp_path / "plain" / "adapter_config.json").read_text())
    change(adapter, **(written | {"base_model_name_or_path": str(model.directory)}))
    again, _ = FastLanguageModel.from_pretrained(adapter, cache_directory=cache)
    assert torch.equal(again.lora.parameters, model.lora.parameters)
    assert HARMLESS <= {field.name for field in dataclasses.fields(LoraConfig)}


def test_an_alora_of_pefts_is_not_taken_for_lora(checkpoint, cache, tmp_path):
    network = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    config = LoraConfig(
        r=8, target_modules=rf".*\.({'|'.join(TARGETS)})", task_type="CAUSAL_LM", alora_invocation_tokens=[7, 8]
    )
    get_peft_model(network, config).save_pretrained(tmp_path / "alora")
    change(tmp_path / "alora", base_model_name_or_path=str(checkpoint))
    assert "alora_invocation_tokens [7, 8] is not supported" in refusal(tmp_path / "alora", cache)


# names


@pytest.fixture(scope="module")
def multimodal(tmp_path_factory):
    """A Gemma 3 whose tower has layers as wide as the text's."""
    directory = tmp_path_factory.mktemp("multimodal")
    from agentloop.tiny.gemma import random_gemma_checkpoint

    random_gemma_checkpoint(directory / "text", 3)
    text = Gemma3TextConfig.from_pretrained(directory / "text")
    tower = {
        "hidden_size": 128, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16,
        "patch_size": 8, "model_type": "siglip_vision_model",
    }  # fmt: skip
    config = Gemma3Config(text_config=text.to_dict(), vision_config=tower, mm_tokens_per_image=4)
    torch.manual_seed(0)
    network = Gemma3ForConditionalGeneration(config).to(torch.float32)
    network.save_pretrained(directory / "whole")
    for file in (directory / "text").glob("*token*"):
        shutil.copy(file, directory / "whole")
    return directory / "whole", network


def written_by_peft(multimodal, directory, **settings):
    where, network = multimodal
    config = LoraConfig(r=8, lora_alpha=16, init_lora_weights=False, target_modules=["k_proj", "v_proj"], **settings)
    torch.manual_seed(1)
    peft = get_peft_model(network, config)
    peft.save_pretrained(directory)
    change(directory, base_model_name_or_path=str(where))
    expected = logprobs(peft.eval())
    peft.unload()
    return expected


def test_a_towers_adapter_is_not_the_texts(multimodal, cache, tmp_path):
    written_by_peft(multimodal, tmp_path / "both")
    tensors = load_file(tmp_path / "both" / "adapter_model.safetensors")
    (name, other) = (
        next(n for n in tensors if part in n and n.endswith("layers.0.self_attn.k_proj.lora_A.weight"))
        for part in ("vision_tower", "language_model")
    )
    assert tensors[name].shape == tensors[other].shape
    message = refusal(tmp_path / "both", cache)
    assert "vision_tower" in message and message.endswith("would be dropped")


def test_the_texts_adapter_of_a_multimodal_model(multimodal, cache, tmp_path):
    expected = written_by_peft(multimodal, tmp_path / "text", exclude_modules=r".*vision_tower.*")
    model, _ = FastLanguageModel.from_pretrained(tmp_path / "text", load_in_4bit=False, cache_directory=cache)
    torch.testing.assert_close(model.logprobs(IDS), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "prefix",
    [
        "base_model.model.model.", "base_model.model.", "base_model.model.model.language_model.",
        "base_model.model.language_model.model.", "",
    ],
)  # fmt: skip
def test_every_way_to_name_the_layers(adapter, model, cache, prefix):
    file = adapter / "adapter_model.safetensors"
    tensors = {name[name.index("layers.") :]: tensor for name, tensor in load_file(file).items()}
    save_file({prefix + name: tensor for name, tensor in tensors.items()}, file)
    again, _ = FastLanguageModel.from_pretrained(adapter, cache_directory=cache)
    assert torch.equal(again.lora.parameters, model.lora.parameters)


@pytest.mark.parametrize("prefix", ["base_model.model.model.audio_tower.", "base_model.model.model.mtp.", "other."])
def test_other_layers_keep_their_name(adapter, cache, prefix):
    file = adapter / "adapter_model.safetensors"
    tensors = {prefix + name[name.index("layers.") :]: tensor for name, tensor in load_file(file).items()}
    save_file(load_file(file) | tensors, file)
    assert f"{prefix}layers.0." in refusal(adapter, cache)
    save_file(tensors, file)
    assert "layers.0.mlp.down_proj.lora_A.weight is missing" in refusal(adapter, cache)


def test_two_adapters_in_one_file(adapter, cache):
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file(tensors | {name.replace("model.layers", "layers"): 2 * each for name, each in tensors.items()}, file)
    assert "two adapters for the same layers" in refusal(adapter, cache)


# how long an adapter stays


@pytest.mark.parametrize("how", ["loaded", "trained"])
def test_an_adapter_with_work_in_it_stays(adapter, model, cache, how):
    if how == "loaded":
        model, _ = FastLanguageModel.from_pretrained(adapter, cache_directory=cache)
    before = model.lora.parameters.clone()
    with pytest.warns(UserWarning, match="its weights stay"):
        assert FastLanguageModel.get_peft_model(model, r=8, lora_alpha=16) is model
    assert torch.equal(model.lora.parameters, before)
    for changed in (
        {"r": 16}, {"lora_alpha": 8}, {"use_rslora": True}, {"target_modules": ["q_proj"]}, {"layers_to_transform": [1]},
        *([{"random_state": 1}] if how == "trained" else []),
    ):  # fmt: skip
        with pytest.raises(SettingError) as error:
            FastLanguageModel.get_peft_model(model, **{"r": 8, "lora_alpha": 16} | changed)
        assert str(error.value).startswith(f"{next(iter(changed))}: ") and "model.unload()" in str(error.value)
        assert torch.equal(model.lora.parameters, before)
    if how == "loaded":
        with pytest.warns(UserWarning, match="its weights stay"):
            FastLanguageModel.get_peft_model(model, r=8, lora_alpha=16, random_state=1)


def test_a_fresh_adapter_is_replaced(model):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert FastLanguageModel.get_peft_model(model, r=16).lora.settings.rank == 16


def test_taking_it_off(adapter, model):
    on, off = model.logprobs(IDS), model.logprobs(IDS, adapter=False)
    assert model.unload() is model and not list(model.parameters())
    assert torch.equal(model.logprobs(IDS), off) and not torch.equal(on, off)
    assert model.unload() is model
    FastLanguageModel.get_peft_model(model, r=8, lora_alpha=16).load_adapter(adapter)
    assert torch.equal(model.logprobs(IDS), on)


@pytest.mark.parametrize("spoiled", ["rank", "file", "value"])
def test_an_adapter_that_cannot_be_loaded_leaves_the_one_that_is_there(adapter, model, spoiled, tmp_path):
    broken = shutil.copytree(adapter, tmp_path / "broken")
    if spoiled == "rank":
        change(broken, r=16)
    elif spoiled == "file":
        (broken / "adapter_model.safetensors").write_bytes(b"nothing")
    else:
        tensors = load_file(broken / "adapter_model.safetensors")
        save_file(tensors | {max(tensors): tensors[max(tensors)] * torch.inf}, broken / "adapter_model.safetensors")
    before = model.lora.parameters.clone()
    with pytest.raises(AdapterError):
        model.load_adapter(broken)
    assert torch.equal(model.lora.parameters, before) and torch.equal(model.adapter, before)


# what it remembers


@pytest.mark.parametrize("form", ["from where it was trained", "beside the adapter"])
def test_the_base_is_found_from_anywhere(checkpoint, cache, fill_adapter, tmp_path, monkeypatch, form):
    shutil.copytree(checkpoint, tmp_path / "here" / "base")
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    model, tokenizer = FastLanguageModel.from_pretrained("base", cache_directory=cache)
    model = FastLanguageModel.get_peft_model(model, r=8)
    fill_adapter(model)
    model.save_pretrained("adapter")
    if form == "beside the adapter":
        change(tmp_path / "here" / "adapter", base_model_name_or_path="../base")
    monkeypatch.chdir(tmp_path / "there")
    again, _ = FastLanguageModel.from_pretrained(tmp_path / "here" / "adapter", cache_directory=cache)
    assert torch.equal(again.logprobs(IDS), model.logprobs(IDS))
    model.generation_config, model.config  # read when they are first asked for
    model.save_pretrained_merged("merged", tokenizer)
    theirs = AutoModelForCausalLM.from_pretrained("merged", dtype=torch.float32)
    plain, _ = FastLanguageModel.from_pretrained("merged", load_in_4bit=False, cache_directory=cache)
    torch.testing.assert_close(plain.logprobs(IDS), logprobs(theirs), rtol=0, atol=1e-4)
    network = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    PeftModel.from_pretrained(network, tmp_path / "here" / "adapter")


def test_a_tokenizer_with_more_tokens_than_rows(checkpoint, cache, model, tmp_path):
    _, tokenizer = FastLanguageModel.from_pretrained(checkpoint, cache_directory=cache)
    tokenizer.add_tokens(["<think>", "</think>"])
    rows = model.shape.vocab
    for method in ("merged_16bit", "lora"):
        with pytest.raises(
            SettingError, match=rf"^tokenizer: token '<think>' has the id {rows}, and the model rows for 0 to"
        ):
            model.save_pretrained_merged(tmp_path / "merged", tokenizer, save_method=method)
        assert not (tmp_path / "merged").exists()
    ids = torch.tensor([tokenizer("<think>7").input_ids])
    with pytest.raises(SettingError, match=f"token ids: {rows} is none of the model's {rows} tokens"):
        model(ids, labels=ids)


def test_a_base_whose_own_tokenizer_has_more_tokens(checkpoint, cache, fill_adapter, tmp_path):
    """As Gemma 3 270M and 1B have: one for images, which no text is made of."""
    base = shutil.copytree(checkpoint, tmp_path / "base")
    _, tokenizer = FastLanguageModel.from_pretrained(base, cache_directory=cache)
    tokenizer.add_tokens(["<image_soft_token>"])
    tokenizer.save_pretrained(base)
    model, tokenizer = FastLanguageModel.from_pretrained(base, cache_directory=cache)
    assert len(tokenizer) == model.shape.vocab + 1
    model = FastLanguageModel.get_peft_model(model, r=8)
    model.save_pretrained_merged(tmp_path / "merged", tokenizer)
    assert (
        FastLanguageModel.from_pretrained(tmp_path / "merged", cache_directory=cache)[0].shape.vocab
        == model.shape.vocab
    )
