"""The tokenizer that comes out of a GGUF gives SentencePiece's ids, after <bos>."""

from __future__ import annotations

import pytest
from gguf_exporter import Exporter, vocabulary

from agentloop.gguf.file import open_gguf
from agentloop.gguf.importing import imported
from agentloop.gguf.tokenizer import read_tokenizer
from agentloop.model_directory import chat_template, files
from agentloop.model_directory.tokenizer import load_tokenizer
from agentloop.tiny.gemma import random_gemma_checkpoint

HARD = [
    "How many apples are left?",
    "  two  spaces   three",
    "def f(x):\n    return x\n\n\nprint(f(2))",
    "1234567890 3.14159",
    "na\u00efve caf\u00e9 \u00dcbergr\u00f6\u00dfe",
    "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8 \u0939\u093f\u0928\u094d\u0926\u0940 \u05e2\u05d1\u05e8\u05d9\u05ea",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f3f3\ufe0f\u200d\U0001f308",
    "<h1>a</h1>\t\t<table>&amp;\r\n",
    "\x00\x07\u0001 controls",
    "SELECT c.name FROM customers c WHERE id = 'x';",
    "villagevillage the the",
    " ",
    "",
]


@pytest.fixture(scope="module")
def pieces():
    return vocabulary(448)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    directory = tmp_path_factory.mktemp("checkpoint") / "model"
    random_gemma_checkpoint(directory)
    return directory


@pytest.fixture(scope="module")
def tokenizer(checkpoint, pieces, tmp_path_factory):
    """As it is loaded from the directory that was written."""
    folder = tmp_path_factory.mktemp("imported")
    path = Exporter(checkpoint, vocabulary=pieces).write(folder / "model.gguf")
    directory = imported(path, folder / "models", cache=folder / "cache")
    files.check(directory)
    return load_tokenizer(directory)


@pytest.mark.parametrize("text", HARD)
def test_ids(tokenizer, pieces, text):
    ids = tokenizer(text).input_ids
    assert ids == [2, *pieces.encode(text)]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_a_run_of_spaces_that_is_no_token_is_merged_by_rank(tokenizer, pieces):
    """As in Google's tokenizer.json; SentencePiece itself would take the longest first."""
    ids = tokenizer("a     b", add_special_tokens=False).input_ids
    assert tokenizer.convert_ids_to_tokens(ids) == ["a", "▁▁", "▁▁▁", "b"]
    assert tokenizer.decode(ids) == "a     b"


def test_two_texts(tokenizer, pieces):
    ids = tokenizer("How many", "apples").input_ids
    assert ids == [2, *pieces.encode("How many"), 2, *pieces.encode("apples")]


def test_turns_are_special_and_the_vocabulary_has_not_grown(tokenizer, pieces):
    ids = tokenizer("<start_of_turn>user\n", add_special_tokens=False).input_ids
    assert (
        ids[0] == pieces.piece_to_id("<start_of_turn>") and tokenizer.decode(ids, skip_special_tokens=True) == "user\n"
    )
    assert len(tokenizer) == 448
    assert [tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.unk_token_id] == [
        0,
        1,
        2,
        3,
    ]


def test_the_chat_template_is_gemmas_or_the_files_own(tokenizer, checkpoint, pieces, tmp_path):
    messages = [{"role": "user", "content": " Hi "}, {"role": "assistant", "content": "Yes."}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\nYes.<end_of_turn>\n<start_of_turn>model\n"
    )
    assert tokenizer.chat_template == chat_template.GEMMA
    keys = {"tokenizer.chat_template": "{{ messages[0]['content'] }}!"}
    own = read_tokenizer(open_gguf(Exporter(checkpoint, vocabulary=pieces, keys=keys).write(tmp_path / "own.gguf")))
    assert own.apply_chat_template(messages[1:], tokenize=False) == "Yes.!"


def test_a_file_that_wants_no_bos(checkpoint, pieces, tmp_path):
    keys = {"tokenizer.ggml.add_bos_token": False, "tokenizer.ggml.add_eos_token": True}
    path = Exporter(checkpoint, vocabulary=pieces, keys=keys).write(tmp_path / "own.gguf")
    assert read_tokenizer(open_gguf(path))("apples").input_ids == [*pieces.encode("apples"), 1]
