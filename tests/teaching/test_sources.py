"""Where demonstrations come from: each source gives episodes in the student's tokens that the verifier has judged."""

import pytest

from agentloop.errors import ContaminationError, SettingError, StoreError
from agentloop.store.shards import read_shard
from agentloop.teaching.source import parse as parse_source


def test_experts_are_right_and_their_tools_are_called(lesson):
    teaching = lesson.open()
    planned, judged = lesson.demonstrate(teaching)
    assert judged["tried"] == judged["accepted"] == 12
    trajectories = [each for shard in planned.shards for each in read_shard(shard.path(teaching.settings.paths.shards))]
    assert len(trajectories) == 12 and len({each.id for each in trajectories}) == 12
    for each in trajectories:
        assert each.task.split == "demonstration"
        assert any(turn.role == "tool" for turn in each.turns)
        for turn in each.turns:
            ids = each.token_ids[turn.start : turn.end]
            assert all(own == (turn.role == "model") for own in each.mask[turn.start : turn.end])
            if turn.role == "model":
                assert teaching.campaign.prompt.decode(ids) == turn.text
                assert ids[-1] == teaching.campaign.prompt.stop_token_ids[0]
    (policy,) = lesson.rows(teaching, "SELECT base, adapter FROM policies")
    assert policy[0].startswith("experts_") and policy[1] is None


def test_demonstrations_are_neither_collected_nor_measured(lesson):
    teaching = lesson.open()
    lesson.demonstrate(teaching)
    chosen = lesson.choose(teaching)
    assert chosen["rows"] == 12
    assert lesson.rows(teaching, "SELECT DISTINCT purpose FROM collected") == [("demonstrate",)]
    with pytest.raises(StoreError, match="has collected nothing yet"), teaching.campaign.database() as database:
        from agentloop.store import campaigns

        campaigns.newest_iteration(database, teaching.campaign.name)


def test_played_again_nothing_changes(lesson):
    teaching = lesson.open()
    planned, first = lesson.demonstrate(teaching)
    files = {shard.id: shard.path(teaching.settings.paths.shards).stat().st_mtime_ns for shard in planned.shards}
    again, second = lesson.demonstrate(lesson.open())
    assert second == first and [shard.id for shard in again.shards] == list(files)
    assert {shard.id: shard.path(teaching.settings.paths.shards).stat().st_mtime_ns for shard in again.shards} == files


def test_families_alone(lesson):
    teaching = lesson.open(families=["average", "change"])
    _, judged = lesson.demonstrate(teaching)
    assert judged["families"] == {"average": [6, 6], "change": [6, 6]}


def test_a_family_that_is_not_there(lesson):
    teaching = lesson.open(families=["averages"])
    with pytest.raises(
        SettingError, match=r"^--family: there are no tasks of a family 'averages' \(there are: average, ch"
    ):
        lesson.demonstrate(teaching)


def test_an_environment_without_experts(lesson, tmp_path):
    (tmp_path / "plain.py").write_text(PLAIN)
    teaching = lesson.open("experts", f"environment={tmp_path / 'plain.py'}")
    with pytest.raises(SettingError, match="^environment: plain has no expert for its tasks; teach --from a file"):
        lesson.demonstrate(teaching)


def test_an_expert_that_fails_is_told_with_its_line(lesson, tmp_path):
    file = tmp_path / "failing_expert.py"
    file.write_text(
        PLAIN.replace('"plain"', '"failing_expert"') + "    def expert(self, task):\n        return [1 / 0]\n"
    )
    teaching = lesson.open("experts", f"environment={file}")
    with pytest.raises(
        SettingError, match=r"^environment: failing_expert: expert\(\) for 'How .*, line 19: ZeroDivisionError"
    ):
        lesson.demonstrate(teaching)


def test_an_expert_that_is_wrong_is_not_taught(lesson, tmp_path):
    file = tmp_path / "wrong.py"
    file.write_text(
        PLAIN.replace('"plain"', '"wrong"')
        + "    def expert(self, task):\n        return ['Answer: ' + task.answer + ('0' if '1' in task.question else '')]\n"
    )
    teaching = lesson.open("experts", f"environment={file}", "teach.tasks=30")
    _, judged = lesson.demonstrate(teaching)
    assert judged["tried"] == 30 and 0 < judged["accepted"] < 30
    assert lesson.choose(teaching)["rows"] == judged["accepted"]
    assert lesson.rows(
        teaching,
        "SELECT count(*) FROM dataset_rows r JOIN v_success s ON s.trajectory = r.trajectory WHERE s.success < 1",
    ) == [(0,)]


def test_what_is_nearly_measured_is_not_taught(lesson, tmp_path):
    """A training question that is a held-out one with another full stop."""
    file = tmp_path / "leaky.py"
    file.write_text(LEAKY)
    teaching = lesson.open("experts", f"environment={file}", "teach.tasks=8")
    lesson.demonstrate(teaching)
    with pytest.raises(ContaminationError, match="nearly the same as what is measured"):
        lesson.choose(teaching)


def test_what_another_base_solved_is_said_again(lesson):
    first = lesson.open()
    lesson.demonstrate(first)
    teaching = lesson.open("stored", "teach.per_task=2")
    planned, judged = lesson.demonstrate(teaching)
    assert judged["tried"] == judged["accepted"] == 12
    words = """
        SELECT list(u.text ORDER BY u.position)
        FROM turns u JOIN trajectories t ON t.id = u.trajectory JOIN policies p ON p.id = t.policy
        WHERE starts_with(p.base, ?) GROUP BY u.trajectory ORDER BY 1
    """
    assert lesson.rows(teaching, words, "stored_") == lesson.rows(teaching, words, "experts_")
    again, _ = lesson.demonstrate(lesson.open("stored", "teach.per_task=2"))
    assert again.policy == planned.policy


def test_nothing_is_stored(lesson):
    with pytest.raises(SettingError, match="^--from stored: the store has no task of arithmetic that another base has"):
        lesson.demonstrate(lesson.open("stored"))


@pytest.mark.parametrize(
    "word, message",
    [
        ("nowhere.jsonl", "^--from: 'nowhere.jsonl' is neither experts, stored, a URL, nor a file that is there$"),
        ("http://", "^--from: 'http://' is no URL: it names no host$"),
        ("https://user:secret@host/v1", "^--from: the URL must not hold a key"),
        ("https://host/v1?key=secret", "^--from: the URL must not hold a key"),
        ("http://host:port/v1", "^--from: 'http://host:port/v1' is no URL"),
    ],
)
def test_a_word_that_is_no_source(word, message):
    with pytest.raises(SettingError, match=message) as told:
        parse_source(word)
    assert "secret" not in str(told.value)


@pytest.mark.parametrize(
    "word", ["http://host:8000", "http://host:8000/v1", "http://host:8000/v1/", "http://host:8000/v1/chat/completions"]
)
def test_a_url_in_every_form(word):
    assert parse_source(word).place == "http://host:8000/v1/chat/completions"


PLAIN = """
import random
from agentloop.environments import Environment, Question

class Plain(Environment):
    name = "plain"

    def questions(self, rng):
        numbers = list(range(300))
        rng.shuffle(numbers)
        yield from (Question("all", f"How many are {n} and one?", str(n + 1), {}) for n in numbers)

    def tools(self, task):
        return {}

    def verify(self, task, answer):
        return float(answer == task.answer)
"""

LEAKY = """
from agentloop.environments import Environment, Question

WORDS = "the fox who lives behind the red house near the old river counts all of his"

class Leaky(Environment):
    name = "leaky"

    def questions(self, rng):
        for n in range(40):
            yield Question("all", f"{WORDS} {n} hens, how many?", str(n), {}, "heldout")
            yield Question("all", f"{WORDS} {n} hens, how many? ", str(n), {}, "train")

    def tools(self, task):
        return {}

    def verify(self, task, answer):
        return float(answer == task.answer)

    def expert(self, task):
        return [f"Answer: {task.answer}"]
"""
