"""Tasks from Parquet, Arrow, CSV, TSV and JSON: the same questions under the same names, and one line for what is broken."""

import csv
import datetime
import gc
import json
import random
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agentloop.environments import Question, QuestionFile, questions
from agentloop.environments.question_file import read_questions
from agentloop.errors import SettingError

ROWS = [
    {
        "question": "How many metres are 5 chains?",
        "answer": "100.584",
        "family": "chain",
        "unit": "chain",
        "count": "5",
    },
    {
        "question": "Wie viele Meter sind 3 „rods“?\nGenau!",
        "answer": "15,0876; ca.",
        "family": "rod",
        "unit": "rod",
        "count": "3",
    },
    {"question": "Où est le café?", "answer": '"là"', "family": "words", "unit": "", "count": "0"},
]


def own(path, **attributes) -> QuestionFile:
    """An environment as a user writes it."""
    about = {"__module__": __name__, "name": "own", "path": path, "tools": lambda self, task: {}}
    return type("Own", (QuestionFile,), about | attributes)()


def read(path, **attributes) -> list[Question]:
    """All its questions, in an order that does not depend on the file."""
    return sorted(own(path, **attributes).questions(random.Random(0)), key=lambda question: question.text)


def refused(path, **attributes) -> str:
    """The one line about it."""
    with pytest.raises(SettingError) as error:
        read(path, **attributes)
    message = str(error.value)
    assert message.startswith("environment: ") and len(message.splitlines()) == 1 and len(message) < 500
    return message.removeprefix("environment: ").removeprefix(str(path))


def write_text(path, rows) -> None:
    if path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=2, ensure_ascii=False))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)


def write(path, table, **options) -> Path:
    """A table, or columns by name, as the file that its name says."""
    table = table if isinstance(table, pa.Table) else pa.table(table)
    if path.suffix == ".parquet":
        pq.write_table(table, path, **options)
    else:
        with pa.OSFile(str(path), "wb") as file:
            new = pa.ipc.new_file if path.suffix == ".feather" else pa.ipc.new_stream
            with new(file, table.schema) as writer:
                writer.write_table(table)
    return path


def parquet(folder, **columns) -> Path:
    return write(folder / "rows.parquet", {"question": ["a", "b"], "answer": ["1", "2"]} | columns)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".feather"])
def test_every_format_holds_the_same_tasks(tmp_path, suffix):
    expected = tmp_path / "expected.jsonl"
    write_text(expected, ROWS)
    path = tmp_path / f"rows{suffix}"
    if suffix in (".parquet", ".arrow", ".feather"):
        write(path, pa.Table.from_pylist(ROWS))
    else:
        write_text(path, ROWS)
    before = sorted(tmp_path.iterdir())
    assert read_questions(path) == read_questions(expected)
    for split in ("train", "heldout"):
        tasks, others = (list(own(each).stream(split, 5)) for each in (path, expected))
        assert [(task.id, task) for task in tasks] == [(task.id, task) for task in others]
    assert sorted(tmp_path.iterdir()) == before


def test_names_of_today_stay(tmp_path):
    """As JSON lines were named and ordered when nothing else was read."""
    file = tmp_path / "rows.jsonl"
    file.write_text(
        '{"question": "How many metres are 5 chains?", "answer": 100.584, "unit": "chain", "n": [1, 2.50, {"a": null}]}\n'
        '{"question": "How far is it?", "answer": "7", "family": "far", "split": "train"}\n'
    )
    tasks = [task for split in ("train", "heldout") for task in own(file).stream(split, 0)]
    assert [(task.id, task.split, task.answer) for task in tasks] == [
        ("task_d246c15acdf31f39", "train", "7"),
        ("task_c179ee155ede1c45", "heldout", "100.584"),
    ]
    file.write_text("".join(f'{{"question": "{n}?", "answer": {n}}}\n' for n in range(30)))
    stream = [int(task.answer) for task in own(file).stream("train", 3)]
    assert stream == [5, 28, 25, 23, 29, 12, 7, 27, 17, 15, 19, 0, 10, 9, 2, 3, 11, 13, 18]


def test_json_lines_and_csv_need_nothing_large(tmp_path):
    for name in ("rows.jsonl", "rows.csv", "rows.json"):
        write_text(tmp_path / name, ROWS)
    code = (
        "import sys\nfrom pathlib import Path\nfrom agentloop.environments.question_file import read_questions\n"
        f"counts = [len(read_questions(Path({str(tmp_path)!r}, name))) for name in ('rows.jsonl', 'rows.csv', 'rows.json')]\n"
        "print(counts, sorted({'datasets', 'pandas', 'pyarrow', 'huggingface_hub'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[3, 3, 3] []\n"


# What a cell or a value says.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("question,answer\na,0.10\n", [("a", "0.10", {})]),
        ("\ufeffquestion,answer,n\r\na,007,1\r\n\r\nb,NA,\r\n", [("a", "007", {"n": "1"}), ("b", "NA", {"n": ""})]),
        ('question,answer\n"a,\n""b""",1', [('a,\n"b"', "1", {})]),
        ("question;answer\nWas?;1,5\n", [("Was?", "1,5", {})]),
        ("question\tanswer\na b\t1\n", [("a b", "1", {})]),
        (",question,answer\n0,a,1\n1,b,2\n", [("a", "1", {}), ("b", "2", {})]),
        ("question , answer\na,1\n,\n", [("a", "1", {})]),
    ],
)
def test_cells_are_texts_as_they_are_written(tmp_path, text, expected):
    (tmp_path / "rows.csv").write_bytes(text.encode())
    found = read(tmp_path / "rows.csv")
    assert [(question.text, question.answer, question.payload) for question in found] == expected


def test_an_empty_cell_is_no_family_and_no_split(tmp_path):
    (tmp_path / "rows.csv").write_text("question,answer,family,split\na,1,,\nb,2,x,heldout\n")
    assert [(each.family, each.split) for each in read(tmp_path / "rows.csv")] == [("all", None), ("x", "heldout")]


@pytest.mark.parametrize(
    ("values", "answers"),
    [
        (pa.array([7, -1]), ["7", "-1"]),
        (pa.array([7.0, 0.1]), ["7.0", "0.1"]),
        (pa.array([0.1, 1e20], pa.float32()), ["0.1", "1e+20"]),
        (pa.array([0.1, 2], pa.float16()), ["0.1", "2.0"]),
        (pa.array([Decimal("0.10"), Decimal("12.50")]), ["0.10", "12.50"]),
        (pa.array([Decimal("7"), Decimal("8")], pa.decimal128(5, 0)), ["7", "8"]),
        (pa.array([2**63, 2**64 - 1], pa.uint64()), [str(2**63), str(2**64 - 1)]),
        (pa.array([datetime.date(2024, 2, 29), datetime.date(1, 1, 1)]), ["2024-02-29", "0001-01-01"]),
        (pa.array(["x", "y"]).dictionary_encode(), ["x", "y"]),
        (pa.array(["x", "y"], pa.large_string()), ["x", "y"]),
    ],
)
@pytest.mark.parametrize("suffix", [".parquet", ".feather"])
def test_an_answer_of_every_type_that_is_text_or_a_number(tmp_path, suffix, values, answers):
    path = write(tmp_path / f"rows{suffix}", {"question": ["a", "b"], "answer": values, "of": values})
    found = read(path)
    assert [question.answer for question in found] == answers
    for task in own(path).stream("train", 0):
        assert json.loads(json.dumps(task.payload)) == task.payload and task.id
    assert {type(question.payload["of"]) for question in found} <= {int, float, str}


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ({"answer": [["1", "2"], ["3"]]}, ', row 1: its answer must be text or a number, not ["1", "2"]'),
        ({"answer": [{"value": 1}, None]}, ', row 1: its answer must be text or a number, not {"value": 1}'),
        ({"answer": [True, False]}, ", row 1: its answer must be text or a number, not true"),
        ({"answer": ["1", None]}, ", row 2: its answer must be text or a number, not null"),
        ({"answer": [1.5, float("nan")]}, ", row 2: its answer is nan, which is no number"),
        ({"answer": [b"1", b"2"]}, ", row 1: its answer holds bytes, which no task can"),
        ({"question": ["a", None]}, ", row 2: its question must be text, not null"),
        ({"question": ["a", " "]}, ", row 2: its question is empty"),
        ({"question": ["a", "b\0"]}, ", row 2: its question has a null character"),
        ({"question": [1, 2]}, ", row 1: its question must be text, not 1"),
        ({"question": ["a", "a"]}, ", row 2: the question is there before, with another answer"),
        ({"split": ["train", "dev"]}, ", row 2: split must be train or heldout, not 'dev'"),
        ({"family": ["x", ""]}, ", row 2: its family is empty"),
        ({"n": [1.0, float("inf")]}, ", row 2: its n has inf, which is no JSON"),
        ({"n": [[1.0], [float("nan")]]}, ", row 2: its n has nan, which is no JSON"),
        ({"image": [{"bytes": b"x"}, {"bytes": b"y"}]}, ", row 1: its image holds bytes, which no task can"),
    ],
)
def test_a_bad_row_is_one_line(tmp_path, column, message):
    assert refused(parquet(tmp_path, **column)).startswith(message)


def test_text_that_is_none_and_dates_that_are_none(tmp_path):
    broken = pa.StringArray.from_buffers(2, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"a\xff"))
    path = write(tmp_path / "rows.arrow", {"question": broken, "answer": [1, 2]})
    assert refused(path).startswith(", row 2: its question is not to be read: ")
    late = pa.array([0, 10**18], pa.timestamp("s"))
    path = write(tmp_path / "late.arrow", {"question": ["a", "b"], "answer": [1, 2], "when": late})
    assert refused(path).startswith(", row 2: its when is not to be read: ")


def test_a_row_far_behind_is_named_by_its_number(tmp_path):
    answers: list = list(range(5000))
    answers[4321] = None
    table = pa.table({"question": [f"{n}?" for n in range(5000)], "answer": answers})
    for path in (
        write(tmp_path / "rows.parquet", table, row_group_size=700),
        write(tmp_path / "rows.feather", table.combine_chunks()),
    ):
        assert refused(path).startswith(", row 4322: its answer must be text or a number, not null")
    (tmp_path / "rows.csv").write_text('question,answer\n"a\nb",1\n"c\nd",\n')
    assert refused(tmp_path / "rows.csv") == ", line 4: its answer is empty"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ": it has no questions"),
        ("\ufeff\n", ": it has no questions"),
        ("question,answer\n", ": it has no questions"),
        ("question,answer\na\n", ", line 2: has 1 cells, and the header has 2"),
        ("question,answer\na,1,2\n", ", line 2: has 3 cells, and the header has 2"),
        ("question,answer,answer\na,1,2\n", ", line 1: the header has 'answer' twice"),
        ("problem,answer\na,1\n", ", line 2: has no 'question' (it has: problem, answer)"),
        ('question,answer\na,1\n"b,2\nc,3\n', ", line 3: is no row of separated values: unexpected end of data"),
        ('question,answer\na,"1"2\n', ", line 2: is no row of separated values: ',' expected after '\"'"),
        ("question,answer\n,1\n", ", line 2: its question is empty"),
        ("question,answer\na,1\na,2\n", ", line 3: the question is there before, with another answer"),
    ],
)
def test_a_table_of_text_that_is_none(tmp_path, text, message):
    (tmp_path / "rows.csv").write_text(text)
    assert refused(tmp_path / "rows.csv") == message


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "latin-1"])
def test_a_spreadsheet_in_another_encoding(tmp_path, encoding):
    (tmp_path / "rows.csv").write_bytes("question,answer\ncafé?,1\n".encode(encoding))
    assert refused(tmp_path / "rows.csv").endswith("save it as UTF-8")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", ": it has no questions"),
        ("[1]", ", row 1: is not a JSON object"),
        ('[{"question": "a", "answer": 1},\n {"question": "b"}]', ", row 2: has no 'answer' (it has: question)"),
        ('[{"question": "a", "answer": 1}\n {"question": "b"}]', ", line 2: is no JSON from here on"),
        ('[{"question": "a", "answer": 1},\n', ", line 2: is no JSON from here on"),
        ('[{"question": "a", "answer": 1}', ", line 1: is no JSON from here on"),
        ('[{"question": "a", "answer": 1}]\n{}', ", line 2: is no JSON from here on"),
        ("[" * 100_000, ", row 1: it has more than 100 lists and objects inside each other"),
        ('[{"question": "a", "answer": NaN}]', ", row 1: has NaN, which is no JSON"),
        ('{"rows": [\n', ", line 1: is not a JSON object"),
    ],
)
def test_a_list_of_objects_that_is_none(tmp_path, text, message):
    (tmp_path / "rows.json").write_text(text)
    assert refused(tmp_path / "rows.json") == message


def test_a_number_in_a_list_of_objects_is_as_it_is_written(tmp_path):
    (tmp_path / "rows.json").write_text('[\n{"question": "a", "answer": 0.10, "of": [0.10]}\n]\n')
    [question] = read(tmp_path / "rows.json")
    assert question.answer == "0.10" and question.payload == {"of": [0.1]} and type(question.payload["of"][0]) is float


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".feather"])
@pytest.mark.parametrize("kept", [0, 4, 0.3, 0.6, 0.95])
def test_a_file_that_is_cut_off(tmp_path, suffix, kept):
    table = pa.table({"question": [f"{n}?" for n in range(3000)], "answer": list(range(3000))})
    path = write(tmp_path / f"rows{suffix}", table)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if kept < 1 else kept])
    assert refused(path).startswith(": cut off, or no ")


def test_a_file_of_another_kind_under_that_name(tmp_path):
    for suffix in (".parquet", ".arrow", ".feather"):
        write_text(tmp_path / "rows.csv", ROWS)
        (tmp_path / "rows.csv").rename(tmp_path / f"rows{suffix}")
        assert refused(tmp_path / f"rows{suffix}").startswith(": cut off, or no ")
    path = write(tmp_path / "rows.csv", {"question": ["a"], "answer": ["1"]})
    assert refused(path).startswith(", line 1: holds a null character")
    (tmp_path / "rows.jsonl").write_bytes(b"\x1f\x8b\x08" + bytes(20))
    assert refused(tmp_path / "rows.jsonl") == ": is compressed; unpack it with gunzip"


@pytest.mark.parametrize("suffix", [".parquet", ".feather", ".arrow"])
def test_the_index_of_a_data_frame_is_no_column(tmp_path, suffix):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"question": ["a", "b", "c"], "answer": ["1", "2", "3"]}).iloc[[2, 0, 1]]
    path = write(tmp_path / f"rows{suffix}", pa.Table.from_pandas(frame))
    assert "__index_level_0__" in pa.Table.from_pandas(frame).column_names
    assert [(question.text, question.payload) for question in read(path)] == [("a", {}), ("b", {}), ("c", {})]


def test_a_column_twice(tmp_path):
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["1"]), pa.array(["2"])], ["question", "answer", "answer"])
    assert refused(write(tmp_path / "rows.arrow", table)) == ": has the column 'answer' twice"


# What a class says about its file.


def test_columns_of_other_names(tmp_path):
    path = write(
        tmp_path / "rows.parquet",
        {"problem": ["a", "b"], "solution": [1, 2], "level": [3, 3], "uid": ["x", "y"], "part": ["train", "test"]},
    )
    columns = {"question": "problem", "answer": "solution", "family": "level", "id": "uid", "split": "part"}
    found = read(path, columns=columns, splits={"train": "train", "test": "heldout"})
    assert found == [Question("3", "a", "1", {"id": "x"}, "train"), Question("3", "b", "2", {"id": "y"}, "heldout")]
    assert refused(path) == ", row 1: has no 'question' (it has: problem, solution, level, uid, part)"
    assert refused(path, columns=columns) == ", row 2: part must be train or heldout, not 'test'"


def test_only_the_payload_that_is_named_is_read(tmp_path):
    path = parquet(tmp_path, image=[b"x", b"y"], unit=["rod", "chain"])
    assert [question.payload for question in read(path, payload=["unit"])] == [{"unit": "rod"}, {"unit": "chain"}]
    assert [question.payload for question in read(path, payload=())] == [{}, {}]
    assert refused(path, payload=["units"]) == ", row 1: has no 'units' (it has: question, answer, image, unit)"


def test_an_id_is_part_of_the_name(tmp_path):
    path = parquet(tmp_path, question=["a", "a"], uid=[1, 2])
    found = read(path, columns={"id": "uid"}, payload=())
    assert [question.payload for question in found] == [{"id": 1}, {"id": 2}]
    assert refused(path, payload=()) == ", row 2: the question is there before, with another answer"
    nobody = parquet(tmp_path, uid=[None, "x"])
    assert refused(nobody, columns={"id": "uid"}) == ", row 1: its uid must be text, not null"


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"columns": {"prompt": "x"}}, "columns has 'prompt', which is none of question, answer, family, split, id"),
        ({"columns": ["question"]}, "columns must be a mapping"),
        ({"columns": {"question": 1}}, "columns must be a mapping"),
        ({"payload": "unit"}, "payload must be a sequence of columns"),
        ({"payload": [1]}, "payload must be a sequence of columns"),
        ({"splits": {}}, "splits must be a mapping"),
        ({"splits": {"test": "dev"}}, "splits has 'dev', which is not train, heldout or None"),
        ({"config": 3}, "config must be the name of a configuration"),
    ],
)
def test_what_a_class_may_not_say(tmp_path, attributes, message):
    assert refused(parquet(tmp_path), **attributes).startswith(f"own: {message}")


def test_a_file_has_no_configurations(tmp_path):
    assert (
        refused(parquet(tmp_path), config="main") == ": is no directory, and only these have configurations like 'main'"
    )


def test_a_row_that_is_read_by_the_users_code(tmp_path):
    path = parquet(tmp_path, answer=["because #### 1,000", "so #### 2"])

    def read_row(self, row):
        number = row["answer"].rpartition("####")[2].strip().replace(",", "")
        return row | {"answer": number} if number != "2" else None

    assert read(path, read_row=read_row) == [Question("all", "a", "1000", {})]


@pytest.mark.parametrize(
    ("read_row", "message"),
    [
        (lambda self, row: row["none"], ", row 1: read_row(), line {line}: KeyError: 'none'"),
        (lambda self, row: [row], ", row 1: read_row() returns list, not a dictionary or None"),
        (lambda self, row: {"question": "a"}, ", row 1: has no 'answer' (it has: question)"),
        (lambda self, row: row | {"n": {1}}, ", row 1: cannot be stored: Object of type set is not JSON serializable"),
        (lambda self, row: row | {"question": "\ud800"}, ", row 1: it has half of a surrogate pair"),
        (lambda self, row: None, ": it has no questions"),
        (lambda self, row: sys.exit(3), ", row 1: read_row(), line {line}: SystemExit: 3"),
    ],
)
def test_what_the_users_code_does_wrong(tmp_path, read_row, message):
    line = read_row.__code__.co_firstlineno
    assert refused(parquet(tmp_path), read_row=read_row).startswith(message.format(line=line))


# Many rows.


def many(folder, count, **options) -> dict[str, Path]:
    """The same rows in three formats; every tenth is there twice, and one of each hundred held out."""
    rows = [
        {
            "question": f"{n - (n % 10 == 9)}?",
            "answer": n - (n % 10 == 9),
            "split": "heldout" if n % 100 == 7 else "train",
        }
        for n in range(count)
    ]
    write_text(folder / "rows.jsonl", rows)
    write_text(folder / "rows.csv", rows)
    write(folder / "rows.parquet", pa.Table.from_pylist(rows), row_group_size=999)
    write(folder / "rows.arrow", pa.Table.from_pylist(rows))
    return {suffix: folder / f"rows.{suffix}" for suffix in ("jsonl", "csv", "parquet", "arrow")}


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet", "arrow"])
def test_many_rows_are_counted_and_not_held(tmp_path, monkeypatch, suffix):
    path = many(tmp_path, 20_000)[suffix]
    expected = list(own(path).questions(random.Random(3)))
    monkeypatch.setattr(questions, "KEPT", 1 << 16)
    most, found = 0, []
    for place, question in enumerate(own(path).questions(random.Random(3))):
        found.append((question.text, question.answer, question.payload, question.split))
        if place % 2000 == 0:
            most = max(most, sum(type(each) is Question for each in gc.get_objects()) - len(expected))
    assert found == [(each.text, each.answer, each.payload, each.split) for each in expected] and len(found) == 20_000
    assert 0 < most < 2500


def test_a_small_split_is_found_among_many_rows(tmp_path):
    path = many(tmp_path, 12_000)["parquet"]
    table = pq.read_table(path).to_pylist()
    rows = [row | {"split": "heldout" if row["answer"] == 11_111 else "train"} for row in table]
    assert [task.answer for task in own(write(path, pa.Table.from_pylist(rows))).tasks("heldout", 1, seed=0)] == [
        "11111"
    ]


def test_many_rows_are_counted_once_until_the_file_changes(tmp_path, monkeypatch):
    path = many(tmp_path, 3000)["jsonl"]
    monkeypatch.setattr(questions, "KEPT", 1 << 12)
    counted = []
    monkeypatch.setattr(questions.Questions, "_repeated", lambda self, doubtful: counted.append(len(self._keys)))
    environment = own(path)
    first = environment.tasks("train", 20, seed=0)
    assert type(environment)().tasks("train", 20, seed=0) == first and counted == [3000]
    with path.open("a") as file:
        file.write('{"question": "new?", "answer": 1}\n')
    environment.tasks("train", 20, seed=0)
    assert counted == [3000, 3001]


def test_many_rows_keep_what_is_promised_of_few(tmp_path, monkeypatch):
    monkeypatch.setattr(questions, "KEPT", 1 << 10)
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps({"question": f"caf\u00e9 {n}", "answer": n}) for n in range(500)]
    apart = json.dumps({"question": "cafe\u0301 77", "answer": 77})
    path.write_text("\n".join([*lines, apart]))
    assert len(read(path)) == 500
    path.write_text("\n".join([*lines, json.dumps({"question": "cafe\u0301 77", "answer": 78})]))
    assert refused(path) == ", line 501: the question is there before, with another answer"
    path.write_text("\n".join([*lines, json.dumps({"question": "caf\u00e9 77", "answer": 77, "split": "train"})]))
    assert refused(path) == ", line 501: the question is there before, in another split"


def test_a_file_that_changes_while_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(questions, "KEPT", 1 << 10)
    path = many(tmp_path, 1000)["jsonl"]
    stream = own(path).questions(random.Random(0))
    next(stream)
    path.write_text('{"question": "new?", "answer": 1}\n')
    with pytest.raises(SettingError, match=f"^environment: {path}: has changed while it was read$"):
        list(stream)


@pytest.mark.slow
def test_a_million_rows_in_little_memory(tmp_path):
    path, count = tmp_path / "rows.parquet", 1_000_000
    text = "How many metres are {} furlongs and a rod, and what else is there to ask about lengths of the kind?"
    write(path, {"question": [text.format(n) for n in range(count)], "answer": list(range(count))})
    code = (
        "import sys\nfrom agentloop.environments import QuestionFile\n"
        f"class Own(QuestionFile):\n    name = 'own'\n    path = {str(path)!r}\n    def tools(self, task): return {{}}\n"
        "print(len(Own().tasks('train', 500, 0)))\n"
        "print(next(line for line in open('/proc/self/status') if line.startswith('RssAnon')).split()[1])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=500)
    tasks, kibibytes = map(int, done.stdout.split())
    assert tasks == 500 and kibibytes < 300 * 1024  # as Python's objects they are 700 MB
