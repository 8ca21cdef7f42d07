"""What is exported is what was trained, by the programs that it is for."""

from __future__ import annotations

import json
import shutil

import gguf
import numpy as np
import pytest
import torch
from computable import FAMILIES, LLAMA
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from agentloop.engine import FastLanguageModel
from agentloop.engine.export import exporting
from agentloop.errors import ModelError, SettingError
from agentloop.exports import llama, modelfile, prompts, readers
from agentloop.gguf.exporting import write_gguf
from agentloop.gguf.file import open_gguf
from agentloop.gguf.importing import imported


def families(*quick: str) -> pytest.MarkDecorator:
    each = [family if family in quick else pytest.param(family, marks=pytest.mark.slow) for family in FAMILIES]
    return pytest.mark.parametrize("family", each)


EACH = families("gemma3")


@LLAMA
@EACH
def test_gguf_of_every_type_by_llama_cpp(trained, tmp_path, family):
    model, _ = trained(family, load_in_4bit=True)
    out = tmp_path / "out"
    kinds = ["q4_k_m", "f32", "f16", "bf16", "q8_0"]
    figures = model.save_pretrained_gguf(out, quantization_method=kinds)
    assert {each.program for each in figures} == {"llama.cpp"}
    means = {each.export.removeprefix("model-").removesuffix(".gguf"): each.mean for each in figures}
    assert means.keys() == set(kinds)
    assert means["f32"] < means["bf16"] < means["q8_0"] < means["q4_k_m"]
    for each in figures:
        assert each.mean < each.bound / 3 and each.effect > 0.1, each
        assert (each.share is None) == ("-q" in each.export) and abs((each.share or 1) - 1) < 0.05, each
    assert json.loads((out / "verification.json").read_text())[0]["program"] == "llama.cpp"
    assert "FROM ./model-q4_k_m.gguf\n" in (out / "Modelfile").read_text()
    assert sorted(file.name for file in out.iterdir()) == sorted(
        ["Modelfile", "verification.json", *(f"model-{kind}.gguf" for kind in kinds)]
    )


@EACH
def test_gguf_without_llama_cpp_is_read_again(trained, tmp_path, family, monkeypatch):
    monkeypatch.setattr("agentloop.exports.llama.missing", lambda: "it is not here")
    model, _ = trained(family)
    figures = model.save_pretrained_gguf(tmp_path / "out", quantization_method="fast_quantized")
    assert [(each.export, each.program) for each in figures] == [
        ("model-f32.gguf", "transformers"),
        ("model-q8_0.gguf", "transformers"),
    ]
    assert not (tmp_path / "out" / "model-f32.gguf").exists(), "what was only checked is not kept"


@LLAMA
@families("gemma3", "gemma3n")
def test_an_adapter_over_its_base_by_llama_cpp(trained, tmp_path, family):
    model, _ = trained(family, load_in_4bit=True)
    (figures,) = model.save_pretrained_gguf(tmp_path / "out", quantization_method="f16", save_method="lora")
    assert figures.export == "adapter.gguf" and figures.mean < 0.003 and 0.98 < figures.share < 1.02
    assert open_gguf(tmp_path / "out" / "adapter.gguf").metadata["adapter.lora.alpha"] == pytest.approx(16 * 8**0.5)
    assert "FROM ./model-f16.gguf\nADAPTER ./adapter.gguf\n" in (tmp_path / "out" / "Modelfile").read_text()


@pytest.mark.parametrize("base", ["bf16", "dequantised"])
@EACH
def test_merged_by_transformers(trained, tmp_path, family, base):
    """Whichever base the adapter was trained on: the engine is asked on the one that it is merged onto."""
    for in_4bit in (False, True):
        model, tokenizer = trained(family, load_in_4bit=in_4bit)
        (figures,) = model.save_pretrained_merged(tmp_path / f"{in_4bit}", tokenizer, base=base)
        assert figures.program == "transformers" and figures.mean < 1e-5 and figures.share == pytest.approx(1, abs=1e-3)


@families("gemma3", "gemma3n")
@pytest.mark.parametrize("kind", ["f32", "bf16"])
def test_names_are_those_of_the_package_gguf(checkpoints, tmp_path, family, kind):
    """Its table was made by others; that files are read by the table by which they are written would show no error in it."""
    file = tmp_path / "model.gguf"
    write_gguf(checkpoints(family), file, kind)
    written = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    weights = {name: each for name, each in load_file(checkpoints(family) / "model.safetensors").items()}
    weights.pop("lm_head.weight", None)
    architecture = {"gemma1": "gemma"}.get(family, family)
    layers = max(int(name.split(".")[2]) for name in weights if ".layers." in name) + 1
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.upper()], layers)
    for name, values in weights.items():
        if "altup_projections" in name or "altup_unembed" in name:
            continue
        tensor = written.pop(names.get_name(name.removesuffix(".weight")) + ".weight")
        expected = values.numpy() + (name.endswith("norm.weight") and family != "gemma3n")
        if values.dim() > 1 and kind == "bf16" and tensor.tensor_type == gguf.GGMLQuantizationType.BF16:
            expected = values.bfloat16().float().numpy()
        got = gguf.dequantize(tensor.data, tensor.tensor_type)[: len(expected)]
        np.testing.assert_allclose(got, expected.astype(np.float32), rtol=0, atol=1e-6, err_msg=name)
    others = {name.split(".")[2] if name.startswith("blk") else name for name in written}
    if family == "gemma3n":
        assert others == {"attn_k", "attn_v", "attn_k_norm", "altup_proj.weight", "altup_unembd_proj.weight"}
        assert not any(tensor.data.any() for name, tensor in written.items() if name.startswith("blk"))
    else:
        assert others == set()


@LLAMA
@EACH
def test_out_in_and_out_again_with_the_same_greedy_answers(trained, tmp_path, family):
    """GGUF, training, GGUF: llama.cpp answers as transformers does with the merged model."""
    first, _ = trained(family)
    first.save_pretrained_gguf(tmp_path / "first", quantization_method="bf16")
    directory = imported(tmp_path / "first" / "model-bf16.gguf", tmp_path / "models", cache=tmp_path / "cache")
    model, tokenizer = FastLanguageModel.from_pretrained(directory, load_in_4bit=False, cache_directory=tmp_path)
    model = FastLanguageModel.get_peft_model(model, r=4)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        model.lora.parameters.copy_(0.05 * torch.randn(model.lora.parameters.shape, generator=generator))
    model.save_pretrained_gguf(tmp_path / "second", quantization_method="f32")
    model.save_pretrained_merged(tmp_path / "merged")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32, attn_implementation="eager")
    asked = [ids[:20] for ids in prompts.prompts(tokenizer).asked]
    answers = llama.ask(next((tmp_path / "second").glob("*.gguf")), prompts=asked, new_tokens=8).greedy
    for ids, answer in zip(asked, answers, strict=True):
        with torch.no_grad():
            expected = theirs.generate(torch.tensor([ids]), max_new_tokens=8, do_sample=False)[0, len(ids) :]
        assert answer == expected.tolist()[: len(answer)] and answer


@pytest.mark.parametrize("quantization_method", ["q5_0", ["f16", "int4"], [], 7])
def test_types_that_are_not_written(trained, tmp_path, quantization_method):
    model, _ = trained("gemma3")
    with pytest.raises(SettingError, match="^quantization_method: "):
        model.save_pretrained_gguf(tmp_path / "out", quantization_method=quantization_method)
    assert not (tmp_path / "out").exists()


def test_q4_without_llama_cpps_library_and_a_directory_that_is_there(trained, tmp_path, monkeypatch):
    model, _ = trained("gemma3")
    with pytest.raises(SettingError, match="exists already"):
        model.save_pretrained_gguf(tmp_path)
    monkeypatch.setattr("agentloop.gguf.llama_library.library", lambda: None)
    with pytest.raises(SettingError, match=r"q4_k_m is made by llama.cpp; .*pip install 'agentloop\[llamacpp\]'"):
        model.save_pretrained_gguf(tmp_path / "out", quantization_method="quantized")


SETTINGS = [
    ("gemma3", {"query_pre_attn_scalar": 50}, "query_pre_attn_scalar 50: llama.cpp computes gemma3 with 64 alone"),
    ("gemma2", {"attn_logit_softcapping": None}, "llama.cpp always caps gemma2"),
    ("gemma2", {"layer_types": ["full_attention"] * 4}, "layer_types"),
    ("gemma3n", {"activation_sparsity_pattern": [0.9] * 10 + [0.0] * 15}, "activation_sparsity_pattern"),
    ("gemma3n", {"num_kv_shared_layers": 10}, "layers with keys and values of their own 15"),
]


@pytest.mark.parametrize(("family", "settings", "told"), SETTINGS)
def test_what_llama_cpp_has_in_its_code_is_refused_where_it_differs(checkpoints, tmp_path, family, settings, told):
    directory = tmp_path / "model"
    directory.mkdir()
    for file in checkpoints(family).iterdir():
        (directory / file.name).symlink_to(file)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").unlink()
    (directory / "config.json").write_text(json.dumps(config | settings))
    with pytest.raises(ModelError) as caught:
        write_gguf(directory, tmp_path / "model.gguf", "f32")
    assert str(caught.value).startswith(f"{directory}/config.json: ") and told in str(caught.value)
    assert not (tmp_path / "model.gguf").exists()


def test_a_tokenizer_that_is_not_sentencepieces(tmp_path):
    from agentloop.tiny.gemma import random_gemma_checkpoint

    random_gemma_checkpoint(tmp_path / "model", 1)
    with pytest.raises(ModelError, match="model: its tokenizer is not SentencePiece's"):
        write_gguf(tmp_path / "model", tmp_path / "model.gguf", "f32")


def test_values_that_fp16_cannot_hold(checkpoints, tmp_path):
    directory = tmp_path / "model"
    directory.mkdir()
    for file in checkpoints("gemma3").iterdir():
        if file.suffix != ".safetensors":
            (directory / file.name).symlink_to(file)
    weights = load_file(checkpoints("gemma3") / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 5] = 1e5
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="tensor blk.1.ffn_up.weight has values that F16 cannot hold; bf16 can"):
        write_gguf(directory, tmp_path / "model.gguf", "f16")
    write_gguf(directory, tmp_path / "model.gguf", "bf16")


def test_a_file_that_llama_cpp_refuses_is_one_line(tmp_path):
    if llama.missing():
        pytest.skip(llama.missing())
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ModelError, match="x.gguf: llama.cpp refused it: ") as caught:
        llama.ask(tmp_path / "x.gguf", sequences=[[1, 2]])
    assert "\n" not in str(caught.value)


def test_the_modelfile_has_the_turns_of_a_template_of_ones_own(trained, tmp_path):
    _, tokenizer = trained("gemma3")
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + ('agent' if m.role == 'assistant' else 'user') + '\n' "
        "+ m.content + '<end_of_turn>' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>agent\n' }}{% endif %}"
    )
    modelfile.write(tmp_path / "Modelfile", tokenizer, model="x.gguf", adapter=None, stop=["<end_of_turn>"])
    written = modelfile.rendered((tmp_path / "Modelfile").read_text(), prompts.conversation())
    assert written == prompts.rendered(tokenizer, tokenizer.chat_template) and "<start_of_turn>agent\n" in written
    tokenizer.chat_template = "{{ messages[0].content }}"
    with pytest.raises(ModelError, match="Modelfile: the chat template of its tokenizer has no turns"):
        modelfile.write(tmp_path / "Modelfile", tokenizer, model="x.gguf", adapter=None, stop=[])


MULTIMODAL = [
    pytest.param("gemma3n", "gemma3n", "model.language_model.", marks=pytest.mark.slow),
    ("gemma3", "gemma3", "language_model.model."),
]


@pytest.mark.parametrize(("family", "kind", "prefix"), MULTIMODAL)
def test_the_language_model_of_a_multimodal_checkpoint(checkpoints, trained, tmp_path, family, kind, prefix):
    """Named as in the released files, beside a tower for which no library need be there."""
    source, directory = checkpoints(family), tmp_path / "multimodal"
    shutil.copytree(source, directory)
    text = json.loads((source / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({"model_type": kind, "text_config": text, "dtype": "float32"}))
    tensors = {
        name.replace("model.", prefix, 1): each for name, each in load_file(source / "model.safetensors").items()
    }
    tensors["vision_tower.encoder.layers.0.self_attn.q_proj.weight"] = torch.zeros(4)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    model, tokenizer = trained(family, directory=directory)
    (figures,) = model.save_pretrained_merged(tmp_path / "merged")
    assert figures.mean < 1e-5
    model.save_pretrained_gguf(tmp_path / "gguf", quantization_method="f32")
    model.save_pretrained(tmp_path / "adapter")
    expected = exporting.ask_engine(model, tokenizer, "bf16")
    figures = readers.check_adapter(tmp_path / "adapter", directory, expected, name="adapter")
    assert figures.mean < 1e-5 and figures.share == pytest.approx(1, abs=1e-3)
