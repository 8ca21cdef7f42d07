"""A trainer's arguments by the names that they had in earlier versions of transformers and TRL."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
import transformers
import trl

from agentloop.errors import SettingError

RENAMED = {
    "max_seq_length": "max_length",
    "evaluation_strategy": "eval_strategy",
    "no_cuda": "use_cpu",
    "warmup_ratio": "warmup_steps",  # a number below 1 is a share there
}
"""Old name -> today's, for the same value."""
GONE = {
    "overwrite_output_dir", "save_safetensors", "dataset_batch_size", "num_of_sequences", "chars_per_token",
    "include_tokens_per_second", "group_by_length", "logging_dir",
}  # fmt: skip
"""Old names that are taken here and are no arguments any more; the last two still count."""


def today(given: dict[str, Any], known: set[str]) -> dict[str, Any]:
    """The arguments by the names in `known`. Raises SettingError where one is given by both of its names."""
    named = dict(given)
    for old, new in RENAMED.items():
        if old in named and old not in known and new in known:
            value = named.pop(old)
            if value is None or (old == "warmup_ratio" and not value):
                continue
            if named.get(new, value) != value:
                raise SettingError(f"{old}: {value!r}, but {new} is {named[new]!r}; they are the same argument")
            named[new] = value
    return {name: value for name, value in named.items() if name not in GONE or name in known}


class _Older:
    """What older arguments decide beside those of today's class."""

    length_given: bool
    """max_length, or max_seq_length, was given."""
    logging_dir: str | None
    """Folder for TensorBoard's files; None: `runs/…` in the output folder."""

    def __init__(self, output_dir: str | None = None, **given: Any) -> None:
        """Take today's arguments and older ones, all by name but the first.

        Where nothing is said of it, metrics go to TensorBoard's files if it is installed, and on a machine without CUDA the
        CPU computes. Raises SettingError where an argument is given by both of its names.
        """
        fields = set(type(self).__dataclass_fields__)  # type: ignore[attr-defined]
        values = today(given, fields)
        if output_dir is not None:
            values["output_dir"] = output_dir
        if given.get("group_by_length"):
            values.setdefault("train_sampling_strategy", "group_by_length")
        if importlib.util.find_spec("tensorboard"):
            values.setdefault("report_to", "tensorboard")
        if not torch.cuda.is_available():
            values.setdefault("use_cpu", True)
        super().__init__(**values)
        self.length_given = "max_length" in values
        self.logging_dir = given.get("logging_dir")


class TrainingArguments(_Older, transformers.TrainingArguments):
    """transformers' TrainingArguments, which also take the names of earlier versions."""


class SFTConfig(_Older, trl.SFTConfig):
    """TRL's SFTConfig, which also takes the names of earlier versions: `max_seq_length`, `evaluation_strategy`, …"""
