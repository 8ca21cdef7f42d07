"""Conversations from a file: matched to the environment's tasks, written in the model's grammar, refused by row."""

import json

import pytest

from agentloop import environments
from agentloop.errors import SettingError
from agentloop.rollout.grammar import parse
from agentloop.store.shards import read_shard
from agentloop.teaching import messages

ARITHMETIC = environments.get("arithmetic")


def tasks(split, count=6):
    return ARITHMETIC.tasks(split, count, seed=0)


def called(task, *, parallel=False):
    """The expert's way in OpenAI's format."""
    *calls, answer = ARITHMETIC.expert(task)
    said = [{"role": "system", "content": "You are helpful."}, {"role": "user", "content": task.question}]
    for place, turn in enumerate(calls):
        arguments = json.dumps({"expression": parse(turn).args[0]})
        call = {"id": f"c{place}", "type": "function", "function": {"name": "calculate", "arguments": arguments}}
        said.append({"role": "assistant", "content": None, "tool_calls": [call]})
        said.append({"role": "tool", "tool_call_id": f"c{place}", "content": "0"})
    if parallel:
        together = [message["tool_calls"][0] for message in said if message.get("tool_calls")]
        results = [message for message in said if message["role"] == "tool"]
        said = [*said[:2], {"role": "assistant", "content": "", "tool_calls": together}, *reversed(results)]
    return {"messages": [*said, {"role": "assistant", "content": parse(answer).text}]}


def written(path, rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_tool_calls_become_calls_of_the_grammar_and_are_really_called(lesson, tmp_path):
    file = written(tmp_path / "rows.jsonl", [called(task) for task in tasks("train")])
    teaching = lesson.open(file)
    planned, judged = lesson.demonstrate(teaching)
    assert judged["tried"] == judged["accepted"] == 6
    (first, *_) = read_shard(planned.shards[0].path(teaching.settings.paths.shards))
    said = [turn.text for turn in first.turns if turn.role == "model"]
    assert said[0].startswith("```tool_code\ncalculate(expression='") and said[-1] == f"Answer: {first.task.answer}"
    # not the file's "0": the tools were called
    assert [turn.text for turn in first.turns if turn.role == "tool"] != ["0"] * (len(said) - 1)


def test_a_wrong_answer_in_the_file_is_not_taught(lesson, tmp_path):
    rows = [called(task) for task in tasks("train")]
    rows[2]["messages"][-1]["content"] = "Answer: -1"
    teaching = lesson.open(written(tmp_path / "rows.jsonl", rows))
    _, judged = lesson.demonstrate(teaching)
    assert (judged["accepted"], judged["tried"]) == (5, 6)
    assert lesson.choose(teaching)["rows"] == 5


def test_the_same_file_elsewhere_is_the_same_teaching(lesson, tmp_path):
    rows = [called(task) for task in tasks("train", 2)]
    first = lesson.open(written(tmp_path / "rows.jsonl", rows))
    second = lesson.open(written(tmp_path / "others.jsonl", rows))
    third = lesson.open(written(tmp_path / "fewer.jsonl", rows[:1]))
    assert first.campaign.name == second.campaign.name != third.campaign.name


def test_parallel_calls_are_made_one_after_the_other(tmp_path):
    task = next(task for task in tasks("train", 40) if task.family == "two_kinds")
    (read,) = messages.read(written(tmp_path / "rows.jsonl", [called(task, parallel=True)]))
    assert [parse(turn).kwargs["expression"] for turn in read.turns[:-1]] == [
        parse(turn).args[0] for turn in ARITHMETIC.expert(task)[:-1]
    ]
    assert read.results == ("0", "0", "0")


def test_what_select_exports_can_be_taught(lesson, tmp_path):
    from agentloop.curation import export

    first = lesson.open()
    lesson.demonstrate(first)
    chosen = lesson.choose(first)
    with first.campaign.database() as database:
        from agentloop.store import datasets

        rows = datasets.load(database, chosen["dataset"]).trajectories
        export.export(database, rows, tmp_path / "rows.jsonl", paired=False)
    _, judged = lesson.demonstrate(lesson.open(tmp_path / "rows.jsonl"))
    assert judged["tried"] == judged["accepted"] == 12


def test_a_datasets_directory(lesson, tmp_path):
    from datasets import Dataset

    rows = [called(task)["messages"] for task in tasks("train", 3)]
    for said in rows:
        for message in said:
            message.setdefault("tool_calls", None)
            message.setdefault("tool_call_id", None)
    Dataset.from_dict({"messages": rows}).save_to_disk(str(tmp_path / "rows"))
    _, judged = lesson.demonstrate(lesson.open(tmp_path / "rows"))
    assert judged["tried"] == judged["accepted"] == 3


def test_a_held_out_question_is_refused_by_row(lesson, tmp_path):
    rows = [called(task) for task in (*tasks("train", 2), *tasks("heldout", 1))]
    file = written(tmp_path / "rows.jsonl", rows)
    for unverified in (False, True):
        with pytest.raises(SettingError, match=rf"^--from: {file}, row 3: the question .* is held out"):
            lesson.demonstrate(lesson.open(file, unverified=unverified))


UNKNOWN = {
    "messages": [
        {"role": "user", "content": "How high is the tower?"},
        {"role": "assistant", "content": "I look.\n```tool_code\nlook('tower')\n```"},
        {"role": "tool", "content": "324 metres"},
        {"role": "assistant", "content": "Answer: 324"},
    ]
}


def test_an_unknown_question_is_refused_by_row_and_taught_as_it_stands_if_told_so(lesson, tmp_path):
    file = written(tmp_path / "rows.jsonl", ["", *[called(task) for task in tasks("train", 2)], UNKNOWN])
    with pytest.raises(
        SettingError, match=rf"^--from: {file}, row 4: the question 'How high .* --unverified teaches it"
    ):
        lesson.demonstrate(lesson.open(file))
    teaching = lesson.open(file, unverified=True)
    planned, judged = lesson.demonstrate(teaching)
    assert judged["families"].pop("unverified") == [1, 1] and judged["tried"] == 3
    spoken = [
        [turn.text for turn in each.turns]
        for shard in planned.shards
        for each in read_shard(shard.path(teaching.settings.paths.shards))
        if each.task.environment == "unverified"
    ]
    assert spoken == [[message["content"] for message in UNKNOWN["messages"]]]
    assert lesson.choose(teaching)["rows"] == 3
    with teaching.campaign.database() as database:  # and all of it can be scored again
        from agentloop.curation import scoring

        (success, *_) = scoring.rescore(database, lambda name: environments.get(name).verify)
    assert success.scored == 3 and success.changed == 0


QUESTION = {"role": "user", "content": "How many?"}
CALL = {"id": "a", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    "row, message",
    [
        ("{", "is not JSON"),
        ("[]", "has no list 'messages'"),
        ({"messages": []}, "has no list 'messages'"),
        ({"messages": [{"role": "robot", "content": ""}]}, "message 1 has no role that is known"),
        ({"messages": [{"role": "assistant", "content": "Answer: 1"}]}, "does not begin with a message of the user"),
        ({"messages": [{"role": "user", "content": " "}]}, "its question is empty"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "the content of a message of the user is not"),
        ({"messages": [QUESTION]}, "does not end with an answer of the assistant"),
        ({"messages": [QUESTION, QUESTION]}, "the user asks a second question"),
        (
            {"messages": [QUESTION, {"role": "assistant", "content": "One.\nTwo."}]},
            "its last message must end with the line 'Answer: …'",
        ),
        (
            {"messages": [QUESTION, {"role": "assistant", "content": "Hm."}, {"role": "assistant", "content": "1"}]},
            "the assistant neither calls a tool nor answers",
        ),
        ({"messages": [QUESTION, {"role": "tool", "content": "1"}]}, "has a tool's result that no call asked for"),
        ({"messages": [QUESTION, {"role": "assistant", "tool_calls": [CALL]}]}, "does not end with an answer"),
        (
            {"messages": [QUESTION, {"role": "assistant", "tool_calls": [{"function": {"name": "a b"}}]}]},
            "cannot be written as a call",
        ),
        (
            {"messages": [QUESTION, {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]}]},
            "cannot be written as a call",
        ),
        (
            {"messages": [QUESTION, {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]},
            "cannot be written as a call",
        ),
        (
            {
                "messages": [
                    QUESTION,
                    {"role": "assistant", "content": "Answer: 1"},
                    {"role": "assistant", "content": "Answer: 2"},
                ]
            },
            "answers before its end",
        ),
    ],
)  # fmt: skip
def test_a_row_that_is_no_conversation(tmp_path, row, message):
    file = written(tmp_path / "rows.jsonl", [{"messages": UNKNOWN["messages"]}, row])
    with pytest.raises(SettingError) as told:
        messages.read(file)
    assert str(told.value).startswith(f"--from: {file}, row 2: ") and message in str(told.value)
    assert "\n" not in str(told.value)


def test_files_that_are_none(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe{}")
    (tmp_path / "folder").mkdir()
    for name, message in (("empty.jsonl", "no rows"), ("binary.jsonl", "UTF-16"), ("folder", "no datasets directory")):
        with pytest.raises(SettingError, match=message) as told:
            messages.read(tmp_path / name)
        assert str(tmp_path / name) in str(told.value)
