"""Whatever is wrong with an export is found, and the export is gone."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pytest
import torch
from computable import FAMILIES, LLAMA
from safetensors.torch import load_file, save_file

from agentloop.engine.export import exporting, merged
from agentloop.errors import ModelError
from agentloop.exports import gguf_model, modelfile, readers
from agentloop.gguf import adapter, names, vocabulary
from agentloop.gguf import exporting as writing

FAULT = "not what was trained"


def refused(save, out) -> str:
    """The one line with which the export is refused; nothing of it is left."""
    before = set(out.parent.iterdir())
    with pytest.raises(ModelError) as caught:
        save(out)
    assert not out.exists() and set(out.parent.iterdir()) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(params=[pytest.param("llama.cpp", marks=LLAMA), "transformers"])
def program(request, monkeypatch):
    """Who reads a GGUF."""
    if request.param == "transformers":
        monkeypatch.setattr("agentloop.exports.llama.missing", lambda: "it is not here")
    return request.param


def plant_scale(monkeypatch, factor):
    """rsLoRA's scale for LoRA's, and the like: what is merged is scaled otherwise than what was trained."""
    right = merged.merged

    def wrong(weight, lora, slot):
        return weight + factor * (right(weight, lora, slot) - weight)

    monkeypatch.setattr(merged, "merged", wrong)


@pytest.mark.parametrize(
    ("factor", "kind"),
    [(8**-0.5, "f16"), (0.5, "q8_0"), pytest.param(0.5, "q4_k_m", marks=LLAMA)]
    + [pytest.param(factor, "q8_0", marks=pytest.mark.slow) for factor in (2, 0, -1)],
)
def test_a_wrong_scale(trained, tmp_path, monkeypatch, program, factor, kind):
    model, _ = trained("gemma3")
    plant_scale(monkeypatch, factor)
    told = refused(lambda out: model.save_pretrained_gguf(out, quantization_method=kind), tmp_path / "out")
    assert FAULT in told and program in told


def test_a_wrong_scale_of_a_merged_model(trained, tmp_path, monkeypatch):
    model, _ = trained("gemma3", load_in_4bit=True)
    plant_scale(monkeypatch, 0.5)
    assert FAULT in refused(model.save_pretrained_merged, tmp_path / "out")


def test_the_other_base_of_a_merged_model(trained, tmp_path, monkeypatch):
    model, _ = trained("gemma3", load_in_4bit=True)
    right = exporting.write_merged
    monkeypatch.setattr(exporting, "write_merged", lambda *words, base, **more: right(*words, base="bf16", **more))
    told = refused(lambda out: model.save_pretrained_merged(out, base="dequantised"), tmp_path / "out")
    assert FAULT in told


@LLAMA
@pytest.mark.parametrize("kind", ["f16", "q8_0"])
def test_a_wrong_scale_of_an_adapter(trained, tmp_path, monkeypatch, kind):
    """llama.cpp has no rsLoRA: where alpha is written as it is, the adapter is too weak by the root of its rank."""
    model, _ = trained("gemma3")
    monkeypatch.setattr(adapter, "_alpha", lambda config: config["lora_alpha"])
    told = refused(
        lambda out: model.save_pretrained_gguf(out, quantization_method=kind, save_method="lora"), tmp_path / "out"
    )
    assert FAULT in told and "adapter.gguf" in told


DROPPED = ["self_attn.o_proj", "mlp.down_proj", "self_attn.k_proj", "input_layernorm"]


@pytest.mark.parametrize(
    ("family", "dropped"),
    [("gemma3", "self_attn.k_proj")]
    + [pytest.param(*each, marks=pytest.mark.slow) for each in itertools.product(FAMILIES, DROPPED)],
)
def test_a_part_of_a_layer_that_is_lost(trained, tmp_path, monkeypatch, program, family, dropped):
    model, _ = trained(family)
    right = writing._blocks

    def zeroed(source, target, *others):
        lost = target.names == (f"model.layers.2.{dropped}.weight",)
        return (block * (not lost) for block in right(source, target, *others))

    monkeypatch.setattr(writing, "_blocks", zeroed)
    told = refused(lambda out: model.save_pretrained_gguf(out, quantization_method="f16"), tmp_path / "out")
    assert FAULT in told and program in told


def test_a_layer_that_is_dropped_whole(trained, tmp_path, monkeypatch, program):
    """As many layers are missing in the file as in its keys, so that it loads."""
    model, _ = trained("gemma3")
    right = writing.read_configuration
    monkeypatch.setattr(writing, "read_configuration", lambda path: _shorter(right(path)))
    told = refused(lambda out: model.save_pretrained_gguf(out, quantization_method="bf16"), tmp_path / "out")
    assert FAULT in told


def _shorter(sizes):
    return replace(sizes, layers=sizes.layers - 1, sliding=sizes.sliding[:-1], intermediate=sizes.intermediate[:-1])


@LLAMA
@pytest.mark.parametrize("family", [*(pytest.param(f"gemma{n}", marks=pytest.mark.slow) for n in (1, 2)), "gemma3"])
def test_a_missing_plus_one(trained, tmp_path, monkeypatch, family):
    """In the one table of names: what is read with it again is right, and llama.cpp says what it is."""
    model, _ = trained(family)
    right = names.expected

    def plain(sizes):
        return {name: replace(target, shift=0.0) for name, target in right(sizes).items()}

    monkeypatch.setattr(writing, "expected", plain)
    told = refused(lambda out: model.save_pretrained_gguf(out, quantization_method="f16"), tmp_path / "out")
    assert FAULT in told and "llama.cpp" in told


def test_a_missing_plus_one_in_writing_alone(trained, tmp_path, monkeypatch, program):
    model, _ = trained("gemma3")
    right = writing._blocks
    monkeypatch.setattr(
        writing, "_blocks", lambda source, target, *more: right(source, replace(target, shift=0.0), *more)
    )
    assert FAULT in refused(lambda out: model.save_pretrained_gguf(out, quantization_method="f16"), tmp_path / "out")


@LLAMA
def test_a_plus_one_that_gemma_3n_does_not_have(trained, tmp_path, monkeypatch):
    model, _ = trained("gemma3n")
    right = names.expected

    def shifted(sizes):
        return {
            name: replace(target, shift=-1.0 if name.endswith("norm.weight") else 0.0)
            for name, target in right(sizes).items()
        }

    monkeypatch.setattr(writing, "expected", shifted)
    assert FAULT in refused(lambda out: model.save_pretrained_gguf(out, quantization_method="f16"), tmp_path / "out")


def test_a_lost_tied_head(trained, tmp_path, monkeypatch):
    """The checkpoint says that it has a head of its own, and holds none: transformers makes one up."""
    model, _ = trained("gemma3")
    right = readers.check_directory

    def untied(directory, *words, **more):
        config = json.loads((directory / "config.json").read_text())
        (directory / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
        weights = load_file(directory / "model.safetensors")
        weights.pop("lm_head.weight", None)
        save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
        return right(directory, *words, **more)

    monkeypatch.setattr(readers, "check_directory", untied)
    assert FAULT in refused(model.save_pretrained_merged, tmp_path / "out")


def test_a_lost_tied_head_of_a_gguf(trained, tmp_path, monkeypatch, program):
    """A head of noise beside the embedding that is the head."""
    model, _ = trained("gemma3")
    right, blocks = writing.expected, writing._blocks

    def untied(sizes):
        return right(replace(sizes, tied=False))

    def noise(source, target, *more):
        if target.names == ("lm_head.weight",):
            generator = torch.Generator().manual_seed(9)
            return iter([0.06 * torch.randn(target.shape, generator=generator).numpy()])
        return blocks(source, target, *more)

    monkeypatch.setattr(writing, "expected", untied)
    monkeypatch.setattr(writing, "_blocks", noise)
    assert FAULT in refused(lambda out: model.save_pretrained_gguf(out, quantization_method="f16"), tmp_path / "out")


WRONG = (
    "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + m['role'] + '\n' + m['content'] + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
"""It calls the model's turns assistant's."""


def test_a_wrong_template_in_a_gguf(trained, tmp_path, monkeypatch, program):
    model, _ = trained("gemma3")
    right = vocabulary.read_vocabulary
    monkeypatch.setattr(writing, "read_vocabulary", lambda *words: replace(right(*words), chat_template=WRONG))
    told = refused(lambda out: model.save_pretrained_gguf(out, quantization_method="f16"), tmp_path / "out")
    assert "wrong template: its chat template writes 'assistant" in told


def test_a_wrong_template_of_a_merged_model(trained, tmp_path):
    model, tokenizer = trained("gemma3")
    expected = exporting.ask_engine(model, tokenizer, "bf16")
    tokenizer.chat_template = WRONG

    def save(out):
        exporting.save_merged(model, out, tokenizer=tokenizer, base="bf16", expected=expected)

    assert "wrong template" in refused(save, tmp_path / "out")


@pytest.mark.parametrize(
    ("there", "instead"),
    [
        ("<start_of_turn>model\n", "<start_of_turn>assistant\n"),
        ("<end_of_turn>\n<", "<end_of_turn><"),
        ("{{ .Prompt }}", ""),
    ],
)
def test_a_wrong_template_in_the_modelfile(trained, tmp_path, monkeypatch, there, instead):
    model, _ = trained("gemma3")
    right = modelfile.template
    monkeypatch.setattr(gguf_model.modelfile, "template", lambda *words: right(*words).replace(there, instead))
    told = refused(lambda out: model.save_pretrained_gguf(out, quantization_method="f16"), tmp_path / "out")
    assert told.startswith("Modelfile: ")


@LLAMA
def test_pieces_that_merge_in_another_order(trained, tmp_path, monkeypatch):
    model, _ = trained("gemma3")
    right = vocabulary.read_vocabulary

    def reverse(*words):
        return replace(right(*words), scores=right(*words).scores[::-1])

    monkeypatch.setattr(writing, "read_vocabulary", reverse)
    told = refused(lambda out: model.save_pretrained_gguf(out, quantization_method="f16"), tmp_path / "out")
    assert "as other tokens than the trainer" in told
