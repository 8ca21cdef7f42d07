"""examples/game: its rules, and the whole way with the tiny model: experts play it, it is taught, played and scored."""

import json

import pytest

from agentloop.project import CHECKOUT
from agentloop.user_code import run_file


@pytest.fixture(scope="module")
def guessing():
    return run_file(CHECKOUT / "examples" / "game" / "guessing.py", about="example", error=AssertionError)


def played(guessing, secret, *turns):
    game = guessing.Game(secret)
    said = [game.observe(turn) for turn in turns]
    return [each.text for each in said], [each.done for each in said], game.outcome()


def test_the_rules(guessing):
    texts, over, outcome = played(guessing, 24, "26", "nonsense", "51", "13", "24")
    assert texts == ["lower", "say a number from 1 to 50", "say a number from 1 to 50", "higher", "right"]
    assert over == [False, False, False, False, True] and outcome == {"won": True, "guesses": 3, "possible": 12}
    _, over, outcome = played(guessing, 50, *"123456")
    assert over == [False] * 5 + [True] and outcome == {"won": False, "guesses": 6, "possible": 44}


def test_scores_and_the_expert(guessing):
    environment = guessing.Guessing()
    for task in environment.tasks("train", 20, 0):
        turns = environment.expert(task)
        *_, outcome = played(guessing, task.payload["secret"], *turns)
        scores = environment.score(task, None, outcome)
        assert scores["success"] == 1 and scores["thrift"] == 1 - len(turns) / 6 and turns[-1] == task.answer
    lost = environment.score(task, None, {"won": False, "guesses": 6, "possible": 1})
    nothing = environment.score(task, None, {"won": False, "guesses": 0, "possible": 50})
    assert (lost, nothing) == ({"success": 0.4, "thrift": 0.0}, {"success": 0.0, "thrift": 0.0})


@pytest.mark.slow
def test_teach_and_measure(project):
    home = project("game")
    small = ("teach.tasks=48", "teach.epochs=1", "evaluate.tasks=16", "evaluate.samples=2", "gate.max_tasks=16")
    said = home.run("teach", "--profile", "demo", *small)
    assert "to use it, set model=taught_" in " ".join(said.split())
    rows = home.rows(
        "SELECT c.purpose, t.status, t.outcome, t.answer, s.success FROM trajectories t "
        "JOIN v_success s ON s.trajectory = t.id JOIN collected c ON c.trajectory = t.id"
    )
    outcomes = [
        (purpose, status, json.loads(outcome), answer, success) for purpose, status, outcome, answer, success in rows
    ]
    experts = [each for each in outcomes if each[0] == "demonstrate"]
    assert len(experts) == 48 and {(status, success) for _, status, _, _, success in experts} == {("ended", 1.0)}
    measured = [each for each in outcomes if each[0] == "evaluate"]
    assert len(measured) == 2 * 16 * 2, "the student and what was taught"
    assert all(answer is None and (success >= 0.5) == outcome["won"] for _, _, outcome, answer, success in measured)
    assert home.rows("SELECT count(DISTINCT trajectory) FROM scores WHERE scorer = 'thrift'") == [(len(rows),)]
    assert home.rows("SELECT count(*) FROM turns WHERE role = 'user' AND position > 0")[0][0] > 100
    assert home.rows("SELECT max(reward) FROM turns") == [(1.0,)]
