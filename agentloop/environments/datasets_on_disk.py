"""Where the rows of a dataset lie: one file, a directory of files, a saved dataset, a snapshot of one on the Hugging Face Hub.

A directory is understood as `datasets.load_dataset` understands it: configurations and splits are those that its card
(README.md) declares, else what the names of its files say. The files are then read where they are: nothing is converted and
kept, nothing is fetched, and no program that lies among them is run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from agentloop import scratch
from agentloop.environments.arrow_rows import ArrowFile, Parquet, Saved
from agentloop.environments.csv_rows import Csv
from agentloop.environments.json_rows import JsonArray, JsonLines, begins_with_a_list
from agentloop.environments.rows import Labels, Rows
from agentloop.errors import SettingError
from agentloop.text import one_line_of

if TYPE_CHECKING:
    from datasets import DatasetBuilder

_KINDS: dict[str, type[Rows]] = {
    ".parquet": Parquet,
    ".arrow": ArrowFile,
    ".feather": ArrowFile,
    ".csv": Csv,
    ".tsv": Csv,
    ".json": JsonLines,
    ".jsonl": JsonLines,
    ".ndjson": JsonLines,
}
"""By the end of a file's name."""

_HUB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_HUB_CACHE = Path("~/.cache/huggingface/hub")
"""Where the hub's own command puts what it fetches, unless it is told otherwise."""

_CARDS = ("README.md", ".huggingface.yaml")
_FREE_OPTIONS = frozenset("name version data_dir data_files description features".split())
"""Of a card's configuration: what says nothing of how a file is read."""

SAVE_IT = "datasets.load_dataset(…).save_to_disk(…) makes a directory of it that is read"


def rows_of(path: Path, config: str | None = None) -> list[Rows]:
    """Return the rows that the file or directory holds, by file and split. Raises SettingError, naming it."""
    if not _is_directory(path):
        if config is not None:
            raise SettingError(
                f"environment: {path}: is no directory, and only these have configurations like {config!r}"
            )
        return [_file(path)]
    if any((path / name).is_file() for name in ("dataset_dict.json", "state.json")):
        if config is not None:
            raise SettingError(f"environment: {path}: is a saved dataset, which has no configurations like {config!r}")
        return list(_saved(path))
    return list(_declared(path, config))


def holds_rows(path: Path) -> bool:
    """Return True for a directory, and for a file whose name ends as those of rows do."""
    return path.suffix.lower() in _KINDS or _is_directory(path)


def located(path: Path | str, beside: Path) -> Path:
    """The file or directory that is meant: the path as it is, else beside the user's own file, else, where it looks like a
    name on the hub (ORG/NAME), a snapshot in the hub's cache. Raises SettingError where there is none of that name.
    """
    name, path = str(path), Path(path)
    if not _HUB_NAME.fullmatch(name) or path.suffix in _KINDS or path.is_symlink() or path.exists():
        return path
    found = beside / name if (beside / name).exists() else _snapshot(name)
    if found is None:
        raise SettingError(
            f"environment: {name}: there is no such file, no such directory and no such dataset in the cache; to fetch it: "
            f"hf download {name} --repo-type dataset --local-dir {beside / name}"
        )
    return found


def _is_directory(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # too long a name; told when it is read
        return False


def _snapshot(name: str) -> Path | None:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    for cache in (Path(constants.HF_HUB_CACHE), _HUB_CACHE.expanduser()):
        try:
            return Path(snapshot_download(name, repo_type="dataset", cache_dir=cache, local_files_only=True))
        except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError):
            continue
    return None


def _file(path: Path, *, split: str | None = None, labels: Labels | None = None) -> Rows:
    suffix = path.suffix.lower()
    kind = _KINDS.get(suffix, JsonLines)
    if suffix == ".json" and begins_with_a_list(path):
        kind = JsonArray
    rows = kind(str(path), [path], split=split, labels=labels)
    if isinstance(rows, Csv) and suffix == ".tsv":
        rows.separator = "\t"
    return rows


def _saved(path: Path) -> Iterator[Rows]:
    from datasets import Dataset, load_from_disk  # takes seconds

    try:
        found = load_from_disk(str(path.absolute()))
    except Exception as error:  # files that are missing, cut off or no JSON: of many classes
        _name_the_broken(path)
        raise SettingError(f"environment: {path}: not to be read as a saved dataset: {_said(error, path)}") from None
    if isinstance(found, Dataset):
        yield Saved(str(path), found, None)
        return
    for split, dataset in found.items():
        yield Saved(f"{path}, split {split}", dataset, str(split))


def _name_the_broken(path: Path) -> None:
    """Raises SettingError for an Arrow file that cannot be read, where one is at fault."""
    for file in sorted(path.rglob("*.arrow")):
        next(ArrowFile(str(file), [file]).read(), None)


def _declared(path: Path, config: str | None) -> Iterator[Rows]:
    declared = _check_card(path)
    builder = _builder(path, config, declared)
    _check_options(path, builder)
    labels = _class_names(builder)
    root = path.resolve()
    taken = set()
    for split, files in builder.config.data_files.items():
        for name in sorted(files):
            if not Path(name).is_relative_to(root):
                raise SettingError(f"environment: {path}: its card names {one_line_of(name)}, which lies elsewhere")
            taken.add(inner := Path(name).relative_to(root))
            if inner.suffix.lower() not in _KINDS:
                raise SettingError(
                    f"environment: {path / inner}: is of a kind that is not read, packed or compressed ({SAVE_IT})"
                )
            rows = _file(path / inner, split=str(split), labels=labels)
            if isinstance(rows, Csv):
                said = builder.config.delimiter or builder.config.sep
                rows.separator = said if said != "," else rows.separator
            yield rows
    left = sorted(inner for inner in _data_files(root) if inner not in taken)
    if left and not declared:
        raise SettingError(
            f"environment: {path}: {left[0]} would be left out: the files are of several kinds, or their names say of some "
            "which split they belong to and of others not"
        )


def _check_card(path: Path) -> list[str]:
    """The places of files that a card declares. Raises SettingError where one lies anywhere else.

    `datasets` would look for them there, on a network too.
    """
    import yaml
    from huggingface_hub import DatasetCard

    found: list[Any] = []
    for name in _CARDS:
        if not (path / name).is_file():
            continue
        try:
            text = (path / name).read_text(encoding="utf-8-sig")
            if name.endswith(".md"):
                header = DatasetCard(text).data.to_dict() if text.startswith("---") else {}
            else:
                header = yaml.safe_load(text) or {}
            found += header.get("configs") or []
        except Exception as error:  # YAML's and others'
            raise SettingError(f"environment: {path / name}: not to be read as a card: {_said(error, path)}") from None
    patterns = list(_texts([_places(each) for each in found]))
    for pattern in patterns:
        outside = pattern.startswith(("/", "~")) or ".." in PurePosixPath(pattern).parts
        if outside or "://" in pattern or "::" in pattern:
            raise SettingError(f"environment: {path}: its card names {one_line_of(pattern)!r}, which lies elsewhere")
    return patterns


def _places(config: Any) -> list[Any]:
    return [config.get("data_files"), config.get("data_dir")] if isinstance(config, Mapping) else []


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)
    elif isinstance(value, Mapping):
        yield from _texts(value.get("path"))


def _builder(path: Path, config: str | None, declared: Sequence[str]) -> DatasetBuilder:
    import datasets  # takes seconds

    place = str(path.absolute())
    try:
        with scratch.directory() as nothing:  # a builder notes in its cache that it was there
            return datasets.load_dataset_builder(place, config, cache_dir=str(nothing))
    except Exception as error:  # of many classes; most often there is no data, or no such configuration
        if not any(_data_files(path)):
            kinds = ", ".join(_KINDS)
            raise SettingError(f"environment: {path}: a directory without files of rows ({kinds})") from None
        names = _configs(place)
        if names and config not in names:
            chosen = "has several configurations" if config is None else f"has no configuration {config!r}"
            raise SettingError(f"environment: {path}: {chosen}; there are: {', '.join(names)}") from None
        missing = next((pattern for pattern in declared if not any(path.glob(pattern))), None)
        if missing is not None:
            raise SettingError(f"environment: {path}: its card names {missing}, and no such file is there") from None
        raise SettingError(f"environment: {path}: not to be read as a dataset: {_said(error, path)}") from None


def _configs(place: str) -> list[str]:
    from datasets import get_dataset_config_names

    try:
        return sorted(get_dataset_config_names(place))
    except Exception:  # what is wrong has been told
        return []


def _check_options(path: Path, builder: DatasetBuilder) -> None:
    config = builder.config
    if builder.name not in ("csv", "json", "parquet", "arrow") or not config.data_files:
        raise SettingError(
            f"environment: {path}: is a dataset of the kind {builder.name}, which is not read ({SAVE_IT})"
        )
    usual = type(config)()
    for field in fields(config):
        if field.name in _FREE_OPTIONS or (builder.name == "csv" and field.name in ("sep", "delimiter")):
            continue
        if getattr(config, field.name) != getattr(usual, field.name):
            raise SettingError(
                f"environment: {path}: its card sets {field.name}, by which files are not read here ({SAVE_IT})"
            )


def _class_names(builder: DatasetBuilder) -> dict[str, list[str]]:
    from datasets import ClassLabel

    features = builder.info.features or {}
    return {name: list(each.names) for name, each in features.items() if isinstance(each, ClassLabel) and each.names}


def _data_files(path: Path) -> Iterator[Path]:
    """The files of rows below a directory, as paths in it; hidden ones do not count."""
    for file in path.rglob("*"):
        inner = file.relative_to(path)
        hidden = any(part.startswith((".", "__")) for part in inner.parts)
        if not hidden and file.suffix.lower() in _KINDS and inner.name not in _ABOUT and file.is_file():
            yield inner


_ABOUT = frozenset("config.json dataset_info.json dataset_infos.json".split())
"""Files that describe a dataset and hold none of its rows."""


def _said(error: BaseException, path: Path) -> str:
    return one_line_of(str(error).replace(f"{path.absolute()}/", ""), most=200) or type(error).__name__
