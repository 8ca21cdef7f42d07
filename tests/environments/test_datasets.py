"""Tasks from datasets: directories of files, saved datasets, and snapshots of the Hugging Face Hub, all without a network."""

import os
import random
import re
import socket
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from agentloop import environments
from agentloop.environments import Question, QuestionFile
from agentloop.errors import SettingError

PAGE = Path(__file__).parents[2] / "docs" / "own-task.md"
SPLITS = {"train": "train", "test": "heldout"}
CARD = """---
license: mit
configs:
- config_name: main
  data_files:
  - split: train
    path: main/train-*
  - split: test
    path: main/test-*
- config_name: socratic
  data_files:
  - split: train
    path: socratic/train-*
---
# A dataset
"""
GSM8K = [
    (
        "train",
        "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. How many clips did "
        "Natalia sell altogether in April and May?",
        "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\nNatalia sold 48+24 = <<48+24=72>>72 clips altogether in April and "
        "May.\n#### 72",
    ),
    (
        "test",
        "Janet’s ducks lay 16 eggs per day. She eats three for breakfast every morning and bakes muffins for her friends "
        "every day with four. She sells the remainder at the farmers' market daily for $2 per fresh duck egg. How much in "
        "dollars does she make every day at the farmers' market?",
        "Janet sells 16 - 3 - 4 = <<16-3-4=9>>9 duck eggs a day.\nShe makes 9 * 2 = $<<9*2=18>>18 every day at the farmer’s "
        "market.\n#### 18",
    ),
    (
        "test",
        "Josh decides to try flipping a house.  He buys a house for $80,000 and then puts in $50,000 in repairs.  This "
        "increased the value of the house by 150%.  How much profit did he make?",
        "So he made a profit of 200,000-130,000=$<<200000-130000=70000>>70,000\n#### 70,000",
    ),
]


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """Nobody is asked over a network, and nothing is written to this user's own folders."""
    asked = []

    def connect(self, address):
        asked.append(address)
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", connect)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    yield
    assert not asked and not list(home.iterdir())


def own(path, **attributes) -> QuestionFile:
    about = {"__module__": __name__, "name": "own", "path": path, "tools": lambda self, task: {}}
    return type("Own", (QuestionFile,), about | attributes)()


def read(path, **attributes) -> list[Question]:
    """All its questions, in an order that does not depend on the files; nothing is written beside them."""
    before = listing(path)
    try:
        return sorted(own(path, **attributes).questions(random.Random(0)), key=lambda question: question.text)
    finally:
        assert listing(path) == before


def listing(path) -> list[tuple[Path, int]]:
    return sorted((file, file.stat().st_mtime_ns) for file in Path(path).parent.rglob("*") if file.exists())


def refused(path, **attributes) -> str:
    with pytest.raises(SettingError) as error:
        read(path, **attributes)
    message = str(error.value)
    assert message.startswith("environment: ") and len(message.splitlines()) == 1 and len(message) < 500
    return message.removeprefix("environment: ").removeprefix(str(path))


def texts(path, **attributes) -> dict[str, str | None]:
    return {question.text: question.split for question in read(path, **attributes)}


def written(path, *names, **columns) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"question": list(names), "answer": list(map(str, names))} | columns), path)
    return path


@pytest.fixture
def hub(tmp_path) -> Path:
    """A snapshot with a card, two configurations and two splits."""
    written(tmp_path / "hub/main/train-00000-of-00002.parquet", "a", "b")
    written(tmp_path / "hub/main/train-00001-of-00002.parquet", "c")
    written(tmp_path / "hub/main/test-00000-of-00001.parquet", "d")
    written(tmp_path / "hub/socratic/train-00000-of-00001.parquet", "e")
    (tmp_path / "hub/README.md").write_text(CARD)
    (tmp_path / "hub/.cache/huggingface").mkdir(parents=True)  # of the command that fetched it
    (tmp_path / "hub/.cache/huggingface/note.json").write_text("{}")
    return tmp_path / "hub"


def test_configurations_and_splits_of_a_card(hub):
    assert texts(hub, config="main", splits=SPLITS) == {"a": "train", "b": "train", "c": "train", "d": "heldout"}
    assert texts(hub, config="main", splits={"test": None}) == {"d": None}
    assert texts(hub, config="socratic") == {"e": None}
    assert refused(hub) == ": has several configurations; there are: main, socratic"
    assert refused(hub, config="nope") == ": has no configuration 'nope'; there are: main, socratic"
    assert refused(hub, config="main") == (
        ": has the splits train, test; say in `splits` what they are for: train, heldout or None"
    )
    assert refused(hub, config="main", splits={"dev": "heldout"}) == ": has no split 'dev'; it has: train, test"


def test_a_split_of_a_dataset_stays_disjoint(hub):
    written(hub / "main/test-00000-of-00001.parquet", "d", "b")
    message = refused(hub, config="main", splits=SPLITS)
    assert message == "/main/test-00000-of-00001.parquet, row 2: the question is there before, in another split"
    assert texts(hub, config="main", splits={"train": None, "test": None}) == dict.fromkeys("abcd")


def test_a_bad_row_is_named_by_its_file(hub):
    written(hub / "main/train-00001-of-00002.parquet", "c", None, answer=["1", "2"])
    assert refused(hub, config="main", splits=SPLITS) == (
        "/main/train-00001-of-00002.parquet, row 2: its question must be text, not null"
    )
    file = hub / "main/test-00000-of-00001.parquet"
    file.write_bytes(file.read_bytes()[:100])
    assert refused(hub, config="main", splits={"test": "train"}).startswith(
        "/main/test-00000-of-00001.parquet: cut off, or no Parquet file ("
    )
    file.unlink()
    assert refused(hub, config="main", splits=SPLITS) == ": its card names main/test-*, and no such file is there"


def test_the_classes_that_a_card_declares(tmp_path):
    folder = tmp_path / "labels"
    folder.mkdir()
    (folder / "rows.jsonl").write_text('{"question": "a", "answer": 1}\n{"question": "b", "answer": 0}\n')
    (folder / "README.md").write_text(
        "---\ndataset_info:\n  features:\n  - name: question\n    dtype: string\n  - name: answer\n    dtype:\n"
        "      class_label:\n        names:\n          '0': 'no'\n          '1': 'yes'\n---\n"
    )
    assert [question.answer for question in read(folder)] == ["yes", "no"]


def test_a_directory_of_files(tmp_path):
    folder = tmp_path / "plain"
    written(folder / "part-1.parquet", "a")
    written(folder / "deeper/part-2.parquet", "b")
    (folder / "notes.txt").write_text("what this is")
    assert texts(folder) == {"a": None, "b": None}
    assert texts(folder, splits={"train": "train"}) == {"a": "train", "b": "train"}
    (folder / "rows.jsonl").write_text('{"question": "c", "answer": 1}\n')
    assert refused(folder).startswith(": rows.jsonl would be left out: the files are of several kinds")


def test_splits_by_the_names_of_files(tmp_path):
    folder = tmp_path / "named"
    folder.mkdir()
    (folder / "train.csv").write_text("question,answer\na,0.10\nb,NA\n")
    (folder / "test.csv").write_text("\ufeffquestion,answer\nc,007\n")
    found = read(folder, splits=SPLITS)
    assert [(each.text, each.answer, each.split) for each in found] == [
        ("a", "0.10", "train"),
        ("b", "NA", "train"),
        ("c", "007", "heldout"),
    ]
    (folder / "others.csv").write_text("question,answer\nd,1\n")
    assert refused(folder, splits=SPLITS).startswith(": others.csv would be left out: ")


def test_a_column_says_the_split_where_it_is_named(tmp_path):
    folder = tmp_path / "column"
    folder.mkdir()
    (folder / "rows.jsonl").write_text(
        '{"question": "a", "answer": 1, "split": "dev"}\n{"question": "b", "answer": 1, "split": "train"}\n'
    )
    splits = {"train": "train", "dev": "heldout"}
    assert texts(folder, columns={"split": "split"}, splits=splits) == {"a": "heldout", "b": "train"}
    assert refused(folder) == "/rows.jsonl, line 1: split must be train or heldout, not 'dev'"
    found = read(folder, splits={"train": "train"})
    assert [(each.split, each.payload) for each in found] == [
        ("train", {"split": "dev"}),
        ("train", {"split": "train"}),
    ]


def test_what_a_card_says_of_separated_values(tmp_path):
    folder = tmp_path / "separated"
    folder.mkdir()
    (folder / "rows.csv").write_text("question|answer\na, b; c|1\n")
    card = "---\nconfigs:\n- config_name: default\n  data_files: rows.csv\n  {}\n---\n"
    (folder / "README.md").write_text(card.format("sep: '|'"))
    assert texts(folder) == {"a, b; c": None}
    (folder / "README.md").write_text(card.format("skiprows: 1"))
    assert refused(folder).startswith(
        ": its card sets skiprows, by which files are not read here (datasets.load_dataset"
    )


def test_a_directory_without_files_of_rows(tmp_path):
    folder = tmp_path / "empty"
    folder.mkdir()
    assert refused(folder).startswith(": a directory without files of rows (.parquet, .arrow, ")
    (folder / "README.md").write_text("# Nothing\n")
    (folder / ".hidden.parquet").write_bytes(b"")
    assert refused(folder).startswith(": a directory without files of rows (")
    for name in ("picture.png", "data.tar", "rows.txt"):
        (folder / name).write_bytes(b"x")
        assert refused(folder).startswith(": "), name
        (folder / name).unlink()


@pytest.mark.parametrize(
    "place",
    [
        "https://example.com/rows.parquet",
        "hf://datasets/other/name/rows.parquet",
        "/etc/*.csv",
        "~/rows.csv",
        "../elsewhere/*",
        "zip://rows.csv::https://example.com/rows.zip",
    ],
)
@pytest.mark.parametrize(
    "form", ["data_files: '{}'", "data_files:\n  - split: train\n    path: ['{}']", "data_dir: '{}'"]
)
def test_a_card_that_leads_elsewhere(tmp_path, place, form):
    written(tmp_path / "elsewhere/rows.parquet", "secret")
    written(tmp_path / "card/rows.parquet", "a")
    (tmp_path / "card/README.md").write_text(f"---\nconfigs:\n- config_name: default\n  {form.format(place)}\n---\n")
    assert refused(tmp_path / "card") == f": its card names {place!r}, which lies elsewhere"
    (tmp_path / "card/README.md").rename(tmp_path / "card/.huggingface.yaml")
    yaml = (tmp_path / "card/.huggingface.yaml").read_text().replace("---\n", "")
    (tmp_path / "card/.huggingface.yaml").write_text(yaml)
    assert refused(tmp_path / "card") == f": its card names {place!r}, which lies elsewhere"


@pytest.mark.parametrize(
    "header", ["configs: [a", "configs: 7", "configs:\n- data_files: rows.parquet", "configs: {a: b}"]
)
def test_a_card_that_is_broken(tmp_path, header):
    written(tmp_path / "card/rows.parquet", "a")
    (tmp_path / "card/README.md").write_text(f"---\n{header}\n---\n")
    assert "not to be read as a" in refused(tmp_path / "card")


def test_a_program_among_the_files_is_never_run(tmp_path):
    ran = tmp_path / "ran"
    folder = tmp_path / "program"
    folder.mkdir()
    for name in ("program.py", "other.py", "__init__.py"):
        (folder / name).write_text(f"open({str(ran)!r}, 'w')\n")
    assert refused(folder).startswith(": a directory without files of rows (")
    written(folder / "rows.parquet", "a")
    assert "Dataset scripts are no longer supported" in refused(folder)
    (folder / "program.py").unlink()
    assert texts(folder) == {"a": None} and not ran.exists()


# Saved datasets.


def test_a_saved_dataset(tmp_path):
    rows = {"question": [f"{n}?" for n in range(3000)], "answer": [n % 2 for n in range(3000)]}
    features = Features({"question": Value("string"), "answer": ClassLabel(names=["even", "odd"])})
    saved = Dataset.from_dict(rows, features=features)
    saved.select(range(2999, -1, -1)).save_to_disk(tmp_path / "saved", num_shards=3)
    found = read(tmp_path / "saved")
    assert {each.text: each.answer for each in found} == {f"{n}?": ["even", "odd"][n % 2] for n in range(3000)}
    assert refused(tmp_path / "saved", config="main").startswith(": is a saved dataset, which has no configurations")


def test_splits_of_a_saved_dataset(tmp_path):
    splits = {name: Dataset.from_dict({"question": [name], "answer": ["1"]}) for name in ("train", "test", "rest")}
    DatasetDict(splits).save_to_disk(tmp_path / "saved")
    assert texts(tmp_path / "saved", splits=SPLITS) == {"train": "train", "test": "heldout"}
    assert refused(tmp_path / "saved").startswith(
        ": has the splits train, test, rest; say in `splits` what they are for"
    )
    splits["test"] = Dataset.from_dict({"question": ["x", "y"], "answer": ["1", None]})
    DatasetDict(splits).save_to_disk(tmp_path / "broken")
    assert refused(tmp_path / "broken", splits=SPLITS) == (
        ", split test, row 2: its answer must be text or a number, not null"
    )


@pytest.mark.parametrize("kept", [0, 0.3, 0.7])
def test_a_saved_dataset_that_is_cut_off(tmp_path, kept):
    Dataset.from_dict({"question": [f"{n}?" for n in range(900)], "answer": ["1"] * 900}).save_to_disk(
        tmp_path / "saved"
    )
    file = tmp_path / "saved" / "data-00000-of-00001.arrow"
    file.write_bytes(file.read_bytes()[: int(kept * file.stat().st_size)])
    assert refused(tmp_path / "saved").startswith("/data-00000-of-00001.arrow: cut off, or no Arrow file (")
    file.unlink()
    assert "not to be read as a saved dataset" in refused(tmp_path / "saved")
    (tmp_path / "saved" / "state.json").write_text("{")
    assert "not to be read as a saved dataset" in refused(tmp_path / "saved")


# Names on the hub.


def cached(cache: Path, name: str, folder: Path) -> None:
    """The files of a folder as the hub's cache has them: links to blobs."""
    root = cache / f"datasets--{name.replace('/', '--')}"
    commit = "0" * 40
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(commit)
    (root / "blobs").mkdir()
    for number, file in enumerate(sorted(each for each in folder.rglob("*") if each.is_file())):
        inner = file.relative_to(folder)
        if inner.parts[0].startswith(".cache"):
            continue
        (root / "blobs" / str(number)).write_bytes(file.read_bytes())
        link = root / "snapshots" / commit / inner
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(root / "blobs" / str(number), link.parent))


def test_a_name_on_the_hub_in_its_cache(hub, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    fetch = f"hf download someone/something --repo-type dataset --local-dir {Path(__file__).parent}/someone/something"
    assert refused("someone/something").endswith(f"to fetch it: {fetch}")
    cached(tmp_path / "cache", "someone/something", hub)
    assert texts("someone/something", config="main", splits=SPLITS).keys() == set("abcd")


def test_a_name_on_the_hub_beside_the_file(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(environments, "_ENVIRONMENTS", dict(environments._ENVIRONMENTS))
    (tmp_path / "tasks/someone").mkdir(parents=True)
    hub.rename(tmp_path / "tasks/someone/something")
    (tmp_path / "tasks/own.py").write_text(
        "from agentloop.environments import QuestionFile\n\n\nclass Own(QuestionFile):\n    name = 'beside'\n"
        "    path = 'someone/something'\n    config = 'main'\n    splits = {'train': 'train', 'test': 'heldout'}\n\n"
        "    def tools(self, task):\n        return {}\n"
    )
    environment = environments.get(str(tmp_path / "tasks/own.py"), apart=False)
    assert [task.question for task in environment.stream("heldout", 0)] == ["d"]


def gsm8k(folder: Path) -> Path:
    """Rows of GSM8K where the hub's command puts them."""
    for split in ("train", "test"):
        rows = [{"question": question, "answer": answer} for each, question, answer in GSM8K if each == split]
        (folder / "main").mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), folder / "main" / f"{split}-00000-of-00001.parquet")
    written(folder / "socratic/train-00000-of-00001.parquet", "e")
    (folder / "README.md").write_text(CARD)
    return folder


def page_file(name: str) -> str:
    (block,) = re.findall(rf"`tasks/{name}`:\n\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return block


def test_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr(environments, "_ENVIRONMENTS", dict(environments._ENVIRONMENTS))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gsm8k.py").write_text(page_file("gsm8k.py"))
    gsm8k(tmp_path / "openai/gsm8k")
    environment = environments.get(str(tmp_path / "gsm8k.py"))
    [train], heldout = (list(environment.stream(split, 0)) for split in ("train", "heldout"))
    assert (train.answer, sorted(task.answer for task in heldout)) == ("72", ["18", "70000"])
    assert train.question == GSM8K[0][1] and train.payload == {}
    tools = environment.tools(train)
    assert environment.verify(train, tools["calculate"].call("48+24")) == 1.0
    assert all(environment.verify(task, "$70,000") == 0.0 for task in heldout)


def test_the_command_line_reads_a_dataset_in_its_own_cache(tmp_path):
    """As fetched there; with a home that is empty, and stays so."""
    (tmp_path / "gsm8k.py").write_text(page_file("gsm8k.py"))
    cached(tmp_path / "cache/hf/hub", "openai/gsm8k", gsm8k(tmp_path / "fetched"))
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AGENTLOOP_", "HF_"))}
    words = ["run", "--profile", "demo", "--dry-run", f"environment={tmp_path / 'gsm8k.py'}"]
    words += [
        f"paths.data={tmp_path / 'data'}",
        f"paths.cache={tmp_path / 'cache'}",
        "collect.tasks=1",
        "evaluate.tasks=2",
    ]

    def agentloop(*more: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "agentloop", *words, *more]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, env=clean, cwd=tmp_path)

    before = sorted((tmp_path / "cache").rglob("*"))
    assert (done := agentloop()).returncode == 0, done.stderr
    assert sorted((tmp_path / "cache").rglob("*")) == before
    done = agentloop("evaluate.tasks=3")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "error: evaluate.tasks: gsm8k has 2 heldout tasks, fewer than the 3 asked for; set evaluate.tasks=2"
    )
    broken = next((tmp_path / "cache").rglob("test-*.parquet"))
    pq.write_table(pa.table({"question": ["a", None], "answer": ["#### 1", "#### 2"]}), broken)
    done = agentloop()
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (f"error: environment: {broken}, row 2: its question must be text, not null")
