"""A model's tokenizer by the tokenizers library alone: a second instead of the ten or twenty that transformers takes.

transformers reads the same tokenizer.json, but for some classes it builds the steps before and after the vocabulary itself, and
it adds what tokenizer_config.json names. `read` gives a tokenizer only where neither changes anything.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentloop.errors import ModelError
from agentloop.model_directory.files import check_tokenizer
from agentloop.reading import read_object
from agentloop.text import one_line_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_AS_IN_THE_FILE = ("TokenizersBackend", "PreTrainedTokenizerFast")
"""Classes of transformers that take tokenizer.json as it is."""
_GEMMA = ("GemmaTokenizer", "GemmaTokenizerFast", None)
"""Those of which only the vocabulary is taken; a Gemma's where no class is named."""
_GEMMA_STEPS: dict[str, Any] = {
    "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    "pre_tokenizer": {
        "type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False,
    },
    "decoder": {
        "type": "Sequence",
        "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        ],
    },
}  # fmt: skip
_GEMMA_MODEL = {"unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True, "ignore_merges": False, "dropout": None}
_NAMED = ("bos_token", "eos_token", "unk_token", "pad_token", "mask_token", "sep_token", "cls_token")


class PlainTokenizer:
    """Text to ids and back, by the names that transformers has for it."""

    def __init__(self, tokenizer: Tokenizer, unknown: str | None) -> None:
        self._tokenizer = tokenizer
        self.unk_token_id = None if unknown is None else tokenizer.token_to_id(unknown)

    def __len__(self) -> int:
        return int(self._tokenizer.get_vocab_size())

    def encode(self, text: str, *, add_special_tokens: bool, split_special_tokens: bool) -> list[int]:
        """`split_special_tokens`: special tokens in `text` are text like any other."""
        if self._tokenizer.encode_special_tokens != split_special_tokens:
            self._tokenizer.encode_special_tokens = split_special_tokens
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def decode(
        self, token_ids: Sequence[int], *, skip_special_tokens: bool, clean_up_tokenization_spaces: bool = False
    ) -> str:
        """The text of the ids, its spaces as they are: `clean_up_tokenization_spaces` may only be False."""
        assert not clean_up_tokenization_spaces
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=skip_special_tokens))

    def convert_tokens_to_ids(self, token: str) -> int | None:
        """Return the token's id; None for what is no token."""
        index = self._tokenizer.token_to_id(token)
        return None if index is None else int(index)


def read(directory: Path) -> PlainTokenizer | None:
    """Return the tokenizer of the model in `directory`; None where transformers' may be another.

    Raises ModelError, in one line, where a file is broken.
    """
    file = directory / "tokenizer.json"
    check_tokenizer(directory, tokens=())
    if not file.is_file():
        return None
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # it raises nothing more special
        raise ModelError(f"{file}: the tokenizer is not to be read: {one_line_of(error)}") from error
    path = directory / "tokenizer_config.json"
    settings = read_object(path, ModelError) if path.is_file() else {}
    if not _is_taken_as_it_is(tokenizer, settings.get("tokenizer_class")) or not _adds_nothing(tokenizer, settings):
        return None
    return PlainTokenizer(tokenizer, _text(settings.get("unk_token")))


def _is_taken_as_it_is(tokenizer: Tokenizer, kind: Any) -> bool:
    if kind in _AS_IN_THE_FILE:
        return True
    if kind not in _GEMMA or type(tokenizer.model).__name__ != "BPE":
        return False
    steps = {name: getattr(tokenizer, name) for name in _GEMMA_STEPS}
    return all(
        step is not None and json.loads(step.__getstate__()) == _GEMMA_STEPS[name] for name, step in steps.items()
    ) and all(getattr(tokenizer.model, name) == value for name, value in _GEMMA_MODEL.items())


def _adds_nothing(tokenizer: Tokenizer, settings: dict[str, Any]) -> bool:
    """Every token that tokenizer_config.json names is in tokenizer.json, with the same id, and is special there too."""
    known = {token.content: (index, token.special) for index, token in tokenizer.get_added_tokens_decoder().items()}
    later = settings.get("added_tokens_decoder") or {}
    extra = settings.get("extra_special_tokens") or settings.get("additional_special_tokens") or []
    named = [settings.get(name) for name in _NAMED] + list(extra.values() if isinstance(extra, dict) else extra)
    return all(known.get(text, (None, False))[1] for text in map(_text, named) if text is not None) and all(
        known.get(_text(token) or "") == (int(index), bool(token.get("special"))) for index, token in later.items()
    )


def _text(token: Any) -> str | None:
    """A token as a configuration writes it: a text, or an object with its content."""
    return token.get("content") if isinstance(token, dict) else token
