"""A model's tokenizer, by transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agentloop.errors import ModelError
from agentloop.model_directory.files import VOCABULARIES, check_tokenizer
from agentloop.text import one_line_of

_SAMPLE = "What is 3 + 4?"


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
