"""Gemma's own tokenizer, which merges line breaks: the answers' tokens are found all the same, after one <bos>."""

from __future__ import annotations

import pytest
from datasets import Dataset

from agentloop.engine.chat_templates import get_chat_template, train_on_responses_only
from agentloop.engine.trl.responses import markers
from agentloop.engine.trl.rows import adds_bos, prepared
from agentloop.model_directory.tokenizer import load_tokenizer

pytestmark = pytest.mark.real
ANSWERS = ["5", "\n\n9 apples", " of course", "<start_of_turn>", "def f():\n\n\n    return 1\n"]


@pytest.fixture(scope="module")
def tokenizer(gemma):
    return get_chat_template(load_tokenizer(gemma), "gemma-3")


def test_answers_alone(tokenizer):
    assert markers(tokenizer) == ("<start_of_turn>user\n", "<start_of_turn>model\n")
    turns = [
        turn
        for n, answer in enumerate(ANSWERS)
        for turn in ({"role": "user", "content": f"\nquestion {n}\n"}, {"role": "assistant", "content": answer})
    ]
    # not by the template, which would trim what the markers touch
    text = "".join(
        f"<start_of_turn>{'user' if turn['role'] == 'user' else 'model'}\n{turn['content']}<end_of_turn>\n"
        for turn in turns
    )
    labels = train_on_responses_only(None, tokenizer=tokenizer, return_function=True)
    ids = tokenizer(text).input_ids
    (found,) = labels({"input_ids": [ids]})["labels"]
    kept = tokenizer.decode([label for label in found if label != -100])
    assert "question" not in kept and kept.count("<end_of_turn>") == len(ANSWERS)
    assert "".join(f"{answer}<end_of_turn>\n" for answer in ANSWERS).replace("\n", "") == kept.replace("\n", "")


def test_one_bos(tokenizer):
    assert adds_bos(tokenizer)
    text = tokenizer.apply_chat_template([{"role": "user", "content": "How many?"}], tokenize=False)
    assert text.startswith("<bos>")
    (row,) = prepared(Dataset.from_list([{"text": text}]), "text", tokenizer)
    assert tokenizer(row["text"]).input_ids.count(tokenizer.bos_token_id) == 1
