"""The files of a model directory, looked at before anything large is imported or started: are they what they should be?

What they say is read elsewhere (engine/configuration.py, engine/checkpoint.py, transformers); here a truncated, empty or
mistaken file is found in a second, by its headers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from agentloop.errors import ModelError
from agentloop.reading import check_regular, read_object, read_text

TURN_TOKENS = ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>")
"""What agentloop/rollout/prompt.py writes Gemma's turns with."""
VOCABULARIES = ("tokenizer.json", "tokenizer.model")
"""One of them is there where a tokenizer is."""
GGUF_RECORD = "agentloop_gguf.json"
"""In a directory that was made from a GGUF file: from which one."""
HUB_RECORD = "agentloop_hub.json"
"""In a directory that was downloaded from the hub: from which repository."""
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_OBJECTS = ("tokenizer_config.json", "generation_config.json", "special_tokens_map.json", "added_tokens.json")
_LENGTH_BYTES = 8
_MOST_HEADER_BYTES = 100_000_000
"""safetensors' own limit."""


def check(directory: Path) -> None:
    """Raises ModelError, in one line that begins with the path of the file that is broken or missing."""
    config = read_object(directory / "config.json", ModelError)
    text = config.get("text_config", config)
    check_tokenizer(directory, vocabulary=text.get("vocab_size") if isinstance(text, dict) else None)
    for file in weight_files(directory):
        check_weights(file)


def check_tokenizer(directory: Path, *, tokens: Iterable[str] = TURN_TOKENS, vocabulary: Any = None) -> None:
    """Raises ModelError where a file of the tokenizer is broken, none is there, or it lacks one of `tokens`.

    `vocabulary`: the model's number of tokens, where that is known: no id may be beyond it.
    """
    if not any((directory / name).exists() for name in VOCABULARIES):
        raise ModelError(f"{directory}: no tokenizer ({' or '.join(VOCABULARIES)})")
    settings = {name: read_object(directory / name, ModelError) for name in _OBJECTS if (directory / name).exists()}
    if (directory / "chat_template.jinja").exists():
        read_text(directory / "chat_template.jinja", ModelError)
    path = directory / "tokenizer.json"
    if not path.exists():
        return
    tokenizer = read_object(path, ModelError)
    model, added = tokenizer.get("model"), tokenizer.get("added_tokens")
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict | list):
        raise ModelError(f"{path}: it has no model with a vocab, so it is no tokenizer")
    later = settings.get("tokenizer_config.json", {}).get("added_tokens_decoder")
    known = {
        *_contents(added),
        *_contents(later.values() if isinstance(later, dict) else None),
        *_words(model["vocab"]),
    }
    missing = [token for token in tokens if token not in known]
    if missing:
        raise ModelError(f"{path}: it has no token {missing[0]}; a Gemma tokenizer is needed")
    if type(vocabulary) is int:
        _check_ids(path, added, vocabulary)


def _check_ids(path: Path, added: Any, vocabulary: int) -> None:
    """Raises ModelError where the tokenizer belongs to a model with more tokens."""
    for entry in added if isinstance(added, list) else ():
        index = entry.get("id") if isinstance(entry, dict) else None
        if type(index) is int and index >= vocabulary and entry.get("content") in TURN_TOKENS:
            raise ModelError(
                f"{path}: token {entry['content']} has the id {index}, the model {vocabulary} tokens (config.json: vocab_size)"
            )


def _contents(added: Any) -> list[str]:
    entries = added if isinstance(added, Iterable) else ()
    return [each["content"] for each in entries if isinstance(each, dict) and isinstance(each.get("content"), str)]


def _words(vocabulary: dict[str, Any] | list[Any]) -> Iterable[str]:
    if isinstance(vocabulary, dict):
        return vocabulary
    return (each[0] for each in vocabulary if isinstance(each, list) and each and isinstance(each[0], str))


def weight_files(directory: Path) -> list[Path]:
    """The files that hold the model's weights, in a stable order: as in transformers model.safetensors where it is there, else
    those that the index names. Without both it is every *.safetensors.

    Raises ModelError where there is none, or the index is broken or names a file that is not there.
    """
    named = _indexed(directory)
    if (directory / WHOLE).exists():
        return [directory / WHOLE]
    files = sorted({directory / name for name in named.values()}) if named else sorted(directory.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{directory}: no *.safetensors")
    return files


def other_files(directory: Path) -> list[Path]:
    """The files beside the weights, in a stable order: configuration, tokenizer, index and whatever else, but no *.safetensors,
    which are left over or of something else.
    """
    return sorted(file for file in directory.iterdir() if file.is_file() and file.suffix != ".safetensors")


def weight_bytes(directory: Path) -> int:
    """Size of the files that hold the model's weights. Raises ModelError as `weight_files` does."""
    return sum(file.stat().st_size for file in weight_files(directory))


def tensor_files(directory: Path, names: Mapping[Path, Iterable[str]]) -> dict[str, Path]:
    """Each tensor's file, where `names` are those that each of `weight_files` holds.

    A tensor that several files hold is read from the one that the index names. Raises ModelError where there is no index.
    """
    named = {} if WHOLE in {path.name for path in names} else _indexed(directory)
    where: dict[str, Path] = {}
    for path, held in names.items():
        for name in held:
            if name not in where or named.get(name) == path.name:
                where[name] = path
            elif name not in named:
                raise ModelError(
                    f"{path}: holds {name} as {where[name].name} does; remove one, or let an {INDEX} decide"
                )
    return where


def _indexed(directory: Path) -> dict[str, str]:
    """Tensor -> name of its file, by the index of several files; empty where there is none."""
    path = directory / INDEX
    if not path.exists():
        return {}
    files = read_object(path, ModelError).get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(file, str) for file in files.values()):
        raise ModelError(f"{path}: its weight_map does not give a file for each tensor")
    missing = sorted(file for file in set(files.values()) if not (directory / file).is_file())
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelError(f"{path}: names {missing[0]}{more}, which is not there")
    return files


def check_weights(path: Path) -> None:
    """Raises ModelError where a safetensors file is truncated or none. Reads its header alone."""
    check_regular(path, ModelError, most=None)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            header = file.read(length) if _LENGTH_BYTES + length <= size and length <= _MOST_HEADER_BYTES else b""
    except OSError as error:
        raise ModelError(f"{path}: not to be read: {error.strerror}") from None
    try:
        tensors = {name: tensor for name, tensor in json.loads(header).items() if name != "__metadata__"}
        end = max((tensor["data_offsets"][1] for tensor in tensors.values()), default=0)
        data = size - _LENGTH_BYTES - length
        if end > data:
            raise ModelError(f"{path}: truncated: {end - data:,} bytes of {size + end - data:,} are missing")
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        raise ModelError(f"{path}: not to be read as safetensors: its header is broken") from None
