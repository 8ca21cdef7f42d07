"""Adapter directories, looked at before vLLM is: are they whole, and do they belong to the base that is served?"""

from __future__ import annotations

import hashlib
from pathlib import Path

from agentloop.errors import AdapterError
from agentloop.reading import open_tensors, read_object

CONFIG, WEIGHTS, RECORD = "adapter_config.json", "adapter_model.safetensors", "agentloop.json"


def check_base(directory: Path, *, fingerprint: str | None, model: Path) -> None:
    """Raise AdapterError, in one line, where a file is missing or broken or the adapter names another base.

    The base's fingerprint (`base_…`, in agentloop.json or adapter_config.json) decides where both sides have one; an
    adapter made elsewhere names a directory or a repository, of which the last part must be that of `model`.
    """
    for name in (CONFIG, WEIGHTS):
        if not (directory / name).is_file():
            raise AdapterError(f"{directory}: no {name}")
    with open_tensors(directory / WEIGHTS, AdapterError):
        pass  # whole, as far as its header and its length tell
    named = _base_named(directory)
    if named is None or (named.startswith("base_") and fingerprint is None):
        return
    served = fingerprint if named.startswith("base_") else model.name
    if named != served:
        raise AdapterError(f"{directory}: trained on {named}, but {served} is served")


def rank(directory: Path) -> int:
    """Return the rank of the adapter's matrices. Raises AdapterError."""
    file = directory / CONFIG
    found = read_object(file, AdapterError).get("r")
    if type(found) is not int or found < 1:
        raise AdapterError(f"{file}: r {found!r} is not a rank")
    return found


def digest(directory: Path) -> str:
    """SHA-256 over the weights and the configuration."""
    total = hashlib.sha256()
    for name in (CONFIG, WEIGHTS):
        with open(directory / name, "rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def weights_digest(directory: Path) -> str | None:
    """SHA-256 of the weights alone; None where there are none."""
    try:
        with open(directory / WEIGHTS, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _base_named(directory: Path) -> str | None:
    """A fingerprint, or the last part of a path or repository, or None where the adapter names no base."""
    record = directory / RECORD
    own = record.is_file()
    file, key = (record, "base") if own else (directory / CONFIG, "base_model_name_or_path")
    name = read_object(file, AdapterError).get(key)
    if not name and not own:
        return None
    if not isinstance(name, str):
        raise AdapterError(f"{file}: {key} {name!r} is not a name")
    return name if own else Path(name).name
