"""A model's tokenizer, by transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from agentloop.errors import ModelError, SettingError
from agentloop.model_directory import plain_tokenizer
from agentloop.model_directory.files import VOCABULARIES, check_tokenizer
from agentloop.text import one_line_of

_SAMPLE = "What is 3 + 4?"


def token_texts(directory: Path) -> Callable[[int], str]:
    """Return what gives the text of one token id, as transformers' tokenizer decodes it; an id without one is shown as such.

    Raises ModelError as `load_tokenizer` does.
    """
    tokenizer = text_tokenizer(directory)
    size = len(tokenizer)
    return lambda token: tokenizer.decode([token], skip_special_tokens=False) if token < size else f"⟨{token}⟩"


def text_tokenizer(directory: Path) -> Any:
    """Return a tokenizer for text to ids and back alone, with what transformers' has for that: a PlainTokenizer where that is
    the same, else transformers' own. Raises ModelError as `load_tokenizer` does."""
    return plain_tokenizer.read(directory) or load_tokenizer(directory)


def load_tokenizer(directory: Path) -> Any:
    """transformers' tokenizer of the model in `directory`. Raises ModelError, in one line that begins with the file's path."""
    check_tokenizer(directory, tokens=())
    from transformers import AutoTokenizer  # takes seconds

    try:
        tokenizer = AutoTokenizer.from_pretrained(directory)
        tokenizer.decode(tokenizer.encode(_SAMPLE))  # some settings are looked at only now
        return tokenizer
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # tokenizers raises nothing more special, and where it panics not even an Exception
        file = next(directory / name for name in VOCABULARIES if (directory / name).exists())
        raise ModelError(f"{file}: the tokenizer is not to be read: {one_line_of(error)}") from error


def check_size(tokenizer: Any, directory: Path | None, vocabulary: int) -> None:
    """Raises SettingError where `tokenizer` has a token for which the model in `directory`, of `vocabulary` tokens, has no row.

    Those that the model's own tokenizer has are let be: Gemma 3's smaller models have one, for images. Without a directory
    there is no such tokenizer.
    """
    words = getattr(tokenizer, "tokenizer", tokenizer).get_vocab()
    if beyond := {word: index for word, index in words.items() if index >= vocabulary}:
        own = {} if directory is None else load_tokenizer(directory).get_vocab()
        if added := sorted((index, word) for word, index in beyond.items() if own.get(word) != index):
            index, word = added[0]
            raise SettingError(
                f"tokenizer: token {word!r} has the id {index}, and the model rows for 0 to {vocabulary - 1} alone: its "
                "vocabulary cannot grow"
            )
