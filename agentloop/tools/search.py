"""The tool `search`: passages of a local corpus by their words, ranked by BM25 (the package bm25s, `agentloop[search]`).

A corpus is a directory of .txt, .md and .jsonl files. It is read and indexed once in each process that asks for it; worlds are
forked from one that has it.
"""

from __future__ import annotations

import inspect
import json
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from agentloop.errors import SettingError
from agentloop.reading import read_text
from agentloop.text import lines_of, one_line_of
from agentloop.tools.arguments import Arguments
from agentloop.tools.tool import ToolError

PASSAGE = 600
"""Characters of a passage, about: a text is cut at its paragraphs, and a longer paragraph at its words."""
MAX_QUERY = 300
MAX_COUNT = 10
_SUFFIXES = (".txt", ".md", ".jsonl")


@dataclass(frozen=True)
class Passage:
    """A piece of a corpus."""

    source: str
    """File below the corpus, with the line of a .jsonl file: `notes/a.md`, `all.jsonl:3`."""
    text: str


class Search:
    """The tool `search` on a corpus: the passages that have most of a query's words, the rarest first in weight."""

    name = "search"
    signature = inspect.Signature(
        [
            inspect.Parameter("query", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=str),
            inspect.Parameter("count", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=int, default=3),
        ],
        return_annotation=str,
    )
    _arguments = Arguments(signature)

    def __init__(self, corpus: Path | str, about: str = "a collection of texts") -> None:
        """`corpus`: a directory. `about`: what it holds, for the model to read. Raises SettingError, naming the file, where it
        cannot be read.
        """
        self.description = f"Passages of {about} that have the query's words, best first, at most {MAX_COUNT}."
        self._index = _index(Path(corpus).absolute())

    def call(self, /, *args: Any, **kwargs: Any) -> str:
        """Return the passages, each with its source. Raises ToolError for a query without words or a count out of range."""
        bound = self._arguments.bind(args, kwargs).arguments
        query, count = bound["query"], bound["count"]
        if len(query) > MAX_QUERY:
            raise ToolError(f"the query is longer than {MAX_QUERY} characters")
        if not 1 <= count <= MAX_COUNT:
            raise ToolError(f"count must be from 1 to {MAX_COUNT}")
        found = self._index.find(query, count)
        return "\n\n".join(f"[{passage.source}] {passage.text}" for passage in found) or "no passages"


class _Index:
    def __init__(self, passages: list[Passage]) -> None:
        import bm25s

        self._passages = passages
        self._words = bm25s.tokenization.Tokenizer(stopwords="en")
        tokens = self._words.tokenize([each.text for each in passages], update_vocab=True, show_progress=False)
        self._ranking = bm25s.BM25()
        self._ranking.index((tokens, self._words.get_vocab_dict()), show_progress=False)

    def find(self, query: str, count: int) -> list[Passage]:
        tokens = self._words.tokenize([query], update_vocab=False, show_progress=False)
        count = min(count, len(self._passages))
        places, scores = self._ranking.retrieve(tokens, k=count, show_progress=False)
        return [self._passages[place] for place, score in zip(places[0], scores[0], strict=True) if score > 0]


@lru_cache(maxsize=8)
def _index(corpus: Path) -> _Index:
    passages = passages_of(corpus)
    if not any(any(letter.isalnum() for letter in each.text) for each in passages):
        raise SettingError(f"{corpus}: a corpus has files of text, named {', '.join(_SUFFIXES)}; there are none")
    return _Index(passages)


def passages_of(corpus: Path) -> list[Passage]:
    """Return the passages of all files in a directory, by the files' names. Links are not followed. Raises SettingError, naming
    file and line.
    """
    files = [
        Path(folder, name)
        for folder, _, names in os.walk(corpus)
        for name in names
        if name.endswith(_SUFFIXES) and not Path(folder, name).is_symlink()
    ]
    found = []
    for file in sorted(files):
        source, text = str(file.relative_to(corpus)), read_text(file, SettingError)
        if file.suffix == ".jsonl":
            for number, line in enumerate(lines_of(text), 1):
                if line.strip():
                    found += [Passage(f"{source}:{number}", piece) for piece in _pieces(_text_of(line, file, number))]
        else:
            found += [Passage(source, piece) for piece in _pieces(text)]
    return found


def _text_of(line: str, file: Path, number: int) -> str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        raise SettingError(f"{file}, line {number}: is no JSON object with a `text`")
    title = row.get("title")
    return f"{one_line_of(title)}\n{row['text']}" if isinstance(title, str) else row["text"]


def _pieces(text: str) -> list[str]:
    """Paragraphs joined up to about PASSAGE characters, and longer ones cut between words."""
    found: list[str] = []
    for paragraph in text.split("\n\n"):
        piece = ""
        for word in paragraph.split():
            if piece and len(piece) + 1 + len(word) > PASSAGE:
                found.append(piece)
                piece = ""
            piece = f"{piece} {word[:PASSAGE]}" if piece else word[:PASSAGE]
        if piece and found and len(found[-1]) + len(piece) < PASSAGE // 2:
            found[-1] = f"{found[-1]} {piece}"
        elif piece:
            found.append(piece)
    return found
