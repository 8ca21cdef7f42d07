"""The name of a base model: a hash of what decides its outputs.

Two directories with the same weights, configuration and tokenizer have the same fingerprint wherever they lie. Hashing
gigabytes takes a while, so each file's digest is remembered in the cache by path, size and modification time.
"""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from agentloop.errors import ModelError
from agentloop.files import atomic
from agentloop.model_directory.files import weight_files
from agentloop.naming import canonical_json, content_id
from agentloop.reading import read_object

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
BLOCK = 1 << 24


def base_fingerprint(directory: str | Path, cache: Path | None = None) -> str:
    """`base_` and 16 hexadecimal digits of the weights, config and tokenizer in `directory`.

    `cache` is where digests are remembered, by default settings.paths.cache. Raises ModelError without weights,
    DiskError.
    """
    directory = Path(directory)
    weights = weight_files(directory)
    if not (directory / "config.json").is_file():
        raise ModelError(f"{directory}: no config.json with *.safetensors")
    files = [*weights, directory / "config.json", *(p for name in TOKENIZER_FILES if (p := directory / name).is_file())]
    digests = file_digests(files, cache or default_cache())
    return content_id("base", {path.name: digest for path, digest in zip(files, digests)})


def tokenizer_fingerprint(directory: Path, cache: Path) -> str:
    """`tokenizer_` and 16 hexadecimal digits of the tokenizer in `directory`: the same texts are the same tokens.

    `cache` is where digests are remembered.
    """
    files = [path for name in TOKENIZER_FILES if (path := directory / name).is_file()]
    return content_id("tokenizer", {path.name: digest for path, digest in zip(files, file_digests(files, cache))})


def file_digests(files: list[Path], cache: Path) -> list[str]:
    """The files' SHA-256, as remembered under `cache` where they have not changed since."""
    memory = cache / "fingerprints.json"
    known = _remembered(memory)
    keys = [_key(path) for path in files]
    with ThreadPoolExecutor(4) as pool:  # hashing releases the interpreter lock
        digests = list(pool.map(lambda item: known.get(item[0]) or _sha256(item[1]), zip(keys, files)))
    if any(key not in known for key in keys):
        _remember(memory, dict(zip(keys, digests)))
    return digests


def default_cache() -> Path:
    """settings.paths.cache. Imported when asked for: the engine itself needs no settings."""
    from agentloop.settings import for_the_engine

    return for_the_engine().paths.cache


def _key(path: Path) -> str:
    status = path.stat()
    return canonical_json([str(path.resolve()), status.st_size, status.st_mtime_ns])


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _remembered(memory: Path) -> dict[str, str]:
    """Digests by key; none where the file is missing or broken, since they can be computed anew."""
    try:
        known = read_object(memory, ModelError)
    except ModelError:
        return {}
    return {key: digest for key, digest in known.items() if isinstance(digest, str)}


def _remember(memory: Path, digests: dict[str, str]) -> None:
    with atomic(memory) as file:
        file.write_text(json.dumps(_remembered(memory) | digests, indent=0), encoding="utf-8")
