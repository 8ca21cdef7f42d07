"""Rows of Parquet and Arrow files, and of datasets that are in memory as Arrow: read in batches, never whole."""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentloop.environments.rows import FileFault, Rows, Written, told
from agentloop.reading import check_regular
from agentloop.text import one_line_of

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

_BATCH = 1024
_FILE_MARK = b"ARROW1"
_INDEX = re.compile(r"__index_level_\d+__")
"""Columns that pandas adds: numbers of rows, which are left out."""


class Parquet(Rows):
    """A Parquet file; row groups without a wanted row are passed over."""

    def read(
        self, columns: Collection[str] | None = None, wanted: Collection[int] | None = None
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        import pyarrow.parquet as pq

        path, wanted = self.files[0], None if wanted is None else sorted(wanted)
        with _told(self, "Parquet"), pq.ParquetFile(path) as file:
            _note(self, file.schema_arrow)
            chosen = _chosen(self, columns)
            before = 0
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if _any(wanted, before, rows):
                    batches = file.iter_batches(_BATCH, row_groups=[group], columns=chosen)
                    yield from _numbered(self, batches, before, wanted)
                before += rows


class ArrowFile(Rows):
    """An Arrow file or stream, which is mapped into memory and not read into it."""

    def read(
        self, columns: Collection[str] | None = None, wanted: Collection[int] | None = None
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        import pyarrow as pa

        path, wanted = self.files[0], None if wanted is None else sorted(wanted)
        with _told(self, "Arrow"), pa.memory_map(str(path)) as file:
            is_file = file.read(len(_FILE_MARK)) == _FILE_MARK
            file.seek(0)
            reader = pa.ipc.open_file(file) if is_file else pa.ipc.open_stream(file)
            _note(self, reader.schema)
            batches = (reader.get_batch(n) for n in range(reader.num_record_batches)) if is_file else reader
            yield from _numbered(self, (batch.select(_chosen(self, columns)) for batch in batches), 0, wanted)


class Saved(Rows):
    """A split of a dataset that `datasets` has loaded from disk."""

    def __init__(self, where: str, dataset: Dataset, split: str | None):
        super().__init__(where, [Path(each["filename"]) for each in dataset.cache_files], split=split)
        self._dataset = dataset.with_format("arrow")

    def read(
        self, columns: Collection[str] | None = None, wanted: Collection[int] | None = None
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        wanted = None if wanted is None else sorted(wanted)
        with _told(self, "Arrow"):
            _note(self, self._dataset.features.arrow_schema)
            for before in range(0, len(self._dataset), _BATCH):
                if _any(wanted, before, _BATCH):
                    table = self._dataset[before : before + _BATCH].select(_chosen(self, columns))
                    yield from _numbered(self, table.to_batches(), before, wanted)


def _note(rows: Rows, schema: pa.Schema) -> None:
    """Note the columns and their classes. Raises SettingError where a name is there twice."""
    rows.names = tuple(name for name in schema.names if not _INDEX.fullmatch(name))
    twice = next((name for name in rows.names if rows.names.count(name) > 1), None)
    if twice is not None:
        raise rows.refused(None, f"has the column {one_line_of(twice, most=60)!r} twice")
    rows.labels = _classes(schema) | rows.labels


def _classes(schema: pa.Schema) -> dict[str, Sequence[str]]:
    """Of columns of class labels, as `datasets` describes them in a schema."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        found = {name: each["names"] for name, each in features.items() if each.get("_type") == "ClassLabel"}
    except (AttributeError, KeyError, TypeError, ValueError):
        return {}
    return {name: names for name, names in found.items() if isinstance(names, list)}


@contextmanager
def _told(rows: Rows, kind: str) -> Iterator[None]:
    """Raises SettingError for what is wrong with the files."""
    import pyarrow as pa

    try:
        with told():
            for file in rows.files:
                check_regular(file, FileFault, most=None)
        yield
    except (pa.ArrowException, OSError) as error:
        raise rows.refused(None, f"cut off, or no {kind} file ({one_line_of(error, most=120)})") from None


def _any(wanted: Sequence[int] | None, before: int, rows: int) -> bool:
    """True where one of the `rows` rows after the first `before` is wanted; `wanted` is sorted."""
    if wanted is None:
        return True
    place = bisect_left(wanted, before + 1)
    return place < len(wanted) and wanted[place] <= before + rows


def _chosen(rows: Rows, columns: Collection[str] | None) -> list[str]:
    return [name for name in rows.names if columns is None or name in columns]


def _numbered(
    rows: Rows, batches: Iterable[pa.RecordBatch], before: int, wanted: Sequence[int] | None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """`before`: rows of the file before the first batch."""
    for whole in batches:
        for start in range(0, whole.num_rows, _BATCH):
            batch = whole.slice(start, _BATCH)
            numbers: Sequence[int] = range(before + 1, before + batch.num_rows + 1)
            if wanted is not None:
                numbers = wanted[bisect_left(wanted, numbers[0]) : bisect_left(wanted, numbers[-1] + 1)]
                batch = batch.take([number - before - 1 for number in numbers]) if numbers else batch.slice(0, 0)
            before += min(_BATCH, whole.num_rows - start)
            columns = [_values(rows, batch, place, numbers) for place in range(batch.num_columns)]
            names = batch.schema.names
            for place, number in enumerate(numbers):
                yield number, rows.named({name: values[place] for name, values in zip(names, columns, strict=True)})


def _values(rows: Rows, batch: pa.RecordBatch, place: int, numbers: Sequence[int]) -> list[Any]:
    """A column as Python's values; numbers of less than 64 bits as they are written in their own precision."""
    import numpy as np
    import pyarrow as pa

    column = batch.column(place)
    try:
        values = column.to_pylist()
    except (ValueError, OverflowError, pa.ArrowException):  # text that is no UTF-8, a date beyond the year 9999
        values = [_value(rows, each, number, batch.schema.names[place]) for each, number in zip(column, numbers)]
    short = {"halffloat": np.float16, "float": np.float32}.get(str(column.type))
    if short is not None:
        return [None if value is None else Written(str(short(value))) for value in values]
    if pa.types.is_decimal(column.type):
        return [_number(value) for value in values]
    return values


def _value(rows: Rows, scalar: pa.Scalar, number: int, name: str) -> Any:
    try:
        return scalar.as_py()
    except Exception as error:
        raise rows.refused(number, f"its {name} is not to be read: {one_line_of(error, most=120)}") from None


def _number(value: Decimal | None) -> int | Written | None:
    if value is None:
        return None
    return int(value) if value.as_tuple().exponent >= 0 else Written(str(value))
