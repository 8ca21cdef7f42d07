"""Exported directories: what `datasets` and a trainer of preferences read is what was stored, and the card says how it was made."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from huggingface_hub import DatasetCard
from made_by_hand import episode, sum_task

from agentloop import settings as configuration
from agentloop.curation import export, export_dataset, recipes
from agentloop.curation.scoring import rescore, score
from agentloop.curation.selection import Selected, select
from agentloop.environments import QuestionFile
from agentloop.errors import ContaminationError, ShardError, StoreError
from agentloop.naming import canonical_json
from agentloop.records import Dataset, Policy
from agentloop.settings import Selection
from agentloop.store import campaigns, policies, tasks
from agentloop.store.ingest import ingest
from agentloop.store.shards import write_shard

PAGE = Path(__file__).parents[2] / "docs" / "data.md"
TINY = Path(__file__).parents[2] / "models" / "tiny"
VERIFIERS = {"arithmetic": lambda task, answer: float(answer == task.answer)}


@pytest.fixture
def written(database, tmp_path):
    """Select by a recipe and write the directory; returns what was selected."""

    def write(directory, recipe="rejection", selected=None, **options) -> Selected:
        selected = selected or select(database, recipe, "main", 1, Selection())
        loaded = recipes.load(recipe)
        rows = export_dataset.write(
            database, selected, directory, recipe=loaded, campaign="main", iteration=1, **options
        )
        assert rows == len(selected.dataset.trajectories) // (2 if loaded.paired else 1)
        return selected

    return write


def loaded(directory, tmp_path):
    """As somebody else reads it: the splits by name."""
    return load_dataset(str(directory), cache_dir=str(tmp_path / "cache"))


def content(directory) -> dict[str, bytes]:
    return {str(file.relative_to(directory)): file.read_bytes() for file in directory.rglob("*") if file.is_file()}


def spans(trajectory) -> list[dict]:
    return [
        {
            "role": turn.role,
            "text": turn.text,
            "token_start": turn.start,
            "token_end": turn.end,
            "tool": turn.tool,
            "arguments": turn.arguments,
            "error": turn.error,
            "reward": turn.reward,
        }
        for turn in trajectory.turns
    ]


def as_stored(trajectory, prefix="") -> dict:
    """What a row says of an episode."""
    found = {
        "trajectory": trajectory.id,
        "iteration": 1,
        "sample": trajectory.sample,
        "seed": trajectory.seed,
        "status": trajectory.status,
        "answer": trajectory.answer,
        "success": float(trajectory.answer == trajectory.task.answer),
        "turns": spans(trajectory),
    }
    return {f"{prefix}{name}": value for name, value in found.items()}


def of_task(task) -> dict:
    return {
        "task": task.id,
        "environment": task.environment,
        "family": task.family,
        "question": task.question,
        "expected": task.answer,
        "payload": canonical_json(task.payload),
    }


def test_rows_are_what_the_store_holds(database, collected, written, tmp_path):
    rescore(database, {}, ["closeness"])
    chosen = written(tmp_path / "rows").dataset.trajectories
    splits = loaded(tmp_path / "rows", tmp_path)
    assert list(splits) == ["train"] and len(splits["train"]) == len(chosen) == 10
    by_id = {trajectory.id: trajectory for trajectory in collected}
    for position, (name, row) in enumerate(zip(chosen, splits["train"], strict=True)):
        trajectory = by_id[name]
        expected = {"position": position, "policy": "policy_base"} | of_task(trajectory.task) | as_stored(trajectory)
        assert expected.items() <= row.items()
        assert json.loads(row["sampling"])["max_turns"] == trajectory.sampling.max_turns
        assert [message["content"] for message in row["messages"]] == [turn.text for turn in trajectory.turns]
        assert [message["role"] for message in row["messages"]] == ["user", "assistant", "user", "assistant"]
        assert (tuple(row["token_ids"]), tuple(row["mask"])) == (trajectory.token_ids, trajectory.mask)
        assert tuple(row["logprobs"]) == trajectory.logprobs
        stored = database.execute(
            "SELECT scorer, version, value FROM v_scores WHERE trajectory = ? ORDER BY scorer", [name]
        )
        assert [tuple(each.values()) for each in row["scores"]] == stored and len(stored) == 5
    assert set(row) == set(export_dataset.ROWS.names)


def test_pairs_are_what_the_store_holds(database, collected, written, tmp_path):
    pairs = written(tmp_path / "pairs", "pairs").dataset.trajectories
    rows = loaded(tmp_path / "pairs", tmp_path)["train"]
    by_id = {trajectory.id: trajectory for trajectory in collected}
    assert len(rows) == 10
    for position, row in enumerate(rows):
        sides = {"chosen": by_id[pairs[2 * position]], "rejected": by_id[pairs[2 * position + 1]]}
        assert ({"position": position} | of_task(sides["chosen"].task)).items() <= row.items()
        for side, trajectory in sides.items():
            assert as_stored(trajectory, f"{side}_").items() <= row.items()
            opening = trajectory.turns[0].end
            assert tuple(row["prompt_ids"] + row[f"{side}_ids"]) == trajectory.token_ids
            assert tuple(row[f"{side}_mask"]) == trajectory.mask[opening:]
            assert tuple(row[f"{side}_logprobs"]) == trajectory.logprobs[opening:]
            said = [message["content"] for message in row["prompt"] + row[side]]
            assert said == [turn.text for turn in trajectory.turns]
    assert set(row) == set(export_dataset.PAIRS.names)


@pytest.mark.filterwarnings("ignore")
def test_a_trainer_of_preferences_trains_on_pairs(database, collected, written, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    written(tmp_path / "pairs", "pairs")
    arguments = DPOConfig(
        output_dir=str(tmp_path / "out"), max_steps=1, use_cpu=True, bf16=False, report_to="none", save_strategy="no"
    )
    trainer = DPOTrainer(
        AutoModelForCausalLM.from_pretrained(TINY),
        args=arguments,
        train_dataset=loaded(tmp_path / "pairs", tmp_path)["train"],
        processing_class=AutoTokenizer.from_pretrained(TINY),
    )
    read = trainer.processing_class.decode(trainer.train_dataset[0]["chosen_ids"])
    assert "calculator({})" in read and "answer: " in read
    assert trainer.train().training_loss > 0


def test_the_same_rows_are_the_same_bytes(database, collected, written, tmp_path):
    selected = written(tmp_path / "one")
    written(tmp_path / "two", selected=selected)
    assert content(tmp_path / "one") == content(tmp_path / "two")
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "one").rglob("*")}
    written(tmp_path / "one", selected=selected)
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "one").rglob("*")} == before


def test_a_directory_is_never_written_over(database, collected, written, tmp_path):
    written(tmp_path / "rows")
    before = content(tmp_path / "rows")
    with pytest.raises(StoreError, match="^.*/rows: is there already, with another dataset or one of another version$"):
        written(tmp_path / "rows", "pairs")
    (tmp_path / "rows" / "more.txt").write_text("mine")
    with pytest.raises(StoreError, match="is there already"):
        written(tmp_path / "rows")
    assert content(tmp_path / "rows") == before | {"more.txt": b"mine"}
    (tmp_path / "other").mkdir()
    (tmp_path / "file").write_text("mine")
    for name in ("other", "file"):
        with pytest.raises(StoreError, match=f"{name}: is there already, and is no exported dataset"):
            export.check(tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "file", "other", "rows"]


def test_it_is_there_whole_or_not_at_all(database, collected, written, tmp_path):
    selected = select(database, "rejection", "main", 1, Selection())
    shutil.move(tmp_path / "data" / "shards" / "a.parquet", tmp_path / "elsewhere.parquet")
    with pytest.raises(ShardError, match="a.parquet"):
        written(tmp_path / "rows", selected=selected)
    stranger = Selected(Dataset((episode(sum_task(99)).id,), "rejection", {}), ())
    with pytest.raises(StoreError, match=stranger.dataset.trajectories[0]):
        written(tmp_path / "rows", selected=stranger)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "elsewhere.parquet"]


def test_a_kill_leaves_nothing_under_its_name(database, collected, tmp_path):
    """The process ends between two files."""
    path = database.path
    database.close()
    code = (
        "import os\nfrom pathlib import Path\nfrom agentloop.curation import export_card, export_dataset, recipes\n"
        "from agentloop.curation.selection import select\nfrom agentloop.settings import Selection\n"
        "from agentloop.store.database import Database\n"
        "export_card.text = lambda *about: os.kill(os.getpid(), 9)\n"
        f"with Database.open(Path({str(path)!r})) as database:\n"
        "    selected = select(database, 'rejection', 'main', 1, Selection(), save=False)\n"
        f"    export_dataset.write(database, selected, Path({str(tmp_path / 'rows')!r}), recipe=recipes.load('rejection'),\n"
        "        campaign='main', iteration=1)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=300).returncode == -9
    assert not (tmp_path / "rows").exists()
    assert any(each.name.startswith(".rows.") for each in tmp_path.iterdir())


def test_many_rows_are_several_files(database, collected, written, tmp_path, monkeypatch):
    selected = written(tmp_path / "whole")
    monkeypatch.setattr(export_dataset, "ROWS_A_FILE", 4)
    monkeypatch.setattr(export_dataset, "_ROWS_A_GROUP", 3)
    written(tmp_path / "parts", selected=selected)
    files = sorted((tmp_path / "parts" / "data").iterdir())
    assert [file.name for file in files] == [f"train-{number:05d}-of-00003.parquet" for number in range(3)]
    assert [pq.read_metadata(file).num_rows for file in files] == [4, 4, 2]
    one, other = (loaded(tmp_path / name, tmp_path)["train"] for name in ("whole", "parts"))
    assert other.to_list() == one.to_list()


def test_splits_are_those_of_the_tasks(database, collected, written, tmp_path):
    shown = [episode(sum_task(n, "demonstration")) for n in range(50, 53)]
    write_shard(tmp_path / "data/shards/b.parquet", shown, purpose="collect", campaign="main", iteration=1)
    ingest(database, [tmp_path / "data/shards/b.parquet"])
    score(database, VERIFIERS)
    chosen = (shown[2].id, collected[0].id, shown[0].id)
    written(tmp_path / "rows", selected=Selected(Dataset(chosen, "rejection", {}), (("collected", 3),)))
    splits = loaded(tmp_path / "rows", tmp_path)
    places = {name: [(row["position"], row["trajectory"]) for row in rows] for name, rows in splits.items()}
    assert places == {"demonstration": [(0, chosen[0]), (2, chosen[2])], "train": [(1, chosen[1])]}


def test_a_held_out_task_is_never_exported(database, collected, written, tmp_path):
    selected = select(database, "rejection", "main", 1, Selection())
    tasks.save(database, [sum_task(4, "heldout")])
    with pytest.raises(ContaminationError, match=f"^{collected[8].id}: is of a held-out task"):
        written(tmp_path / "rows", selected=selected)
    assert not (tmp_path / "rows").exists()


def test_the_card_says_how_it_was_made(database, collected, written, tmp_path):
    adapted = Policy("base_1", "adapter_1", "gemma-turns-1-bare")
    right = [episode(sum_task(n), policy=adapted.id) for n in range(20, 23)]
    wrong = [episode(sum_task(n), 1, policy=adapted.id, answer="") for n in range(20, 23)]
    write_shard(tmp_path / "data/shards/b.parquet", right + wrong, purpose="collect", campaign="main", iteration=1)
    ingest(database, [tmp_path / "data/shards/b.parquet"])
    score(database, VERIFIERS)
    policies.save(database, adapted)
    tasks.save(database, [sum_task(n, "heldout") for n in range(70, 77)])
    selected = written(tmp_path / "rows", benchmarks=tmp_path / "secret" / "prompts.txt")
    card = DatasetCard.load(tmp_path / "rows" / "README.md")
    header = card.data.to_dict()
    assert header["configs"] == [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}]
    assert header["dataset_info"]["splits"][0]["num_examples"] == 13 and header["size_categories"] == ["n<1K"]
    assert [each["name"] for each in header["dataset_info"]["features"]] == export_dataset.ROWS.names
    assert "license" not in header
    text = " ".join(card.text.split())
    for said in (
        f"| dataset | `{selected.dataset.id}` |",
        "| campaign | `main`, up to iteration 1 |",
        "| recipe | `rejection` |",
        '"per_task":2',
        "| collected | 26 | | solved | 13 |",
        "| `policy_base` | unknown | none | unknown | 10 |",
        f"| `{adapted.id}` | base_1 | adapter_1 | gemma-turns-1-bare | 3 |",
        "| `success` | 1 | 13 |",
        "it has 7 tasks that are held out or were measured. None of them is among the rows",
        "Nor is one nearly a prompt of `prompts.txt`.",
        "Not stated: fill in `license` in the header",
    ):
        assert said in text, said
    assert str(tmp_path) not in card.content and "secret" not in card.content
    for name in export_dataset.ROWS.names:
        assert f"| `{name}` | " in text
    rows = loaded(tmp_path / "rows", tmp_path)["train"]
    assert {row["adapter"] for row in rows} == {None, "adapter_1"} and {row["base"] for row in rows} == {None, "base_1"}


def test_the_page(database, collected, written, tmp_path, monkeypatch):
    page = PAGE.read_text()
    section = page[page.index("## Rows out") : page.index("## Evidence")]
    for name in export_dataset.ROWS.names:
        assert f"`{name}`" in section, name
    for recipe, directory in (("rejection", "rows"), ("pairs", "pairs")):
        written(tmp_path / directory, recipe)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    exec(code, found := {})
    assert [len(found[name]) for name in ("rows", "pairs", "best")] == [10, 10, 10]
    assert {"prompt", "chosen", "rejected", "chosen_trajectory", "rejected_scores"} <= set(found["pairs"].column_names)


def test_what_is_exported_can_be_asked_again(database, collected, written, tmp_path):
    written(tmp_path / "rows")

    class Again(QuestionFile):
        name = "again"
        path = tmp_path / "rows"
        columns = {"answer": "expected"}
        payload = ()

        def tools(self, task):
            return {}

    found = {task.question: task.answer for split in ("train", "heldout") for task in Again().stream(split, 0)}
    assert found == {f"{n} + 1": str(n + 1) for n in range(10)}


def test_the_command(database, collected, tmp_path):
    campaigns.register(database, configuration.load({"campaign": "main"}))
    database.close()
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AGENTLOOP_", "HF_"))}
    words = [f"paths.data={tmp_path / 'data'}", f"paths.cache={tmp_path / 'cache'}"]

    def agentloop(*more: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "agentloop", "select", *more, *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, env=clean, cwd=tmp_path)

    done = agentloop("--recipe", "pairs", "--export", "pairs")
    assert done.returncode == 0 and "pairs: 10 pairs" in done.stdout, done.stderr
    assert len(loaded(tmp_path / "pairs", tmp_path)["train"]) == 10
    done = agentloop("--dry-run", "--export", str(tmp_path / "rows"))
    assert done.returncode == 0 and "10 rows" in done.stdout, done.stderr
    assert loaded(tmp_path / "rows", tmp_path)["train"]["success"] == [1.0] * 10
    done = agentloop("--recipe", "pairs", "--export", "rows")
    assert done.returncode == 2
    assert (
        done.stderr.splitlines()[-1] == "error: rows: is there already, with another dataset or one of another version"
    )
