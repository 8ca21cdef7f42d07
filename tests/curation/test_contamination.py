"""Planted held-out tasks, near copies and benchmark prompts are caught and named; look-alikes of a template are not."""

from pathlib import Path

import pytest
from made_by_hand import episode, sum_task

from agentloop import environments
from agentloop.curation.scoring import score
from agentloop.curation.selection import select
from agentloop.errors import ContaminationError, StoreError
from agentloop.records import Task
from agentloop.settings import Selection
from agentloop.store import tasks, wording
from agentloop.store.ingest import ingest
from agentloop.store.shards import write_shard

LONG = (
    "A shop sells {0} red pens for {1} coins each and {2} blue pens for {3} coins each, and on Friday every pen "
    "costs one coin less; how many coins does a customer pay on Friday for all pens together if she has a voucher "
    "of {4} coins?"
)


def task(question: str, split: str = "train", **payload) -> Task:
    return Task("arithmetic", "shop", question, "1", split, payload)


def choose(database, tmp_path: Path, chosen: list[Task], parameters: Selection | None = None):
    path = tmp_path / "a.parquet"
    write_shard(
        path,
        [episode(each, sample, answer="" if sample else None) for each in chosen for sample in range(2)],
        purpose="collect",
        campaign="main",
        iteration=1,
    )
    ingest(database, [path])
    score(database, {"arithmetic": lambda each, answer: float(answer == each.answer)})
    return select(database, "rejection", "main", 1, parameters or Selection())


@pytest.mark.parametrize("declared", ["before", "after", "evaluated"])
def test_a_heldout_task_among_the_chosen_is_named(database, collected, declared):
    planted = sum_task(7, "heldout")
    if declared != "evaluated":
        tasks.save(database, [planted])
    else:
        database.execute("INSERT INTO evaluation_results VALUES ('eval_1', 0, ?, 0, true)", [planted.id])
    with pytest.raises(ContaminationError) as refused:
        select(database, "rejection", "main", 1, Selection())
    right, wrong = collected[14:16]
    assert right.id in str(refused.value) and planted.id in str(refused.value) and "\n" not in str(refused.value)
    assert wrong.id not in str(refused.value)
    assert database.execute("SELECT count(*) FROM datasets") == [(0,)]


@pytest.mark.parametrize(
    "copy",
    [
        LONG.format(4, 7, 3, 9, 5).upper(),
        LONG.format(4, 7, 3, 9, 5).replace(" ", "  ").replace(",", " -"),
        LONG.format(4, 7, 3, 9, 5).replace("voucher", "coupon"),
        "Think step by step. " + LONG.format(4, 7, 3, 9, 5) + " Give only the number.",
    ],
)
def test_a_near_copy_of_a_heldout_task_is_named(database, tmp_path, copy):
    heldout, near = task(LONG.format(4, 7, 3, 9, 5), "heldout"), task(copy)
    tasks.save(database, [heldout])
    with pytest.raises(ContaminationError) as refused:
        choose(database, tmp_path, [near, task("Something else altogether")])
    assert f"{episode(near).id} ({near.id} is nearly task {heldout.id})" in str(refused.value)
    assert str(refused.value).startswith("1 chosen trajectories are nearly")


def test_the_same_question_with_another_payload_is_named(database, tmp_path):
    tasks.save(database, [task("How old is Anna?", "heldout", seed=1)])
    with pytest.raises(ContaminationError, match="is nearly task"):
        choose(database, tmp_path, [task("How old is Anna?", seed=2)])


def test_other_numbers_in_one_template_are_other_tasks(database, tmp_path):
    tasks.save(database, [task(LONG.format(4, 7, 3, 9, 5), "heldout"), task("What is 4 + 7?", "heldout")])
    chosen = choose(database, tmp_path, [task(LONG.format(6, 2, 8, 5, 9)), task("What is 4 + 8?")])
    assert len(chosen.dataset.trajectories) == 2


@pytest.mark.parametrize("name", ["arithmetic", "database"])
def test_the_tasks_of_the_environments_are_not_near_copies(database, tmp_path, name):
    environment = environments.get(name)
    tasks.save(database, environment.tasks("heldout", 200, seed=0))
    training = environment.tasks("train", 300, seed=0)
    write_shard(
        tmp_path / "a.parquet", [episode(each) for each in training], purpose="collect", campaign="main", iteration=1
    )
    ingest(database, [tmp_path / "a.parquet"])
    score(database, {name: lambda task, answer: 1.0})
    parameters = Selection(max_success_rate=1, max_overlap=1)
    assert len(select(database, "rejection", "main", 1, parameters).dataset.trajectories) == 300


OPENING = (
    "You have come to a house of five rooms, and nobody is at home. Each room has doors to others, which may be closed, and you "
    "can open them. Things lie on the floor or in boxes, and you can take them, one after the other, as long as you like. You "
    "win as soon as you have what is asked for, and you lose where you take what is not. Now go to the room {0} and take the {1}."
)


def test_what_a_family_says_of_every_task_makes_no_near_copies(database, tmp_path):
    tasks.save(database, [task(OPENING.format(n, f"thing {7 * n}"), "heldout") for n in range(30)])
    others = [task(OPENING.format(100 + n, f"thing {7 * n + 1}")) for n in range(10)]
    copy = task(OPENING.format(3, "thing 21").replace("nobody is", "none is"))
    with pytest.raises(ContaminationError, match=f"^1 chosen trajectories are nearly.*{copy.id} is nearly task"):
        choose(database, tmp_path, [*others, copy], Selection(max_overlap=1))


def test_of_a_few_tasks_none_is_taken_for_a_template(database, tmp_path):
    tasks.save(database, [task(OPENING.format(n, f"thing {7 * n}"), "heldout") for n in range(wording.TEMPLATE - 1)])
    with pytest.raises(ContaminationError, match="are nearly the same as what is measured"):
        choose(database, tmp_path, [task(OPENING.format(3, "thing 22"))])


def test_a_benchmark_prompt_is_named(database, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(f"What is the capital of France?\n\n{LONG.format(4, 7, 3, 9, 5)}\n")
    parameters = Selection(benchmarks=prompts)
    near = task(LONG.format(4, 7, 3, 9, 5).lower())
    with pytest.raises(ContaminationError, match=r"is nearly line 3 of prompts.txt"):
        choose(database, tmp_path, [near, task("Something else altogether")], parameters)
    prompts.unlink()
    with pytest.raises(StoreError, match="selection.benchmarks"):
        select(database, "rejection", "main", 1, parameters)


def test_a_message_stays_short(database, tmp_path):
    tasks.save(database, [sum_task(n, "heldout") for n in range(30)])
    with pytest.raises(ContaminationError, match="^30 chosen trajectories are of held-out tasks: .* and 20 more$"):
        choose(database, tmp_path, [sum_task(n) for n in range(30)])
