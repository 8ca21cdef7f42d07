"""Planted duplicates are caught and named, rows that merely look alike are not."""

import random
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_by_hand import episode

from agentloop import environments
from agentloop.curation import duplicates
from agentloop.curation.scoring import score
from agentloop.curation.selection import Selected, select
from agentloop.records import Task
from agentloop.settings import Selection
from agentloop.store import wording
from agentloop.store.ingest import ingest
from agentloop.store.shards import write_shard

QUESTION = (
    "A shop sells {0} red pens for {1} coins each and {2} blue pens for {3} coins each, and on Friday every pen "
    "costs one coin less; how many coins does a customer pay on Friday for all pens together?"
)


def task(question: str, **payload) -> Task:
    return Task("arithmetic", "shop", question, "1", "train", payload)


def call(expression: str) -> str:
    return f'{{"expression": "{expression}"}}'


def choose(database, tmp_path: Path, episodes, **parameters) -> Selected:
    write_shard(tmp_path / "a.parquet", episodes, purpose="collect", campaign="main", iteration=1)
    ingest(database, [tmp_path / "a.parquet"])
    score(database, lambda name: lambda task, answer: 1.0)
    return select(database, "rejection", "main", 1, Selection(max_success_rate=1, **parameters))


FIRST = task(QUESTION.format(4, 7, 3, 9))
SOLUTION = call("4 * 6 + 3 * 8 - 1")


@pytest.mark.parametrize(
    "planted",
    [
        episode(FIRST, 1, calls=[call("4*6 + 3*8 - 1").replace(": ", ":")]),
        episode(task(QUESTION.format(4, 7, 3, 9).replace("customer", "visitor"))),
        episode(task(QUESTION.format(4, 7, 3, 9).upper().replace(" ", "  "))),
        episode(task(QUESTION.format(4, 7, 3, 9), seed=2)),
    ],
)
def test_a_planted_duplicate_is_named_and_left_out(database, tmp_path, planted):
    calls = [SOLUTION] if planted.task == FIRST else ["{}"]
    original = episode(FIRST, calls=calls)
    other = episode(task("Something else altogether"), calls=calls)
    selected = choose(database, tmp_path, [original, planted, other])
    (pair,) = selected.near_duplicates
    assert set(pair) == {original.id, planted.id}
    assert selected.funnel[-2:] == (("first of the task", 3), ("no near duplicate", 2))
    assert set(selected.dataset.trajectories) == {pair[1], other.id}


@pytest.mark.parametrize(
    "alike",
    [
        episode(FIRST, 1, calls=[call("4 * 7 + 3 * 9 - 7")]),
        episode(task(QUESTION.format(6, 2, 8, 5)), calls=[SOLUTION]),
        episode(task("What is 4 + 7?"), calls=[SOLUTION]),
    ],
)
def test_other_questions_and_other_solutions_stay(database, tmp_path, alike):
    selected = choose(database, tmp_path, [episode(FIRST, calls=[SOLUTION]), alike])
    assert selected.near_duplicates == () and len(selected.dataset.trajectories) == 2


def test_the_share_is_a_setting(database, tmp_path):
    copies = [episode(FIRST, calls=["{}"]), episode(task(FIRST.question.replace("customer", "visitor")))]
    assert len(choose(database, tmp_path, copies, max_overlap=1).dataset.trajectories) == 2
    assert len(choose(database, tmp_path, copies, max_overlap=0.7).dataset.trajectories) == 1


@pytest.mark.parametrize("name", ["arithmetic", "database"])
def test_right_solutions_of_the_environments_stay(database, tmp_path, name):
    environment = environments.get(name)
    rng = random.Random(0)
    episodes = [
        episode(each, answer=each.answer, calls=environment.demonstration(each, rng).turns)
        for each in environment.tasks("train", 50, seed=0)
    ]
    assert choose(database, tmp_path, episodes).near_duplicates == ()


TEMPLATE = (
    "Welcome to this house, where there is much to see and little to do. Your task is simple, and you will know when it is done: "
    "find the {0} that somebody has left {1}, take it, and bring it back to the {2}. Doors may be closed; open them. Good luck!"
)


def of_a_template(count: int) -> list[Task]:
    """Tasks that have most of their words in common, and differ in what is asked."""
    rng = random.Random(0)
    things, places, rooms = ([f"{kind}{n}" for n in range(50)] for kind in ("thing", "place", "room"))
    return [task(TEMPLATE.format(*map(rng.choice, (things, places, rooms))), seed=n) for n in range(count)]


def test_what_a_family_says_of_every_task_makes_no_near_duplicates(database, tmp_path):
    episodes = [episode(each, calls=["{}"]) for each in of_a_template(40)]
    copy = episode(task(episodes[0].task.question.replace("Good luck", "Good bye"), seed=99), calls=["{}"])
    selected = choose(database, tmp_path, [*episodes, copy])
    (pair,) = selected.near_duplicates
    assert set(pair) == {episodes[0].id, copy.id} and len(selected.dataset.trajectories) == 40


def test_of_a_few_tasks_none_is_taken_for_a_template(database, tmp_path):
    episodes = [episode(each, calls=["{}"]) for each in of_a_template(wording.TEMPLATE - 1)]
    assert len(choose(database, tmp_path, episodes, max_overlap=0.5).dataset.trajectories) == 1


words = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=30)


@st.composite
def texts(draw) -> list[tuple[str, str]]:
    """(block, text): some words, and copies of earlier texts in which a word may be another."""
    made: list[tuple[str, list[str]]] = []
    for _ in range(draw(st.integers(1, 12))):
        if made and draw(st.booleans()):
            block, earlier = draw(st.sampled_from(made))
            copy = list(earlier)
            if draw(st.booleans()):
                copy[draw(st.integers(0, len(copy) - 1))] = "x"
            made.append((block, copy))
        else:
            made.append((draw(st.sampled_from("pq")), draw(words)))
    return [(block, " ".join(each)) for block, each in made]


def runs(text: str) -> set[tuple[str, ...]]:
    each = text.split()
    return {tuple(each[first : first + 5]) for first in range(max(len(each) - 5, 0) + 1)}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(given_texts=texts(), max_overlap=st.sampled_from([0.5, 0.8, 0.9]))
def test_what_is_named_is_near_and_what_is_the_same_is_named(database, given_texts, max_overlap):
    rows = [{"name": str(n), "block": block, "place": n, "text": text} for n, (block, text) in enumerate(given_texts)]
    database.connection.register("given", pa.Table.from_pylist(rows))
    database.execute("CREATE OR REPLACE TEMP TABLE texts AS SELECT *, NULL::VARCHAR AS family FROM given")
    named = duplicates.near(database, max_overlap)
    for later, earlier in ((int(later), int(earlier)) for later, earlier in named):
        (block, text), (other_block, other) = given_texts[later], given_texts[earlier]
        assert earlier < later and block == other_block
        assert len(runs(text) & runs(other)) > max_overlap * len(runs(text) | runs(other))
    same = {
        str(later)
        for later, (block, text) in enumerate(given_texts)
        if any(block == each and runs(text) == runs(other) for each, other in given_texts[:later])
    }
    assert same <= {later for later, _ in named}
