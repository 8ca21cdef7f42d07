"""Checkpoints written as GGUF the way llama.cpp's converter does it, by the package gguf's writer and table of names."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import sentencepiece
import torch
from safetensors.torch import load_file

ARCHITECTURES = {
    "gemma": gguf.MODEL_ARCH.GEMMA,
    "gemma2": gguf.MODEL_ARCH.GEMMA2,
    "gemma3_text": gguf.MODEL_ARCH.GEMMA3,
    "gemma3n_text": gguf.MODEL_ARCH.GEMMA3N,
}
_TEXT = """The river had frozen before anyone in the village remembered to bring in the boats.
SELECT c.name, COUNT(o.id) AS orders FROM customers c JOIN orders o ON o.customer_id = c.id WHERE total >= 100;
def double(x):
    if x is None:
        return 0
    return 2 * x  # twice as many
What is 3 + 4? Seven. How many apples are left when 12 of 30 have been eaten? Eighteen are left, and they are red.
For three days the children walked across it to school, and on the fourth the ice began to sing."""


@dataclass
class Exporter:
    """What is written, and what a test changes of it before."""

    directory: Path
    """Of the checkpoint."""
    type: str = "F32"
    """Of all matrices, as gguf calls it."""
    vocabulary: sentencepiece.SentencePieceProcessor | TokenizerFile | None = None
    keys: dict[str, Any] = field(default_factory=dict)
    """Set, or with None left out, at the end."""
    change: Callable[[dict[str, np.ndarray]], None] = lambda tensors: None
    """Is given all tensors by GGUF's names, in fp32."""
    raw: dict[str, tuple[np.ndarray, gguf.GGMLQuantizationType]] = field(default_factory=dict)
    """Tensors given as bytes [rows, bytes of a row]."""
    split_tensors: int = 0
    architecture: str | None = None

    def write(self, path: Path) -> Path:
        config = json.loads((self.directory / "config.json").read_text())
        architecture = ARCHITECTURES[config["model_type"]]
        writer = gguf.GGUFWriter(
            path, self.architecture or gguf.MODEL_ARCH_NAMES[architecture], split_max_tensors=self.split_tensors
        )
        writer.add_type("model")
        _write_keys(writer, config)
        _write_vocabulary(writer, self.vocabulary)
        for values in writer.kv_data:
            for name in self.keys.keys() & values.keys():
                del values[name]
        for name, value in self.keys.items():
            if value is not None:
                _write_key(writer, name, value)
        tensors = _tensors(self.directory, config, architecture)
        self.change(tensors)
        for name, values in tensors.items():
            if name not in self.raw:
                _write_tensor(writer, name, values, self.type)
        for name, (values, kind) in self.raw.items():
            writer.add_tensor(name, values, raw_dtype=kind)
        writer.write_header_to_file(path)
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path


def _write_keys(writer: gguf.GGUFWriter, c: dict[str, Any]) -> None:
    writer.add_context_length(c["max_position_embeddings"])
    writer.add_embedding_length(c["hidden_size"])
    writer.add_block_count(c["num_hidden_layers"])
    writer.add_feed_forward_length(c["intermediate_size"])
    writer.add_head_count(c["num_attention_heads"])
    writer.add_head_count_kv(c["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(c["rms_norm_eps"])
    writer.add_key_length(c["head_dim"])
    writer.add_value_length(c["head_dim"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    if c["model_type"] == "gemma":
        return
    writer.add_sliding_window(c["sliding_window"])
    if c["model_type"] == "gemma2":
        writer.add_attn_logit_softcapping(c["attn_logit_softcapping"])
    if c["final_logit_softcapping"]:
        writer.add_final_logit_softcapping(c["final_logit_softcapping"])
    if c.get("query_pre_attn_scalar", c["head_dim"]) != c["head_dim"]:  # no real one is so
        writer.add_float32(f"{writer.arch}.attention.scale", c["query_pre_attn_scalar"] ** -0.5)
    if c["model_type"] == "gemma2":
        return
    full, sliding = c["rope_parameters"]["full_attention"], c["rope_parameters"]["sliding_attention"]
    writer.add_rope_freq_base(full["rope_theta"])
    writer.add_rope_freq_base_swa(sliding["rope_theta"])
    if full["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(full["factor"])
    writer.add_sliding_window_pattern([each == "sliding_attention" for each in c["layer_types"]])
    if c["model_type"] == "gemma3n_text":
        writer.add_altup_active_idx(c["altup_active_idx"])
        writer.add_altup_num_inputs(c["altup_num_inputs"])
        writer.add_embedding_length_per_layer_input(c["hidden_size_per_layer_input"])
        writer.add_shared_kv_layers(c["num_kv_shared_layers"])
        normal = torch.distributions.normal.Normal(0, 1)
        writer.add_activation_sparsity_scale(
            [normal.icdf(torch.tensor(share, dtype=torch.float32)).item() for share in c["activation_sparsity_pattern"]]
        )


def _write_key(writer: gguf.GGUFWriter, name: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(name, value)
    elif isinstance(value, int):
        writer.add_uint32(name, value)
    elif isinstance(value, float):
        writer.add_float32(name, value)
    elif isinstance(value, str):
        writer.add_string(name, value)
    else:
        writer.add_array(name, value)


class TokenizerFile:
    """The pieces of a directory's tokenizer.json, by SentencePiece's calls. Scores follow the order of the pieces."""

    def __init__(self, directory: Path) -> None:
        read = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))
        self._pieces = sorted(read["model"]["vocab"], key=read["model"]["vocab"].get)
        self._special = {added["id"]: added["special"] for added in read["added_tokens"]}

    def vocab_size(self) -> int:
        return len(self._pieces)

    def id_to_piece(self, index: int) -> str:
        return self._pieces[index]

    def get_score(self, index: int) -> float:
        return -float(index)

    def is_unknown(self, index: int) -> bool:
        return index == self.unk_id()

    def is_control(self, index: int) -> bool:
        return self._special.get(index, False)

    def is_byte(self, index: int) -> bool:
        return re.fullmatch("<0x[0-9A-F]{2}>", self._pieces[index]) is not None

    def is_user_defined(self, index: int) -> bool:
        return index in self._special

    def bos_id(self) -> int:
        return self._pieces.index("<bos>")

    def eos_id(self) -> int:
        return self._pieces.index("<eos>")

    def pad_id(self) -> int:
        return self._pieces.index("<pad>")

    def unk_id(self) -> int:
        return self._pieces.index("<unk>")


def _write_vocabulary(
    writer: gguf.GGUFWriter, vocabulary: sentencepiece.SentencePieceProcessor | TokenizerFile | None
) -> None:
    if vocabulary is None:
        return
    tokens, scores, types = [], [], []
    for index in range(vocabulary.vocab_size()):
        kind = gguf.TokenType.NORMAL
        if vocabulary.is_unknown(index):
            kind = gguf.TokenType.UNKNOWN
        elif vocabulary.is_control(index):
            kind = gguf.TokenType.CONTROL
        elif vocabulary.is_byte(index):
            kind = gguf.TokenType.BYTE
        elif _is_user_defined(vocabulary, index):
            kind = gguf.TokenType.USER_DEFINED
        piece = vocabulary.id_to_piece(index)
        tokens.append(piece.replace("▁", " ") if kind == gguf.TokenType.USER_DEFINED else piece)
        scores.append(vocabulary.get_score(index))
        types.append(kind)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_bos_token_id(vocabulary.bos_id())
    writer.add_eos_token_id(vocabulary.eos_id())
    writer.add_pad_token_id(vocabulary.pad_id())
    writer.add_unk_token_id(vocabulary.unk_id())
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)


def _is_user_defined(vocabulary: sentencepiece.SentencePieceProcessor | TokenizerFile, index: int) -> bool:
    if isinstance(vocabulary, TokenizerFile):
        return vocabulary.is_user_defined(index)
    return vocabulary.id_to_piece(index) in USER_DEFINED


def _tensors(directory: Path, config: dict[str, Any], architecture: gguf.MODEL_ARCH) -> dict[str, np.ndarray]:
    names = gguf.get_tensor_name_map(architecture, config["num_hidden_layers"])
    tensors: dict[str, np.ndarray] = {}
    stacks: dict[str, list[np.ndarray]] = {}
    for name, tensor in sorted(load_file(directory / "model.safetensors").items()):
        if name.startswith("lm_head") and config["tie_word_embeddings"]:
            continue
        values = tensor.float().numpy()
        if name.endswith("norm.weight") and config["model_type"] != "gemma3n_text":
            values = values + np.float32(1)
        if "altup_projections" in name or "altup_unembed_projections" in name:
            stacks.setdefault(name.split(".")[1], []).append(values)
            continue
        tensors[names.get_name(name.removesuffix(".weight")) + ".weight"] = values
    for name, parts in stacks.items():
        tensors[names.get_name(f"model.{name}") + ".weight"] = np.stack(parts)
    return tensors


def _write_tensor(writer: gguf.GGUFWriter, name: str, values: np.ndarray, kind: str) -> None:
    if kind == "F32" or values.ndim == 1:
        writer.add_tensor(name, values.astype(np.float32))
    elif kind == "F16" or gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][0] > values.shape[-1]:
        writer.add_tensor(name, values.astype(np.float16))
    else:
        type_ = gguf.GGMLQuantizationType[kind]
        writer.add_tensor(name, gguf.quantize(values, type_), raw_dtype=type_)


USER_DEFINED = ("\n", "\n\n", "▁▁", "▁▁▁", "▁▁▁▁", "<h1>")


def vocabulary(size: int) -> sentencepiece.SentencePieceProcessor:
    """A real SentencePiece model, trained with Gemma's settings."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_TEXT.splitlines()),
        model_writer=model,
        vocab_size=size,
        model_type="bpe",
        byte_fallback=True,
        split_digits=True,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        allow_whitespace_only_pieces=True,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        pad_piece="<pad>",
        eos_piece="<eos>",
        bos_piece="<bos>",
        unk_piece="<unk>",
        control_symbols=["<start_of_turn>", "<end_of_turn>"],
        user_defined_symbols=list(USER_DEFINED),
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
