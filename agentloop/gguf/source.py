"""Tensors of a checkpoint directory by transformers' name of them in a text-only model, whatever the file calls them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agentloop.errors import ModelError
from agentloop.model_directory.files import weight_files
from agentloop.model_directory.tensors import language_prefix
from agentloop.reading import open_tensors

_TEXT_ONLY = "model."


class Source:
    """The language model's tensors in `directory`. Raises ModelError where a file is broken."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        files = [open_tensors(path, ModelError) for path in weight_files(directory)]
        self._files = {name: file for file in files for name in file.keys()}
        prefix = language_prefix(directory, self._files)
        self._names = {
            f"{_TEXT_ONLY}{name.removeprefix(prefix)}" if name.startswith(prefix) else name: name
            for name in self._files
        }
        heads = [name for name in self._files if name.endswith("lm_head.weight")]
        if len(heads) == 1:
            self._names["lm_head.weight"] = heads[0]

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def rows(self, name: str) -> Any:
        """A tensor that is read as it is sliced. Raises ModelError where it is absent."""
        if name not in self._names:
            raise ModelError(f"{self._directory}: the weights lack {name}")
        own = self._names[name]
        return self._files[own].get_slice(own)
