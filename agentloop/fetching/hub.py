"""The hub: a model of it as a directory under the models' root, and a directory of ours as a repository there.

Nothing else here talks to a hub, and both only when somebody asks for it by name.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from agentloop import space
from agentloop.errors import ModelError, NoSpaceError, SettingError, lacks_space
from agentloop.files import atomic
from agentloop.model_directory import files
from agentloop.model_directory.files import HUB_RECORD
from agentloop.reading import read_object
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
    check_name(name)
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
        (temporary / HUB_RECORD).write_text(json.dumps({"repository": name}), encoding="utf-8")
    return directory


def check_name(name: str) -> None:
    """Raise SettingError for what cannot be the name of a repository."""
    if not _NAME.fullmatch(name) or ".." in name:
        raise SettingError(f"{name!r:.80}: is not ORG/NAME as the hub has it")


def origin(directory: Path) -> str | None:
    """Return the repository that a model's directory was fetched from; None where it came from elsewhere."""
    record = directory / HUB_RECORD
    return read_object(record, ModelError).get("repository") if record.is_file() else None


def token() -> str:
    """Return the user's key of the hub. Raises SettingError where there is none."""
    from huggingface_hub import get_token

    found = os.environ.get("HF_TOKEN") or get_token() or _logged_in()
    if not found:
        raise SettingError(
            "--push: the hub asks who you are; set HF_TOKEN to a token that may write (huggingface.co/settings/tokens)"
        )
    return found


def push(directory: Path, name: str, key: str) -> str:
    """Upload everything in `directory` to the repository `name`, which is made, private, where it is not there.

    Returns its address. Raises ModelError where the hub refuses or cannot be reached.
    """
    from huggingface_hub import HfApi  # takes a second

    try:
        with _online():
            api = HfApi(token=key)
            address = api.create_repo(name, private=True, exist_ok=True)
            api.upload_folder(repo_id=name, folder_path=directory, commit_message="agentloop export")
    except Exception as error:  # HTTP's, the hub's and the disk's, of many classes
        raise ModelError(f"{name}: the hub did not take it: {one_line_of(error)}") from error
    return str(address)


def _logged_in() -> str | None:
    """The token that `hf auth login` has left in the user's own cache, which is not the one that this project uses."""
    file = Path(os.path.expanduser("~/.cache/huggingface/token"))
    return file.read_text(encoding="utf-8").strip() if file.is_file() else None


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
