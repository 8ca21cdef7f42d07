"""A model of the hub, as a directory under the models' root: the one thing here that a hub is asked for."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from agentloop import space
from agentloop.errors import ModelError, NoSpaceError, SettingError, lacks_space
from agentloop.files import atomic
from agentloop.model_directory import files
from agentloop.text import one_line_of

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_FILES = ("*.json", "*.safetensors", "tokenizer.model", "*.jinja", "LICENSE*", "NOTICE*", "USE_POLICY*", "README.md")

_SPARE_BYTES = 100 << 20
"""So that the disk is not full to the last byte."""


def fetch(name: str, models: Path, cache: Path, *, say: Callable[[str], None]) -> Path:
    """Return the directory under `models` that holds the hub's model `name`, ORG/NAME; a directory that is there stays.

    Files lie in the cache until all are there, so an interrupted download goes on. `say` is told what is being done. Raises
    SettingError for what is no such name, ModelError where the hub refuses or cannot be reached, DiskError.
    """
    if not _NAME.fullmatch(name) or ".." in name:
        raise SettingError(f"{name!r:.80}: is not ORG/NAME as the hub has it")
    directory = models / name.partition("/")[2]
    if directory.exists():
        say(f"{directory} is there already, and is left as it is")
        return directory
    folder = cache / "fetch" / name.replace("/", "--")
    say(f"downloading {name}")
    _download(name, folder)
    files.check(folder)
    with atomic(directory) as temporary:
        shutil.rmtree(folder / ".cache", ignore_errors=True)  # the hub's own notes
        shutil.move(folder, temporary)
    return directory


def _download(name: str, folder: Path) -> None:
    from huggingface_hub import snapshot_download  # takes a second

    try:
        with _online():
            space.require(folder, _bytes_to_come(name, folder) + _SPARE_BYTES)
            snapshot_download(name, local_dir=folder, allow_patterns=list(_FILES))
    except Exception as error:  # HTTP's, the hub's and the disk's, of many classes
        if lacks_space(error):
            raise (
                error if isinstance(error, NoSpaceError) else NoSpaceError(f"{folder}: {one_line_of(error)}")
            ) from error
        reason = one_line_of(error)
        raise ModelError(f"{name}: the hub did not give it: {reason}") from error


def _bytes_to_come(name: str, folder: Path) -> int:
    """Bytes that are still to be downloaded; none where the hub does not tell: then the download says why."""
    from huggingface_hub import snapshot_download

    try:
        wanted = snapshot_download(name, local_dir=folder, allow_patterns=list(_FILES), dry_run=True)
    except Exception:
        return 0
    return sum(each.file_size or 0 for each in wanted if each.will_download)


@contextmanager
def _online() -> Iterator[None]:
    """The hub's library may be used meanwhile; everywhere else it is kept offline."""
    from huggingface_hub import constants

    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, False
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
