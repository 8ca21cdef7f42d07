"""A tokenizer without transformers is transformers' own, or there is none."""

from __future__ import annotations

import json
import random
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentloop.model_directory import plain_tokenizer
from agentloop.model_directory.plain_tokenizer import PlainTokenizer
from agentloop.model_directory.tokenizer import load_tokenizer, text_tokenizer
from agentloop.project import CHECKOUT
from agentloop.rollout.prompt import PromptFormat

TINY = CHECKOUT / "models" / "tiny"
REAL = CHECKOUT / "models" / "gemma-3-270m"
HARD = [
    "", "  a  b ", "<start_of_turn>user\nhi<end_of_turn>", "<bos><eos><unk><pad>", "naïve ﬁ ½ 汉字 \u200b \x00",
    "👩‍👩‍👧 🇩🇪", "\t\n\r\n  x", "a▁b ▁▁", "1234567 89,0.5e-3", "عربى עברית", "<unused5> [multimodal] <mask>", "Answer: 7",
]  # fmt: skip


def texts() -> list[str]:
    draw = random.Random(0)
    ranges = [(32, 127), (160, 0x3000), (0x1F300, 0x1FAFF)]
    return HARD + ["".join(chr(draw.randrange(*draw.choice(ranges))) for _ in range(40)) for _ in range(200)]


def are_equal(directory: Path) -> bool:
    plain, full = plain_tokenizer.read(directory), load_tokenizer(directory)
    assert plain is not None
    words = range(0, len(full), max(1, len(full) // 5000))
    return (
        all(
            plain.encode(text, add_special_tokens=special, split_special_tokens=split)
            == full.encode(text, add_special_tokens=special, split_special_tokens=split)
            for text in texts()
            for special in (False, True)
            for split in (False, True)
        )
        and all(
            plain.decode([token], skip_special_tokens=skip)
            == full.decode([token], skip_special_tokens=skip, clean_up_tokenization_spaces=False)
            for token in words
            for skip in (False, True)
        )
        and plain.unk_token_id == full.unk_token_id
        and len(plain) == len(full)
        and plain.convert_tokens_to_ids("<end_of_turn>") == full.convert_tokens_to_ids("<end_of_turn>")
    )


def test_the_tiny_models() -> None:
    assert are_equal(TINY)
    assert plain_tokenizer.read(TINY).convert_tokens_to_ids("<nothing>") is None


@cache
def both() -> tuple[PromptFormat, PromptFormat]:
    return tuple(PromptFormat(each(TINY), describe_tools=False) for each in (text_tokenizer, load_tokenizer))


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
@example("<start_of_turn>model\n<eos> <end_of_turn>")
@example(" two  spaces\tand a tab ")
def test_pieces_of_an_episode(text: str) -> None:
    plain, full = both()
    assert plain.first_turn(text) == full.first_turn(text)
    ids = plain.spoken(text)
    assert ids == full.spoken(text) and plain.decode(ids) == full.decode(ids) and plain.shown(ids) == full.shown(ids)


@pytest.mark.real
@pytest.mark.skipif(not REAL.is_dir(), reason="models/gemma-3-270m is not there: agentloop fetch gemma-3-270m")
def test_a_real_gemmas() -> None:
    assert are_equal(REAL)


def changed(directory: Path, file: str, **values: Any) -> Path:
    shutil.copytree(TINY, directory)
    path = directory / file
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | values), encoding="utf-8")
    return directory


@pytest.mark.parametrize(
    "values",
    [
        {"tokenizer_class": "GemmaTokenizer"},  # takes the vocabulary alone, and this file has other steps
        {"tokenizer_class": None},
        {"tokenizer_class": "LlamaTokenizer"},
        {"mask_token": "<mask>"},
        {"extra_special_tokens": ["<image>"]},
        {"extra_special_tokens": {"image_token": "<image>"}},
        {"additional_special_tokens": [{"content": "user", "special": True}]},
        {"added_tokens_decoder": {"448": {"content": "<new>", "special": True}}},
        {"added_tokens_decoder": {"7": {"content": "<eos>", "special": True}}},
        {"added_tokens_decoder": {"1": {"content": "<eos>", "special": False}}},
    ],
)
def test_whatever_transformers_changes_is_left_to_it(tmp_path: Path, values: dict[str, Any]) -> None:
    assert plain_tokenizer.read(changed(tmp_path / "other", "tokenizer_config.json", **values)) is None


def test_tokens_named_twice_change_nothing(tmp_path: Path) -> None:
    tokens = json.loads((TINY / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
    named = {str(token["id"]): {"content": token["content"], "special": token["special"]} for token in tokens}
    other = changed(tmp_path / "other", "tokenizer_config.json", added_tokens_decoder=named)
    assert are_equal(other)


def test_a_model_without_such_a_file_has_transformers(tmp_path: Path) -> None:
    other = changed(tmp_path / "other", "tokenizer_config.json", additional_special_tokens=["<image>"])
    assert not isinstance(text_tokenizer(other), PlainTokenizer)
    assert isinstance(text_tokenizer(TINY), PlainTokenizer)
