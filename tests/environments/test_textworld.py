"""Games of TextWorld: walkthroughs reach the game's own full score through our protocol, everywhere alike, and nothing gets out."""

import asyncio
import json
import os
import random
import re
import subprocess
import sys
from dataclasses import replace
from itertools import islice

import pytest

pytest.importorskip("textworld")

from transformers import AutoTokenizer  # noqa: E402

from agentloop import caches, environments, settings  # noqa: E402
from agentloop.environments.environment import Demonstration  # noqa: E402
from agentloop.environments.textworld_games import Family, games, said  # noqa: E402
from agentloop.errors import SettingError  # noqa: E402
from agentloop.settings import Settings  # noqa: E402
from agentloop.tiny import bootstrap as bootstrapping  # noqa: E402
from agentloop.tiny import demonstrations  # noqa: E402
from agentloop.tiny.bootstrap import RECIPES, bootstrap  # noqa: E402
from agentloop.tiny.demonstrations import act  # noqa: E402
from agentloop.tiny.tokenizer import build_tokenizer  # noqa: E402
from agentloop.worlds.pool import Worlds  # noqa: E402
from agentloop.worlds.stage import Stage  # noqa: E402

HUNT = "textworld:treasure_hunter,level=5"
FAMILIES = {
    "treasure_hunter,level=5": 6,
    "treasure_hunter,level=12,theme=basic": 2,
    "coin_collector,level=5": 2,
    "cooking,recipe=2,take=1,cook,cut,open,go=6": 3,
    "simple,rewards=dense,goal=detailed": 2,
    "custom,quest_length=4": 2,
}
"""Names of families, and how many games of each are played."""


@pytest.fixture(scope="module", autouse=True)
def made(tmp_path_factory):
    """Games are made once for all tests of this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(caches.MADE_VARIABLE, str(tmp_path_factory.mktemp("made")))
        patch.setattr(environments, "_ENVIRONMENTS", dict(environments._ENVIRONMENTS))
        yield


@pytest.fixture
def task():
    return environments.get(HUNT).tasks("heldout", 1, seed=0)[0]


def played(task, *turns):
    environment = environments.get(task.environment)
    stage = Stage.open(environment, task)
    replies = [stage.observe(turn) for turn in turns]
    return replies, stage.outcome(), environment.score(task, None, stage.outcome())


@pytest.mark.parametrize("family", FAMILIES)
def test_walkthroughs_reach_the_games_own_full_score(family):
    environment = environments.get(f"textworld:{family}")
    tasks = environment.tasks("train", FAMILIES[family], seed=0)
    experts = [Demonstration(task, "right", tuple(environment.expert(task))) for task in tasks]
    for trajectory in act(experts, environment, build_tokenizer([])):
        outcome = trajectory.outcome
        assert trajectory.status == "ended" and outcome["won"] and outcome["score"] == outcome["max_score"]
        assert environment.score(trajectory.task, None, outcome) == {"success": 1.0, "score": 1.0}
        assert sum(turn.reward or 0 for turn in trajectory.turns) == outcome["max_score"]


def test_a_game_is_played_in_the_world_of_its_episode(tmp_path, task):
    settings = Settings(paths={"data": tmp_path / "data", "cache": caches.made().parent})
    environment = environments.get(HUNT)

    async def play() -> None:
        with Worlds(settings, [HUNT]) as worlds:
            async with worlds.open(task, session="s") as world:
                about = await world.describe()
                assert about.speaks and not about.answers and not about.tools and "text adventure" in about.instructions
                replies = [await world.observe(turn) for turn in environment.expert(task)]
                assert replies[-1].done and (await world.outcome())["won"]

    asyncio.run(play())


def test_the_split_is_the_seeds_and_a_game_is_the_same_in_every_process(tmp_path, task):
    environment = environments.get(f"{HUNT},games=6")
    tasks = {split: list(islice(environment.stream(split, 0), 6)) for split in ("demonstration", "train", "heldout")}
    seeds = [task.payload["seed"] for split in tasks.values() for task in split]
    assert sorted(seeds) == list(range(6))
    code = (
        "import json, sys; from dataclasses import asdict; from agentloop import environments;"
        f"tasks = environments.get({HUNT!r} + ',games=6').tasks('train', 1, seed=0);"
        "json.dump([asdict(task) for task in tasks], sys.stdout)"
    )
    variables = {caches.MADE_VARIABLE: str(tmp_path), "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)}
    again = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | variables, capture_output=True, check=True, encoding="utf-8"
    )
    (other,) = json.loads(again.stdout)
    (here,) = environment.tasks("train", 1, seed=0)
    assert (other["question"], other["answer"], other["payload"]) == (here.question, here.answer, here.payload)


def test_what_is_no_command_is_told_and_nothing_is_written(tmp_path, monkeypatch, task):
    monkeypatch.chdir(tmp_path)
    words = [
        "save",
        "look. save",
        "Script",
        "RESTORE",
        "quit",
        "restart",
        "look\nsave",
        "é",
        "",
        " ",
        "x" * 500,
        "> go",
    ]
    replies, outcome, scores = played(task, *words)
    assert {reply.text for reply in replies} == {"Say one command of the game, in plain words on one line."}
    assert outcome["moves"] == 0 and scores == {"success": 0.0, "score": 0.0}
    assert list(tmp_path.iterdir()) == []
    replies, outcome, _ = played(task, "sing", "go nowhere at all", "look")
    assert outcome["moves"] == 3 and not any(reply.done or reply.complaint for reply in replies)
    assert replies[0].text == "That's not a verb I recognise."
    assert task.question.endswith(replies[2].text)  # the opening is the room, as looking shows it


def test_a_game_that_is_lost_is_not_solved():
    environment = environments.get("textworld:treasure_hunter,level=1,theme=basic")
    for task in environment.stream("train", 0):
        there = re.search(r"There is (?:an? )?(\w+) and (?:an? )?(\w+) on the floor", task.question)
        if there:  # the treasure, and what is not to be taken
            break
    (wrong,) = (thing for thing in there.groups() if thing not in task.answer)
    replies, outcome, scores = played(task, f"take {wrong}")
    assert replies[-1].done and outcome["lost"] and not outcome["won"] and scores["success"] < 0.5


def test_a_seed_that_has_no_game_is_left_out_everywhere(monkeypatch):
    environment = environments.get("textworld:treasure_hunter,level=10")
    there, missing = games(environment.family, [16, 17])
    assert there is not None and missing is None
    monkeypatch.setattr(type(environment), "_numbers", lambda self, rng: iter((16, 17)))
    splits = ("demonstration", "train", "heldout")
    assert [task.payload["seed"] for split in splits for task in environment.stream(split, 0)] == [16]


def test_another_textworlds_game_is_refused(task):
    environment = environments.get(HUNT)
    other = replace(task, payload=task.payload | {"game": "game_of_another_version"})
    with pytest.raises(SettingError, match="makes another game of seed"):
        environment.open(other)


def test_a_family_that_cannot_be_made_is_told_with_its_seed():
    family = Family("coin_collector", {"level": 300}, {})
    with pytest.raises(
        SettingError, match="the game of seed 5 could not be made: ValueError: With the removal"
    ) as told:
        games(family, [5])
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("zork", "TextWorld has no challenge 'zork'; there are "),
        ("treasure_hunter", "the following arguments are required: --level"),
        ("treasure_hunter,level=many", "argument --level: invalid int value: 'many'"),
        ("treasure_hunter,level=5,depth=2", "unrecognized arguments: --depth=2"),
        ("treasure_hunter,level=5,theme=space", "argument --theme: invalid choice: 'space'"),
        ("treasure_hunter,level=5,games=0", "games must be at least 1"),
    ],
)
def test_a_wrong_name_is_told_in_one_line(name, fault):
    with pytest.raises(SettingError, match=fault) as told:
        environments.get(f"textworld:{name}")
    assert str(told.value).startswith(f"environment: textworld:{name}") and "\n" not in str(told.value)


def test_a_tiny_model_is_made_of_games(tmp_path, monkeypatch):
    monkeypatch.setattr(bootstrapping, "MEASURED_SAMPLES", 1)
    monkeypatch.setattr(demonstrations, "VOCABULARY_DEMONSTRATIONS", 8)
    recipe = RECIPES["tiny-textworld"]
    assert recipe.environment == settings.load(profile="textworld").environment
    few = replace(recipe, environment=f"{HUNT},theme=basic,games=8", demonstrations=8, tasks=2, measured=1)
    report = bootstrap(tmp_path / "tiny", few, steps=2)
    assert report.demonstrations == {few.environment: 8} and report.measured[0].tasks == 1
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tiny")
    assert [tokenizer.decode(token) for token in tokenizer.encode("go east")] == ["go", " east"]


def test_flawed_demonstrations_are_not_won(task):
    environment = environments.get(HUNT)
    shown = [environment.demonstration(task, random.Random(seed)) for seed in range(60)]
    assert {each.kind for each in shown} == {"right", "habit", "noise"}
    habits = {each.turns for each in shown if each.kind == "habit"}
    assert habits and all(played(task, *turns)[2]["success"] < 0.5 for turns in habits)
    assert {each.turns for each in shown if each.kind == "right"} == {tuple(environment.expert(task))}


def test_what_the_interpreter_adds_is_not_shown():
    assert said("\n\n-= Attic =-\nA room.\n\n\n\nAn exit.\n\n\n> " + " " * 90 + "-= Attic =-0/4") == (
        "-= Attic =-\nA room.\nAn exit."
    )
    assert (
        said("Taken.\n\n  *** The End ***\n\nYou scored 1.\n\nWould you like to RESTART?\n>")
        == "Taken.\n*** The End ***"
    )


def test_a_flawed_demonstration_ends_with_its_script(task):
    environment = environments.get(HUNT)
    shown = [environment.demonstration(task, random.Random(seed)) for seed in range(20)]
    trajectories = act(shown, environment, build_tokenizer([]))
    assert {each.status for each in trajectories} == {"ended", "turn_limit"}
    for demonstration, trajectory in zip(shown, trajectories):
        said = [turn.text for turn in trajectory.turns if turn.role == "model"]
        assert said == list(demonstration.turns)[: len(said)] and "" not in said
