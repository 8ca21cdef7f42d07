"""The directory of a model that is named as the hub names it: under the models' root, or in the cache of the hub's client.

Upper and lower case are the same, Google's Gemmas may be named without their owner, and Unsloth's copies of them, whose names
are Google's, are the same models: `unsloth/gemma-3n-E4B-it`, and with an ending its packed form,
`unsloth/gemma-3n-E4B-it-unsloth-bnb-4bit`. A model of any other owner is found under that owner alone. Nothing is downloaded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from agentloop.errors import ModelError, SettingError
from agentloop.model_directory.configuration import is_packed
from agentloop.model_directory.files import HUB_RECORD
from agentloop.reading import read_object

_NAME = re.compile(r"(?:(?P<owner>[A-Za-z0-9][\w.-]*)/)?(?P<model>[A-Za-z0-9][\w.-]*)", re.ASCII)
_PACKED = re.compile(r"(?:-unsloth)?-bnb-4bit$", re.ASCII)
"""What Unsloth's names of packed copies end with."""
_SAME = {"unsloth": "google"}
"""Owner of copies -> owner of the originals."""


@dataclass(frozen=True)
class _Name:
    text: str
    """As it was written."""
    owner: str | None
    """In lower case, of the original."""
    model: str
    """In lower case, without an ending that says how it is packed."""
    packed: bool
    """The ending was there."""

    @classmethod
    def of(cls, text: str) -> _Name | None:
        if not (found := _NAME.fullmatch(text)):
            return None
        owner, model = (found["owner"] or "").lower() or None, found["model"].lower()
        plain = _PACKED.sub("", model) if owner in (None, "unsloth") else model
        return cls(text, owner and _SAME.get(owner, owner), plain, plain != model)

    def means(self, other: _Name) -> bool:
        """Whether a directory of the name `other` is what was asked for. Without an owner Google's are meant."""
        return self.model == other.model and (self.owner or "google") == (other.owner or "google")


@dataclass(frozen=True)
class _Candidate:
    directory: Path
    name: _Name


def located(
    name: str,
    models: Path,
    *,
    hub_cache: Path | None = None,
    revision: str | None = None,
    in_4bit: bool = True,
    exact: bool = False,
) -> Path:
    """The directory of the model `name` (`OWNER/MODEL` or `MODEL`).

    `hub_cache` is looked at before the hub's usual caches; `revision` is one of these caches'. `in_4bit`: a packed copy will
    do where there is no other. `exact`: neither another case nor another owner's copy. Raises ModelError, with the command
    that downloads the model, where it is not there, and where two directories are equally meant.
    """
    asked = _Name.of(name)
    caches = [hub_cache] if hub_cache else hub_caches()
    if asked:
        rooms = [_under(models)] if revision is None else []
        rooms += [_cached(cache, revision) for cache in caches]
        for found in rooms:
            fitting = [each for each in found if (each.name.text == name if exact else asked.means(each.name))]
            if chosen := _best(asked, fitting, in_4bit):
                return chosen
    where = f"here or in {models}" if revision is None else f"of the revision {revision!r} in the hub's cache"
    end = f"download it: agentloop fetch {_repository(asked)}" if asked else "nothing is downloaded"
    raise ModelError(f"{name}: no such directory, {where}; {end}")


def hub_caches() -> list[Path]:
    """The folders in which the hub's client keeps repositories: the one it is told to use, and the one it uses untold."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    told = [os.environ.get("HF_HUB_CACHE"), os.environ.get("HUGGINGFACE_HUB_CACHE")]
    homes = [os.environ.get("HF_HOME"), os.path.join(home, "huggingface")]
    folders = [*told, *(os.path.join(each, "hub") for each in homes if each)]
    return list(dict.fromkeys(Path(folder) for folder in folders if folder))


def _best(asked: _Name, fitting: Sequence[_Candidate], in_4bit: bool) -> Path | None:
    """Packed where that was asked for and is there; of what is left the one whose name is the likest."""
    packed = {each.directory: is_packed(each.directory) for each in fitting}
    preferred = [each for each in fitting if packed[each.directory] == asked.packed]
    left = preferred or [each for each in fitting if in_4bit or not packed[each.directory]]
    if not left:
        return None
    ordered = sorted(left, key=lambda each: _unlikeness(asked.text, each.name.text))
    first, *others = ordered
    if others and _unlikeness(asked.text, first.name.text) == _unlikeness(asked.text, others[0].name.text):
        raise ModelError(f"{asked.text}: could be {first.directory} or {others[0].directory}; give the directory")
    return first.directory


def _unlikeness(asked: str, text: str) -> tuple[bool, ...]:
    """Orders names: the very one, the one in another case, the same model in the same case, Google's own."""
    owner, _, model = text.rpartition("/")
    wanted = asked.rpartition("/")[2]
    return text != asked, text.lower() != asked.lower(), model != wanted, owner.lower() != "google", bool(owner)


def _repository(asked: _Name) -> str:
    return asked.text if "/" in asked.text else f"google/{asked.text}"


def _under(models: Path) -> list[_Candidate]:
    """The models of the root, `MODEL` and `OWNER/MODEL`."""
    found = []
    for child in _folders(models):
        if (child / "config.json").is_file():
            found += _named(child, _recorded(child) or child.name)
        else:
            for grandchild in _folders(child):
                if (grandchild / "config.json").is_file():
                    found += _named(grandchild, f"{child.name}/{grandchild.name}")
    return found


def _recorded(directory: Path) -> str | None:
    """The repository that a directory was downloaded from, where that is written down."""
    record = directory / HUB_RECORD
    repository = read_object(record, ModelError).get("repository") if record.is_file() else None
    return repository if isinstance(repository, str) else None


def _cached(cache: Path, revision: str | None) -> list[_Candidate]:
    """The repositories in a cache of the hub's client, each in one revision."""
    found = []
    for folder in _folders(cache):
        kind, _, name = folder.name.partition("--")
        if kind == "models" and (snapshot := _snapshot(folder, revision)):
            found += _named(snapshot, name.replace("--", "/"))
    return found


def _snapshot(folder: Path, revision: str | None) -> Path | None:
    reference = folder / "refs" / (revision or "main")
    commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else revision
    snapshots = [each for each in _folders(folder / "snapshots") if (each / "config.json").is_file()]
    if commit:
        snapshots = [each for each in snapshots if each.name == commit]
    return max(snapshots, key=lambda each: each.stat().st_mtime, default=None)


def _named(directory: Path, text: str) -> list[_Candidate]:
    name = _Name.of(text)
    return [_Candidate(directory, name)] if name else []


def _folders(folder: Path) -> Iterator[Path]:
    try:
        return iter(sorted(each for each in folder.iterdir() if each.is_dir()))
    except FileNotFoundError:
        return iter(())
    except OSError as error:
        raise SettingError(f"{folder}: not to be read: {error.strerror}") from None
