"""Rows of a data set as earlier trainers took them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Formatting = Callable[[dict[str, Any]], Any]


def by_row(formatting: Formatting, first: dict[str, Any]) -> Formatting:
    """A formatting function as TRL calls it now, row by row; earlier ones take a batch and return a list of texts."""
    try:
        of_a_row = isinstance(formatting(first), str)
    except Exception:  # it expects lists, and whatever happens then
        of_a_row = False
    if of_a_row:
        return formatting

    def one(row: dict[str, Any]) -> str:
        (text,) = formatting({name: [value] for name, value in row.items()})
        return text

    return one


def prepared(rows: Any, field: str, tokenizer: Any) -> Any:
    """The data set as TRL reads it: with one <bos> where its texts begin with their own, and with its texts where it has
    conversations too; conversations of roles alone are `messages`.

    `rows` may be a dictionary of data sets. TRL's tokenizing adds <bos>; a text made by a chat template has one.
    """
    if isinstance(rows, dict):
        return {name: prepared(each, field, tokenizer) for name, each in rows.items()}
    first = next(iter(rows), None) if rows is not None else None
    if first is None:
        return rows
    if not isinstance(first.get(field), str):
        turns = first.get("conversations")
        of_roles = bool(turns) and isinstance(turns[0], dict) and "role" in turns[0] and "messages" not in first
        return rows.rename_column("conversations", "messages") if of_roles else rows
    if "conversations" in first:  # TRL would take those in their place
        rows = rows.remove_columns("conversations")
    bos = getattr(tokenizer, "bos_token", None)
    if not bos or not first[field].startswith(bos) or not adds_bos(tokenizer):
        return rows
    return rows.map(lambda row: {field: row[field].removeprefix(bos)})


def adds_bos(tokenizer: Any) -> bool:
    """Return True where the tokenizer puts <bos> before a text."""
    return tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]
