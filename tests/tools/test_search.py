"""The search tool finds passages of a corpus by their words, and takes nothing else from a model."""

import json

import pytest

pytest.importorskip("bm25s")

from agentloop.errors import SettingError  # noqa: E402
from agentloop.tools import ToolError  # noqa: E402
from agentloop.tools.search import PASSAGE, Search, passages_of  # noqa: E402

TEXTS = {
    "birds/owl.md": "# The owl\n\nAn owl hunts at night and hears a mouse below the snow.",
    "birds/hen.txt": "A hen lays an egg on most days.\n\nShe sleeps at night.",
    "places.jsonl": "\n".join(
        json.dumps(row)
        for row in (
            {"title": "Ulm", "text": "Its minster has the tallest church tower."},
            {"text": "Rome lies on the Tiber."},
        )
    ),
    "notes.csv": "owl,owl,owl",
}


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "corpus"
    for name, text in TEXTS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def sources(found: str) -> list[str]:
    return [each.partition("]")[0].removeprefix("[") for each in found.split("\n\n")]


def test_the_best_passage_comes_first(corpus):
    search = Search(corpus, "notes on birds and places")
    assert (
        search.description
        == "Passages of notes on birds and places that have the query's words, best first, at most 10."
    )
    assert search.call("which church has the tallest tower?", 1) == (
        "[places.jsonl:1] Ulm Its minster has the tallest church tower."
    )
    assert sources(search.call(query="owl night"))[0] == "birds/owl.md"
    assert set(sources(search.call("night", count=10))) == {"birds/owl.md", "birds/hen.txt"}
    assert search.call("owl night") == search.call("owl night")


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (("owl", 0), "count must be from 1 to 10"),
        (("owl", 11), "count must be from 1 to 10"),
        (("owl " * 100,), "longer than 300"),
        ((5,), "query must be of type str"),
        ((), "missing a required argument"),
    ],
)
def test_what_is_refused(corpus, args, complaint):
    with pytest.raises(ToolError, match=complaint):
        Search(corpus).call(*args)


@pytest.mark.parametrize("query", ["zebra", "", "../../etc/passwd", "the"])
def test_without_a_word_of_the_corpus_nothing_is_found(corpus, query):
    assert Search(corpus).call(query) == "no passages"


def test_links_are_not_followed(corpus, tmp_path):
    (tmp_path / "secret.txt").write_text("sesame owl", encoding="utf-8")
    (corpus / "link.txt").symlink_to(tmp_path / "secret.txt")
    (corpus / "folder").symlink_to(tmp_path, target_is_directory=True)
    assert "sesame" not in "".join(each.text for each in passages_of(corpus))


def test_long_texts_are_cut_between_words(corpus):
    words = [f"word{number}" for number in range(1000)]
    (corpus / "long.txt").write_text(" ".join(words), encoding="utf-8")
    pieces = [each.text for each in passages_of(corpus) if each.source == "long.txt"]
    assert " ".join(pieces).split() == words and max(map(len, pieces)) <= PASSAGE and len(pieces) > 5


def test_a_corpus_that_cannot_be_read_is_named(corpus, tmp_path):
    with pytest.raises(SettingError, match="a corpus has files of text"):
        Search(tmp_path / "none")
    (corpus / "places.jsonl").write_text('{"text": "a"}\n{"texts": "b"}', encoding="utf-8")
    with pytest.raises(SettingError, match="places.jsonl, line 2: is no JSON object with a `text`"):
        Search(corpus)
