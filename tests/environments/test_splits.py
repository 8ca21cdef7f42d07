"""Streams are deterministic, without duplicates, and no question is in two splits. For every environment."""

import pytest

from agentloop import environments
from agentloop.environments.environment import split_of
from agentloop.errors import SettingError

COUNTS = {"arithmetic": 1500, "database": 200}


@pytest.fixture(scope="module", params=sorted(COUNTS))
def streams(request):
    environment = environments.get(request.param)
    # Two seeds, so that a question that one stream holds could turn up in another split's.
    return environment, {
        split: environment.tasks(split, COUNTS[request.param], seed=0) + environment.tasks(split, 100, seed=1)
        for split in ("demonstration", "train", "heldout")
    }


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(SettingError, match="arithmetic, database"):
        environments.get("chess")


def test_no_question_is_in_two_splits(streams):
    _, by_split = streams
    questions = {split: {task.question for task in tasks} for split, tasks in by_split.items()}
    assert not questions["train"] & questions["heldout"]
    assert not questions["demonstration"] & (questions["train"] | questions["heldout"])
    for split, tasks in by_split.items():
        assert all(task.split == split == split_of(task.question) for task in tasks)


def test_no_question_twice_in_a_stream(streams):
    environment, by_split = streams
    for tasks in by_split.values():
        first = tasks[: COUNTS[environment.name]]
        assert len({task.question for task in first}) == len({task.id for task in first}) == len(first)


def test_the_same_seed_gives_the_same_tasks(streams):
    environment, by_split = streams
    again = environments.get(environment.name)
    assert again.tasks("train", 20, seed=0) == by_split["train"][:20]
    assert again.tasks("train", 15, seed=0, skip=5) == by_split["train"][5:20]
    assert again.tasks("train", 20, seed=1) != by_split["train"][:20]


def test_every_family_is_in_every_split(streams):
    _, by_split = streams
    families = [{task.family for task in tasks} for tasks in by_split.values()]
    assert families[0] == families[1] == families[2]


def test_verifier_accepts_the_truth_and_rejects_the_rest(streams):
    environment, by_split = streams
    for task in by_split["heldout"][:100]:
        assert environment.verify(task, task.answer) == 1.0
        assert environment.verify(task, f" {task.answer} ") == 1.0
        for wrong in (None, "", f"{task.answer}1", f"-{task.answer}", "nan", "it depends", "1e999999999", "9" * 500):
            assert environment.verify(task, wrong) == 0.0


def test_asking_for_more_than_there_are_is_refused(streams, monkeypatch):
    environment, _ = streams
    question = environment.draw(__import__("random").Random(0))
    monkeypatch.setattr(environment, "draw", lambda rng: question)
    with pytest.raises(SettingError, match=f"{environment.name} has 1 .* tasks, fewer than the 3 "):
        environment.tasks(split_of(question.text), 3, seed=0)
