"""The tiny tokenizer spells anything, keeps digits and fences apart, and is the same every time."""

from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from agentloop.tiny.tokenizer import FENCES, SPECIAL_TOKENS, build_tokenizer

TEXTS = ["user\n", "model\n", "How many apples are left?", '```tool_code\ncalculate("12+34")\n```', "Answer: 46"]
TOKENIZER = build_tokenizer(TEXTS)


def tokens(text):
    return TOKENIZER.convert_ids_to_tokens(TOKENIZER.encode(text, add_special_tokens=False))


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_is_spelled_and_read_back(text):
    ids = TOKENIZER.encode(text, add_special_tokens=False, split_special_tokens=True)
    assert TOKENIZER.decode(ids, clean_up_tokenization_spaces=False) == text
    assert not set(ids) & set(range(len(SPECIAL_TOKENS)))


def test_words_calls_and_fences_are_single_tokens():
    assert tokens('```tool_code\ncalculate("12+34")\n```') == [
        "```tool_code\n",
        'calculate("',
        "1",
        "2",
        "+",
        "3",
        "4",
        '")Ċ',
        "```",
    ]
    assert tokens("Answer: 46") == ["Answer:Ġ", "4", "6"]
    assert tokens("How many apples") == ["How", "Ġmany", "Ġapples"]
    assert len(tokens("zebra")) == len("zebra")


def test_special_tokens_and_size():
    assert TOKENIZER.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == list(range(len(SPECIAL_TOKENS)))
    assert set(FENCES) <= set(TOKENIZER.get_vocab()) and not set(FENCES) & set(TOKENIZER.all_special_tokens)
    assert len(TOKENIZER) == len(build_tokenizer([])) == 448


def test_saved_and_loaded_is_the_same(tmp_path):
    build_tokenizer(reversed(TEXTS)).save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.get_vocab() == TOKENIZER.get_vocab()
    text = "How many? 12 ü\n```tool_output\n3\n```<end_of_turn>"
    assert loaded.encode(text) == TOKENIZER.encode(text)
    assert (
        loaded.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True)
        == "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n"
    )
