"""The tokenizer in a GGUF, as transformers has Gemma's.

A GGUF holds SentencePiece's pieces in the order in which they were learnt, and no merges: two neighbours merge where both
together are a piece, the earlier learnt first. transformers has a conversion of its own, which leaves <bos> out, without
which Gemma babbles, and takes Gemma 3n for a Llama.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from agentloop.errors import ModelError
from agentloop.gguf.file import GgufFile
from agentloop.model_directory import chat_template
from agentloop.model_directory.files import TURN_TOKENS

_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4
"""Types of pieces, as SentencePiece numbers them."""
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
"""SentencePiece's."""


def read_tokenizer(file: GgufFile) -> Any:
    """transformers' tokenizer of the model in `file`, which begins each text with <bos> unless the file says otherwise.

    Raises ModelError, naming file and key, where there is none, or it is not SentencePiece's.
    """
    from tokenizers import AddedToken  # takes seconds
    from transformers import GemmaTokenizer

    tokens, kinds = _pieces(file)
    special = _special_tokens(file, tokens, kinds)
    vocabulary = _vocabulary(file, tokens)
    tokenizer = GemmaTokenizer(vocab=vocabulary, merges=_merges(vocabulary), **special)
    controls = [token for token, kind in zip(tokens, kinds) if kind == _CONTROL or token in TURN_TOKENS]
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [AddedToken(each, normalized=False, special=True) for each in controls]},
        replace_extra_special_tokens=False,
    )
    # a run of spaces is under another name in the vocabulary, where merges find it
    whole = [token for token, kind in zip(tokens, kinds) if kind == _USER_DEFINED and token in vocabulary]
    tokenizer.add_tokens([AddedToken(each, normalized=False, special=False) for each in whole if each not in controls])
    _add_ends(file, tokenizer)
    tokenizer.chat_template = file.single("tokenizer.chat_template", str) or chat_template.GEMMA
    return tokenizer


def _pieces(file: GgufFile) -> tuple[list[str], list[int]]:
    kind, tokens = file.single("tokenizer.ggml.model", str), file.metadata.get("tokenizer.ggml.tokens")
    if kind != "llama":
        raise _fault(file, "model", f"{kind!r:.60} is not supported (only 'llama', which is SentencePiece)")
    if not isinstance(tokens, list):
        raise _fault(file, "tokens", "is no list of texts")
    kinds = file.metadata.get("tokenizer.ggml.token_type")
    if not isinstance(kinds, np.ndarray) or len(kinds) != len(tokens):
        raise _fault(file, "token_type", f"is not one number for each of {len(tokens)} tokens")
    embedded = file.tensors["token_embd.weight"].shape[0]
    if len(tokens) > embedded:
        raise _fault(file, "tokens", f"{len(tokens)} tokens, but token_embd.weight has {embedded} rows")
    return tokens, kinds.tolist()


def _special_tokens(file: GgufFile, tokens: list[str], kinds: list[int]) -> dict[str, str | None]:
    unknown = kinds.index(_UNKNOWN) if _UNKNOWN in kinds else None
    return {
        "bos_token": _token(file, "bos_token_id", tokens, "<bos>"),
        "eos_token": _token(file, "eos_token_id", tokens, "<eos>"),
        "pad_token": _token(file, "padding_token_id", tokens, "<pad>"),
        "unk_token": _token(file, "unknown_token_id", tokens, "<unk>" if unknown is None else tokens[unknown]),
        "mask_token": "<mask>" if "<mask>" in tokens else None,
    }


def _token(file: GgufFile, name: str, tokens: list[str], usual: str) -> str:
    """By its id, or by the name that Gemma has for it."""
    index = file.single(f"tokenizer.ggml.{name}", int)
    if index is None:
        if usual not in tokens:
            raise _fault(file, name, f"is missing, and there is no token {usual}")
        return usual
    if not 0 <= index < len(tokens):
        raise _fault(file, name, f"{index!r:.60} is not the number of a token")
    return tokens[index]


def _vocabulary(file: GgufFile, tokens: list[str]) -> dict[str, int]:
    """Token -> id. Runs of spaces, which llama.cpp writes as such, are written as SentencePiece has them again."""
    there = set(tokens)
    spelled = [_respelled(token) if _respelled(token) not in there else token for token in tokens]
    vocabulary = {token: index for index, token in enumerate(spelled)}
    if len(vocabulary) < len(spelled):
        twice = next(token for index, token in enumerate(spelled) if vocabulary[token] != index)
        raise _fault(file, "tokens", f"{twice!r:.60} is there twice")
    return vocabulary


def _respelled(token: str) -> str:
    return SPACE * len(token) if token and not token.strip(" ") else token


def _merges(vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """Pairs of tokens that together are a token, in the order in which that was learnt; a longer left part first."""
    return [
        (token[:cut], token[cut:])
        for token in vocabulary
        for cut in range(len(token) - 1, 0, -1)
        if token[:cut] in vocabulary and token[cut:] in vocabulary
    ]


def _add_ends(file: GgufFile, tokenizer: Any) -> None:
    from tokenizers.processors import TemplateProcessing

    first = [tokenizer.bos_token] if file.single("tokenizer.ggml.add_bos_token", bool, True) else []
    last = [tokenizer.eos_token] if file.single("tokenizer.ggml.add_eos_token", bool, False) else []
    single = [*first, "$A", *last]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=single,
        pair=[*single, *(f"{each}:1" for each in (*first, "$B", *last))],
        special_tokens=[(token, tokenizer.convert_tokens_to_ids(token)) for token in (*first, *last)],
    )


def _fault(file: GgufFile, name: str, what: str) -> ModelError:
    return ModelError(f"{file.path}: key tokenizer.ggml.{name}: {what}")
