"""The arguments of FastLanguageModel: each does what it says, or is refused in one line that names it."""

from __future__ import annotations

import json
import shutil
from math import nan

import pytest
import torch
from transformers import BitsAndBytesConfig

from agentloop.engine import FastLanguageModel, FastModel
from agentloop.engine.batch import join
from agentloop.engine.lora.buffer import ATTENTION, FEEDFORWARD, TARGETS
from agentloop.engine.meta.blueprint import META, ImpliedCheckpoint
from agentloop.engine.models.families import load_weights
from agentloop.errors import ModelError, SettingError


@pytest.fixture(scope="module")
def base(checkpoint, cache):
    return FastLanguageModel.from_pretrained(checkpoint, cache_directory=cache)[0]


@pytest.mark.parametrize(
    "arguments",
    [
        {"r": 0}, {"r": "16"}, {"r": 16.0}, {"target_modules": ["q_proj", "lm_head"]}, {"target_modules": "q_proj"},
        {"target_modules": []}, {"lora_alpha": 0}, {"lora_alpha": nan}, {"random_state": None}, {"lora_dropout": 0.1}, {"bias": "all"}, {"layers_to_transform": [0, 5]}, {"modules_to_save": ["lm_head"]},
        {"use_dora": True}, {"init_lora_weights": "pissa"}, {"finetune_language_layers": False}, {"task_type": "SEQ_CLS"},
        {"finetune_last_n_layers": 0}, {"finetune_last_n_layers": 2, "layers_to_transform": [1]}, {"layers_pattern": "blocks"},
        {"target_parameters": ["experts"]}, {"loftq_config": {"bits": 4}}, {"ensure_weight_tying": True}, {"qat_scheme": "int4"},
    ],
    ids=lambda arguments: next(iter(arguments)),
)  # fmt: skip
def test_refused(base, arguments):
    with pytest.raises(SettingError) as error:
        FastLanguageModel.get_peft_model(base, **arguments)
    assert str(error.value).startswith(f"{next(iter(arguments))}: ") and "\n" not in str(error.value)


def test_what_carries_an_adapter(base):
    """Layers 3 and 4 of five have no keys and values of their own."""
    model = FastLanguageModel.get_peft_model(
        base,
        r=8,
        target_modules=["k_proj", "down_proj"],
        layers_to_transform=[1, 4],
        loftq_config=None,
        init_lora_weights=True,
        max_seq_length=64,
    )
    assert sorted(model.lora.slots) == [
        "layers.1.mlp.down_proj", "layers.1.self_attn.k_proj", "layers.4.mlp.down_proj",
    ]  # fmt: skip
    assert len(FastLanguageModel.get_peft_model(base, r=8, target_modules="all-linear").lora.slots) == 5 * 7 - 2 * 2
    assert len(FastLanguageModel.get_peft_model(base, r=8, layers_to_transform=3).lora.slots) == 5
    with pytest.raises(ModelError, match="target_modules"):
        FastLanguageModel.get_peft_model(base, r=8, target_modules=["v_proj"], layers_to_transform=[4])


def test_scale_and_seed(base):
    model = FastLanguageModel.get_peft_model(base, r=16, lora_alpha=32)
    first = model.lora.parameters.clone()
    assert model.lora.settings.scale == 2
    model = FastLanguageModel.get_peft_model(base, r=16, lora_alpha=32, use_rslora=True, random_state=1)
    assert model.lora.settings.scale == 8
    assert not torch.equal(model.lora.parameters, first)
    model = FastLanguageModel.get_peft_model(base, r=16, use_gradient_checkpointing=False)
    assert torch.equal(model.lora.parameters, first)


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_seq_length": None}, {"max_seq_length": 0}, {"dtype": "int8"}, {"dtype": torch.int8}, {"device": "tpu"},
        {"device": 1.5}, {"memory_budget": 0}, {"memory_budget": "lots"}, {"memory_budget": nan}, {"text_only": False},
        {"full_finetuning": True}, {"load_in_8bit": True}, {"rope_scaling": {"factor": 2}}, {"device": "cuda:99"}, {"model_name": None},
        {"fast_inference": True}, {"load_in_fp8": "block"}, {"resize_model_vocab": 300}, {"float32_mixed_precision": True},
        {"return_logits": True}, {"qat_scheme": "int4"}, {"auto_model": object}, {"device_map": "balanced"}, {"revision": "v2"},
        {"quantization_config": {"load_in_8bit": True}}, {"quantization_config": BitsAndBytesConfig(load_in_4bit=True)},
        {"quantization_config": "nf4"},
    ],
    ids=str,
)  # fmt: skip
def test_refused_at_loading(checkpoint, cache, arguments):
    with pytest.raises(SettingError) as error:
        FastLanguageModel.from_pretrained(**{"model_name": checkpoint, "cache_directory": cache} | arguments)
    assert str(error.value).startswith(f"{next(iter(arguments))}: ") and "\n" not in str(error.value)


def test_unsloths_script(checkpoint, cache, tmp_path):
    """Its arguments for Gemma 3n."""
    model, tokenizer = FastModel.from_pretrained(
        model_name=str(checkpoint),
        dtype="float32",
        max_seq_length=1024,
        load_in_4bit=True,
        full_finetuning=False,
        local_files_only=True,
        trust_remote_code=False,
        text_only=True,
        offload_embedding=False,
        cache_directory=cache,
    )
    assert model.dtype == torch.float32
    usual = dict(finetune_vision_layers=False, finetune_language_layers=True, task_type="CAUSAL_LM", r=8, bias="none")
    model = FastModel.get_peft_model(
        model, finetune_attention_modules=True, finetune_mlp_modules=True, random_state=3407, **usual
    )
    assert model.lora.settings.targets == TARGETS
    assert FastModel.get_peft_model(model, finetune_mlp_modules=False, **usual).lora.settings.targets == ATTENTION
    model = FastModel.get_peft_model(model, finetune_attention_modules=False, **usual)
    assert model.lora.settings.targets == FEEDFORWARD
    with pytest.raises(SettingError, match="finetune_mlp_modules"):
        FastModel.get_peft_model(model, target_modules=["q_proj"], finetune_attention_modules=False, **usual)
    model.save_pretrained(tmp_path / "adapter", safe_serialization=True)
    model.save_pretrained_merged(tmp_path / "merged", tokenizer, maximum_memory_usage=0.5)
    for refused in ({"safe_serialization": False}, {"push_to_hub": True}):
        with pytest.raises(SettingError, match=next(iter(refused))):
            model.save_pretrained(tmp_path / "adapter", **refused)


def test_arguments_that_change_nothing(checkpoint, cache):
    """Each of Unsloth's, with a value that its documentation or a notebook of its gives it."""
    model, _ = FastModel.from_pretrained(
        model_name=str(checkpoint), max_seq_length=64, dtype=None, load_in_4bit=True, load_in_8bit=False, token="hf_…",
        load_in_16bit=False, load_in_fp8=False, full_finetuning=False, device_map="sequential", rope_scaling=None,
        fix_tokenizer=True, trust_remote_code=False, use_gradient_checkpointing="unsloth", resize_model_vocab=None,
        revision=None, use_exact_model_name=False, offload_embedding=False, float32_mixed_precision=None,
        fast_inference=False, gpu_memory_utilization=0.6, float8_kv_cache=True, random_state=1, max_lora_rank=64,
        disable_log_stats=True, qat_scheme=None, unsloth_tiled_mlp=True, text_only=True, return_logits=False,
        fullgraph=True, auto_model=None, whisper_language=None, whisper_task=None, unsloth_force_compile=True,
        target_parameters=None, attn_implementation="sdpa", quantization_config=None, cache_directory=cache,
    )  # fmt: skip
    model = FastModel.get_peft_model(
        model, r=8, target_modules=list(TARGETS), lora_alpha=8, lora_dropout=0, bias="none",
        finetune_vision_layers=True, finetune_audio_layers=True, finetune_language_layers=True,
        finetune_attention_modules=True, finetune_mlp_modules=True, finetune_last_n_layers=None, layers_pattern=None,
        layers_to_transform=None, use_gradient_checkpointing="unsloth", random_state=3407, max_seq_length=64,
        use_rslora=False, modules_to_save=None, init_lora_weights=True, loftq_config={}, task_type="CAUSAL_LM",
        temporary_location="buffers", qat_scheme=None, target_parameters=None, ensure_weight_tying=False,
    )  # fmt: skip
    assert len(model.lora.slots) == 5 * 7 - 2 * 2


def test_the_last_layers(base):
    model = FastLanguageModel.get_peft_model(base, r=8, finetune_last_n_layers=2)
    assert {name.split(".")[1] for name in model.lora.slots} == {"3", "4"}
    assert len(FastLanguageModel.get_peft_model(base, r=8, finetune_last_n_layers=99).lora.slots) == 5 * 7 - 2 * 2


def test_towers_are_not_trained(checkpoint, cache, tmp_path):
    """There is none in a language model's own directory; of another's directory it is not loaded."""
    directory = tmp_path / "multimodal"
    shutil.copytree(checkpoint, directory)
    text = json.loads((checkpoint / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({"model_type": "gemma3n", "text_config": text}))
    model, _ = FastLanguageModel.from_pretrained(directory, cache_directory=cache)
    for name in ("finetune_vision_layers", "finetune_audio_layers"):
        with pytest.raises(SettingError, match=f"^{name}: True is not supported: the language model alone"):
            FastLanguageModel.get_peft_model(model, r=8, **{name: True})


def test_in_16_bit_and_by_a_configuration(checkpoint, cache):
    def quantization(**options):
        return FastLanguageModel.from_pretrained(checkpoint, cache_directory=cache, **options)[0].quantization

    assert not quantization(load_in_16bit=True).in_4bit
    nf4 = dict(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    assert quantization(load_in_4bit=False, quantization_config=BitsAndBytesConfig(**nf4)) == quantization()
    # from the start of a module's name and from its end; "layers.2.mlp" is neither
    patterns = ["model.language_model.layers.1.mlp", "layers.0.self_attn.o_proj", "layers.2.mlp", "lm_head"]
    found = quantization(quantization_config=nf4 | {"llm_int8_skip_modules": patterns})
    names = [f"layers.1.mlp.{name}_proj" for name in ("down", "gate", "up")]
    assert set(found.in_16bit) == {"layers.0.self_attn.o_proj", *names}
    config = BitsAndBytesConfig(**nf4, bnb_4bit_compute_dtype=torch.bfloat16)
    model, _ = FastLanguageModel.from_pretrained(checkpoint, quantization_config=config, cache_directory=cache)
    assert model.dtype == torch.bfloat16


def test_the_table_counts_where_it_is(base):
    """Everything but the per-layer embeddings takes the same room on the device."""
    implied = ImpliedCheckpoint(base.shape)
    bytes_of = {
        offloaded: load_weights(
            base.shape, implied, None, device=META, dtype=torch.bfloat16, positions=64, offload_embedding=offloaded
        ).device_bytes
        for offloaded in (True, False)
    }
    table = base.shape.ple_vocab * base.shape.layers * base.shape.ple * 2
    assert bytes_of[False] - bytes_of[True] == table


def test_loading(checkpoint, cache, tmp_path):
    with pytest.raises(ModelError, match="google/gemma-3n-E4B-it: no such directory"):
        FastLanguageModel.from_pretrained("google/gemma-3n-E4B-it")
    model, _ = FastLanguageModel.from_pretrained(checkpoint, load_in_4bit=False, token=None, cache_directory=cache)
    with pytest.raises(ModelError, match="no adapter"):
        model.loss_and_gradients(join([([5, 6, 7], [True] * 3)]))


def test_an_adapters_directory_brings_its_base(checkpoint, cache, fill_adapter, tmp_path):
    model, tokenizer = FastLanguageModel.from_pretrained(checkpoint, cache_directory=cache)
    model = FastLanguageModel.get_peft_model(model, r=8, lora_alpha=24, layers_to_transform=[0, 1], use_rslora=True)
    fill_adapter(model)
    for _ in range(2):  # the second replaces the first
        model.lora.parameters.mul_(2)
        model.save_pretrained(tmp_path / "adapter")
    tokenizer.add_special_tokens({"eos_token": "<end_of_turn>"})
    tokenizer.save_pretrained(tmp_path / "adapter")
    again, tokenizer = FastLanguageModel.from_pretrained(tmp_path / "adapter", cache_directory=cache)
    assert torch.equal(again.lora.parameters, model.lora.parameters)
    assert again.lora.settings.scale == model.lora.settings.scale
    assert tokenizer.eos_token == "<end_of_turn>"
    for directory in (checkpoint, tmp_path / "adapter"):
        _, nothing = FastLanguageModel.from_pretrained(directory, cache_directory=cache, with_tokenizer=False)
        assert nothing is None


def test_a_module_that_stays_where_it_is(base):
    model = FastLanguageModel.get_peft_model(base, r=8)
    assert model.to("cpu") is model and FastLanguageModel.for_training(model).training
    with pytest.raises(SettingError, match="label_smoothing_factor"):
        model(torch.tensor([[5, 6]]))
    with pytest.raises(ModelError, match="embeddings are frozen"):
        model.resize_token_embeddings(500)
    assert not FastLanguageModel.for_inference(model).training
    assert model(torch.tensor([[5, 6]])).logits.shape == (1, 2, model.shape.vocab)
    for move in (model.half, lambda: model.to("meta")):
        with pytest.raises(ModelError, match="cannot be moved"):
            move()
    with pytest.raises(SettingError, match="inputs_embeds"):
        model(torch.tensor([[5, 6]]), inputs_embeds=torch.zeros(1, 2, 128))
    with pytest.raises(SettingError, match="num_beams"):
        model.generate(torch.tensor([[5, 6]]), num_beams=4)


def test_the_parameter_is_the_adapter(checkpoint, cache):
    """Where the engine computes with a 16-bit copy of it, too."""
    model, _ = FastLanguageModel.from_pretrained(checkpoint, dtype=torch.bfloat16, cache_directory=cache)
    model = FastLanguageModel.get_peft_model(model, r=8)
    assert [parameter.numel() for parameter in model.parameters()] == [model.lora.parameters.numel()]
    before = model.logprobs([5, 6, 7, 8])
    with torch.no_grad():
        model.adapter.normal_(0, 0.1)
    assert not torch.equal(model.logprobs([5, 6, 7, 8]), before)
    assert torch.equal(model.logprobs([5, 6, 7, 8], adapter=False), before)
