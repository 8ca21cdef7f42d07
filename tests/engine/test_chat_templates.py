"""Conversations as the notebooks prepare them: templates, ShareGPT's rows, and which tokens are trained on."""

from __future__ import annotations

import copy
import re

import pytest
from datasets import Dataset, IterableDataset

from agentloop.engine import FastLanguageModel
from agentloop.engine.batch import join
from agentloop.engine.chat_templates import get_chat_template, standardize_data_formats, train_on_responses_only
from agentloop.engine.trl import SFTConfig, SFTTrainer
from agentloop.errors import SettingError
from agentloop.model_directory.tokenizer import load_tokenizer

TURNS = [
    {"role": "user", "content": " How many are 2 and 3 ?\n"},
    {"role": "assistant", "content": "5"},
    {"role": "user", "content": "and 4 ?"},
    {"role": "assistant", "content": "\n9 apples"},
]
RENDERED = (
    "<bos><start_of_turn>user\nHow many are 2 and 3 ?<end_of_turn>\n<start_of_turn>model\n5<end_of_turn>\n"
    "<start_of_turn>user\nand 4 ?<end_of_turn>\n<start_of_turn>model\n9 apples<end_of_turn>\n"
)
SHAREGPT = [{"from": "human" if turn["role"] == "user" else "gpt", "value": turn["content"]} for turn in TURNS]


@pytest.fixture(scope="module")
def tokenizer(checkpoint):
    return load_tokenizer(checkpoint)


def rendered(tokenizer, turns, **options) -> str:
    return tokenizer.apply_chat_template(turns, tokenize=False, **options)


@pytest.mark.parametrize("name", ["gemma", "gemma2", "gemma-3", "gemma3", "gemma-3n", "Gemma3n"])
def test_gemmas_turns(tokenizer, name):
    before = tokenizer.chat_template, tokenizer.eos_token
    found = get_chat_template(tokenizer, name)
    assert rendered(found, TURNS) == RENDERED
    assert rendered(found, TURNS[:3], add_generation_prompt=True).endswith("<end_of_turn>\n<start_of_turn>model\n")
    parts = [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in TURNS]
    assert rendered(found, parts) == RENDERED
    assert "user\nBe brief.\n\nHow many" in rendered(found, [{"role": "system", "content": "Be brief."}, *TURNS])
    assert (tokenizer.chat_template, tokenizer.eos_token) == before
    assert (found.eos_token == "<end_of_turn>") == (name in ("gemma", "gemma2"))
    assert get_chat_template(tokenizer, name, map_eos_token=False).eos_token == before[1]


def test_rows_with_other_names(tokenizer):
    mapping = {"role": "from", "content": "value", "user": "human", "assistant": "gpt"}
    found = get_chat_template(tokenizer, "gemma-3", mapping=mapping)
    assert rendered(found, SHAREGPT) == RENDERED
    assert rendered(found, TURNS) == RENDERED
    same = get_chat_template(tokenizer, "gemma-3", mapping={"user": "human", "assistant": "gpt"})
    assert rendered(same, [{"role": each["from"], "content": each["value"]} for each in SHAREGPT]) == RENDERED


def test_a_template_of_ones_own(tokenizer):
    own = "{% for m in messages %}{{ m['content'] }}<end_of_turn>{% endfor %}"
    found = get_chat_template(tokenizer, (own, "<end_of_turn>"))
    assert rendered(found, TURNS[1:2]) == "5<end_of_turn>" and found.eos_token == "<end_of_turn>"
    assert get_chat_template(tokenizer, (own, "eos_token")).eos_token == tokenizer.eos_token


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ({"chat_template": "llama-3"}, "chat_template: 'llama-3' is none of gemma"),
        ({"chat_template": ("{{ x }}", "<|im_end|>")}, "the tokenizer has no token '<|im_end|>'"),
        ({"system_message": "Be brief."}, "system_message: "),
    ],
)
def test_a_template_that_is_refused(tokenizer, arguments, expected):
    with pytest.raises(SettingError, match=re.escape(expected)):
        get_chat_template(tokenizer, **arguments)


@pytest.mark.parametrize("streamed", [False, True])
def test_sharegpt(streamed):
    rows = [{"conversations": SHAREGPT, "source": "x"}, {"conversations": SHAREGPT[:2], "source": "y"}]
    dataset = IterableDataset.from_generator(lambda: iter(rows)) if streamed else Dataset.from_list(rows)
    found = list(standardize_data_formats(dataset))
    assert found[0]["conversations"] == TURNS and found[1]["conversations"] == TURNS[:2]
    assert found[1]["source"] == "y"
    already = Dataset.from_list([{"conversations": TURNS}])
    assert list(standardize_data_formats(already))[0]["conversations"] == TURNS
    messages = Dataset.from_list([{"messages": TURNS}])
    assert standardize_data_formats(messages) is messages


@pytest.mark.parametrize(
    "conversation, expected",
    [
        ([{"from": "narrator", "value": "x"}], "row 1: the role 'narrator' is none of system"),
        ([{"speaker": "human", "text": "x"}], "row 1: a message has ['speaker', 'text'], not role and content"),
    ],
)
def test_sharegpt_that_is_none(conversation, expected):
    names = sorted({name for turn in (*SHAREGPT, *conversation) for name in turn})
    rows = [
        {"conversations": [{name: turn.get(name) for name in names} for turn in each]}
        for each in (SHAREGPT, conversation)
    ]
    with pytest.raises(Exception, match=re.escape(expected)):
        standardize_data_formats(Dataset.from_list(rows))
    ours = standardize_data_formats(Dataset.from_list(rows[:1]), aliases_for_user=["human"])
    assert ours[0]["conversations"] == TURNS


# answers alone


def supervised(tokenizer, row) -> str:
    return tokenizer.decode([label for label in row["labels"] if label != -100])


@pytest.fixture(scope="module")
def model(checkpoint, cache):
    loaded, _ = FastLanguageModel.from_pretrained(checkpoint, max_seq_length=256, cache_directory=cache)
    return FastLanguageModel.get_peft_model(loaded, r=8)


def trainer_of(model, tokenizer, tmp_path, rows, **changes):
    args = SFTConfig(str(tmp_path), max_steps=2, learning_rate=1e-2, report_to="none", logging_steps=1, **changes)
    return SFTTrainer(model=model, tokenizer=tokenizer, train_dataset=Dataset.from_list(rows), args=args)


@pytest.mark.parametrize("parts", [(), ("<start_of_turn>user\n", "<start_of_turn>model\n")], ids=["found", "given"])
@pytest.mark.parametrize("last", [False, True])
def test_answers_alone(model, tokenizer, tmp_path, parts, last):
    text = RENDERED.removeprefix("<bos>")
    trainer = trainer_of(
        model, tokenizer, tmp_path, [{"text": text}, {"text": text[: text.index("<start_of_turn>model")]}]
    )
    whole = trainer.train_dataset[0]["input_ids"]
    trainer = train_on_responses_only(trainer, *parts, last_response_only=last)
    (row,) = trainer.train_dataset  # the other has no answer
    assert row["input_ids"] == whole
    first, second = "5<end_of_turn>\n", f"9 apples<end_of_turn>\n{tokenizer.eos_token}"
    assert supervised(tokenizer, row) == (second if last else first + second)
    expected = model.loss_and_gradients(join([(row["input_ids"], [label != -100 for label in row["labels"]])])).mean
    model.lora.gradients.zero_()
    trainer.train()
    losses = [each["loss"] for each in trainer.state.log_history if "loss" in each]
    assert len(losses) == 2 and losses[0] == pytest.approx(expected, rel=1e-4)


def test_answers_in_packed_rows(model, tokenizer, tmp_path):
    rows = [{"text": RENDERED.removeprefix("<bos>")}] * 3
    trainer = train_on_responses_only(trainer_of(model, tokenizer, tmp_path, rows, packing=True))
    (row,) = trainer.train_dataset
    assert supervised(tokenizer, row).count("9 apples<end_of_turn>") == 3
    assert "How many" not in supervised(tokenizer, row)
    trainer.train()


def test_messages_of_a_data_set(model, tokenizer, tmp_path):
    """TRL renders `messages` itself, with the tokenizer's template."""
    found = get_chat_template(tokenizer, "gemma-3n")
    trainer = train_on_responses_only(trainer_of(model, found, tmp_path, [{"messages": TURNS}] * 2))
    assert found.decode(trainer.train_dataset[0]["input_ids"]) == RENDERED
    assert supervised(found, trainer.train_dataset[0]) == "5<end_of_turn>\n9 apples<end_of_turn>\n"


def test_markers_of_plain_text(model, tokenizer, tmp_path):
    """Whose ends become tokens with what is beside them."""
    text = "### Question:\nHow many ?\n### Answer:\n\n12 apples\n### Question:\nand ?\n### Answer: 7"
    trainer = trainer_of(model, tokenizer, tmp_path, [{"text": text}])
    trainer = train_on_responses_only(trainer, "### Question:\n", "### Answer:")
    found = supervised(tokenizer, trainer.train_dataset[0])
    assert "12 apples" in found and "7" in found
    assert "How many" not in found and "and ?" not in found and "Question" not in found


def test_the_function_alone(tokenizer):
    function = train_on_responses_only(None, tokenizer=tokenizer, return_function=True)
    ids = tokenizer(RENDERED, add_special_tokens=False).input_ids
    (labels,) = function({"input_ids": [ids]})["labels"]
    assert [label for label in labels if label != -100] and len(labels) == len(ids)
    before = [-100] * len(ids)
    assert function({"input_ids": [ids], "labels": [before]})["labels"] == [before]


@pytest.mark.parametrize(
    "parts, expected",
    [
        (("<start_of_turn>user\n", None), "instruction_part, response_part: give both, or neither"),
        (("<start_of_turn>user\n", "### Answer"), "response_part: no row of train_dataset has '### Answer'"),
        (("", "x"), "instruction_part: '' is not one run of tokens"),
    ],
)
def test_answers_that_are_not_found(model, tokenizer, tmp_path, parts, expected):
    trainer = trainer_of(model, tokenizer, tmp_path, [{"text": RENDERED}])
    with pytest.raises(SettingError, match=re.escape(expected)):
        train_on_responses_only(trainer, *parts)


def test_a_tokenizer_without_a_template(tokenizer):
    bare = copy.deepcopy(tokenizer)
    bare.chat_template = None
    with pytest.raises(SettingError, match="give both parts"):
        train_on_responses_only(None, tokenizer=bare, return_function=True)
