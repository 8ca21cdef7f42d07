"""A directory's tokenizer as a GGUF holds it: SentencePiece's pieces with a score and a kind for each.

The counterpart of tokenizer.py. There are no merges in a GGUF: llama.cpp joins the neighbours whose piece has the highest
score, so scores follow the order of the pieces, in which they were learnt.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentloop.errors import ModelError
from agentloop.gguf.tokenizer import SPACE
from agentloop.model_directory import chat_template
from agentloop.model_directory.tokenizer import load_tokenizer

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
"""Kinds of pieces, as SentencePiece numbers them."""
_BYTE_PIECE = re.compile("<0x[0-9A-F]{2}>")


@dataclass(frozen=True)
class Vocabulary:
    """Everything of a tokenizer that a GGUF holds."""

    tokens: list[str]
    scores: list[float]
    kinds: list[int]
    special: dict[str, int]
    """bos, eos, unk, pad and eot -> id, of those that there are."""
    adds_bos: bool
    adds_eos: bool
    chat_template: str

    def write(self, writer: Any) -> None:
        """Add the tokenizer's keys to `writer`, a gguf.GGUFWriter."""
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_list(self.tokens)
        writer.add_token_scores(self.scores)
        writer.add_token_types(self.kinds)
        for name, index in self.special.items():
            getattr(writer, f"add_{name}_token_id")(index)
        writer.add_add_bos_token(self.adds_bos)
        writer.add_add_eos_token(self.adds_eos)
        writer.add_add_space_prefix(False)
        writer.add_chat_template(self.chat_template)


def read_vocabulary(directory: Path, rows: int) -> Vocabulary:
    """The tokenizer in `directory`, filled up to the `rows` of the embedding with tokens that nothing is read as.

    Raises ModelError where it is not SentencePiece's, or has more tokens than there are rows.
    """
    tokenizer = load_tokenizer(directory)
    read = json.loads(tokenizer.backend_tokenizer.to_str())
    model = read["model"]
    if model.get("type") != "BPE" or not model.get("byte_fallback") or read["pre_tokenizer"] in (None, {}):
        raise ModelError(f"{directory}: its tokenizer is not SentencePiece's, which a GGUF of a Gemma needs")
    added = {each["id"]: each for each in read["added_tokens"]}
    pieces = {index: piece for piece, index in model["vocab"].items()} | {
        index: each["content"] for index, each in added.items()
    }
    if max(pieces) >= rows:
        raise ModelError(f"{directory}: its tokenizer has the token {max(pieces)}, the embedding only {rows} rows")
    tokens, kinds = [], []
    for index in range(rows):
        piece = pieces.get(index)
        kind = _UNUSED if piece is None else _kind(piece, added.get(index), tokenizer.unk_token)
        # SentencePiece's sign for a space is taken literally in what is matched as a whole
        shown = f"[PAD{index}]" if piece is None else piece.replace(SPACE, " ") if kind == _USER_DEFINED else piece
        tokens.append(shown)
        kinds.append(kind)
    nothing = tokenizer("").input_ids
    return Vocabulary(
        tokens,
        [-float(index) for index in range(rows)],
        kinds,
        _special(tokenizer),
        adds_bos=tokenizer.bos_token_id in nothing,
        adds_eos=tokenizer.eos_token_id in nothing,
        chat_template=tokenizer.chat_template or chat_template.GEMMA,
    )


def _kind(piece: str, added: dict[str, Any] | None, unknown: str | None) -> int:
    if piece == unknown:
        return _UNKNOWN
    if added is not None:
        return _CONTROL if added["special"] else _USER_DEFINED
    return _BYTE if _BYTE_PIECE.fullmatch(piece) else _NORMAL


def _special(tokenizer: Any) -> dict[str, int]:
    end_of_turn = tokenizer.get_vocab().get("<end_of_turn>")
    ids = {
        "bos": tokenizer.bos_token_id,
        "eos": tokenizer.eos_token_id,
        "unk": tokenizer.unk_token_id,
        "pad": tokenizer.pad_token_id,
        "eot": end_of_turn,
    }
    return {name: index for name, index in ids.items() if index is not None}
