"""`agentloop status` against a ledger, shards and a trainer's journal of which everything is known."""

import json
import os
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from made_by_hand import episode, sum_task
from typed import begin

from agentloop import environments
from agentloop import settings as configuration
from agentloop.campaign.campaign import Campaign
from agentloop.campaign.lock import owned
from agentloop.store import campaigns, training_runs
from agentloop.store.clock import now
from agentloop.store.ledger import Ledger
from agentloop.store.shards import write_shard

SETTINGS = ("campaign=mine", "iterations=3", "collect.tasks=4", "collect.samples=2", "collect.shard_episodes=2")
WORKING = """
import sys, time
from pathlib import Path
from test_status import at
campaign = at(Path(sys.argv[1]))
def work():
    print("at work", flush=True)
    time.sleep(600)
with campaign.at_work():
    campaign.begin(1)
    campaign.step("train", 1, [], work)
"""


def at(root: Path) -> Campaign:
    words = [*SETTINGS, "evaluate.tasks=3", "evaluate.samples=2", f"paths.data={root}", f"paths.cache={root / 'cache'}"]
    return Campaign(configuration.load(words), environments.get("arithmetic"), root, "base_1")


@pytest.fixture
def campaign(data):
    campaign = at(data)
    campaign.settings.export()
    with campaign.database() as database:
        campaigns.register(database, campaign.settings)
    return campaign


@pytest.fixture
def looked(agentloop):
    """What status says of the campaign: as text on one line, and as JSON."""

    def look(*words: str) -> tuple[str, dict]:
        code, output, errors = agentloop("status", *words)
        assert code == 0, errors
        return " ".join(output.split()), json.loads(agentloop("status", "--json", *words)[1])["campaign"]

    return look


def play(campaign: Campaign, number: int, *, iteration: int, purpose: str = "collect") -> None:
    """A shard of two episodes that nobody has taken in yet."""
    path = campaign.settings.paths.shards / f"{purpose}-{number}.parquet"
    episodes = [episode(sum_task(number), sample) for sample in range(2)]
    write_shard(path, episodes, purpose=purpose, campaign=campaign.name, iteration=iteration)


def journal(campaign: Campaign, adapter: str, *, done: int, of: int, seconds: float) -> None:
    """What a trainer writes down, with a line that it has not finished."""
    with campaign.database() as database:
        training_runs.begin(database, adapter, campaign=campaign.name, iteration=1, dataset="data_1")
    lines = [json.dumps({"step": step, "steps": of, "seconds": seconds}) + "\n" for step in range(1, done + 1)]
    (campaign.settings.paths.checkpoints / f"{adapter}.metrics.jsonl").write_text("".join(lines) + '{"step": 9')


def complete(campaign: Campaign, iteration: int, *, seconds: float, collect: float) -> None:
    """An iteration that took so long, `collect` of it for episodes, and ended a moment ago."""
    campaign.begin(iteration)
    for name in ("select", "train", "canary", "measure", "decide"):
        campaign.step(name, iteration, [], lambda: {"decision": "keep"})
    campaign.finish(iteration)
    ended = now()
    with campaign.database() as database:
        database.execute(
            "UPDATE iterations SET started = ?, finished = ? WHERE iteration = ?",
            [ended - timedelta(seconds=seconds), ended, iteration],
        )
        database.execute(
            "INSERT INTO gpu_phases VALUES (?, ?, 'collect', ?, ?, NULL, false)",
            [campaign.name, iteration, ended - timedelta(seconds=collect), ended],
        )


def test_a_step_at_work_is_named_with_what_it_is_of(campaign, looked):
    with campaign.at_work():
        campaign.begin(1)
        with campaign.database() as database:
            Ledger(database).start("step_1", campaign="mine", iteration=1, name="select")
        text, found = looked()
    assert "now select of iteration 1 since" in text and "success not measured yet" in text and "left" not in text
    assert (found["work"]["step"], found["work"]["iteration"], found["work"]["control"]) == ("select", 1, False)
    assert found["work"]["seconds_left"] is None and found["time_left"] is None
    assert found["running"]["name"] == "select"


def test_episodes_are_counted_by_the_shards_that_lie_there(campaign, looked):
    with campaign.at_work():
        campaign.begin(1)
        assert "collect of iteration 1 since" in looked()[0] and "0 of 4 shards of episodes" in looked()[0]
        for number in range(3):
            play(campaign, number, iteration=1)
        play(campaign, 9, iteration=1, purpose="evaluate")  # of something else
        os.utime(campaign.settings.paths.shards / "evaluate-9.parquet", (1, 1))
        text, found = looked()
    assert "now collect of iteration 1 since" in text and "3 of 4 shards of episodes" in text
    assert (found["work"]["done"], found["work"]["of"], found["running"]) == (3, 4, None)


def test_episodes_of_an_evaluation_outside_the_iterations(campaign, looked):
    """`agentloop eval` does not say what it is; its first shard does."""
    with campaign.at_work():
        text, found = looked()
        assert "now at work since" in text and found["work"]["step"] is None
        play(campaign, 1, iteration=0, purpose="evaluate")
        text, found = looked()
    assert "now evaluate since" in text and "1 of 3 shards of episodes" in text


def test_training_is_counted_by_what_the_trainer_wrote_down(campaign, looked):
    with campaign.at_work():
        campaign.begin(1)
        with campaign.database() as database:
            Ledger(database).start("step_1", campaign="mine", iteration=1, name="train")
        assert "steps" not in looked()[0]
        journal(campaign, "adapter_1", done=12, of=52, seconds=30.0)
        text, found = looked()
    assert "train of iteration 1 since" in text and "12 of 52 steps, about 20 min left" in text
    work = found["work"]
    assert (work["done"], work["of"], work["unit"]) == (12, 52, "steps") and 1100 < work["seconds_left"] <= 1200


def test_time_left_goes_by_the_iteration_before(campaign, looked):
    with campaign.at_work():
        complete(campaign, 1, seconds=7200, collect=6000)
        campaign.begin(2)
        text, found = looked()
        assert "0 of 4 shards of episodes, about 1.7 h left" in text
        assert "left about 2 h of the iteration, 4 h of all iterations, if all goes as in iteration 1" in text
        assert found["time_left"]["like"] == 1 and found["time_left"]["campaign"] > 2 * 7000
        play(campaign, 1, iteration=2)
        text, found = looked()
    assert "1 of 4 shards of episodes, about 75 min left" in text
    assert found["work"]["seconds_left"] == pytest.approx(6000 * 3 / 4)


@pytest.mark.parametrize("reason", ["waited", "longer", "resumed"])
def test_no_time_is_told_where_there_is_no_ground(campaign, looked, reason):
    with campaign.at_work():
        # of an iteration with a night between two of its phases nothing is learnt
        complete(campaign, 1, seconds=80_000, collect=100 if reason == "waited" else 70_000)
    with campaign.database() as database:
        database.execute("UPDATE campaigns SET updated = ?", [now() - timedelta(seconds=10 * (reason != "resumed"))])
    with owned(campaign.settings.paths.data, campaign="mine"):
        campaign.begin(2)
        with campaign.database() as database:
            if reason == "waited":
                database.execute("UPDATE iterations SET started = started - INTERVAL 1 DAY WHERE iteration = 1")
            ago = {"longer": 2 * 80_000, "resumed": 5}.get(reason, 0)
            database.execute("UPDATE iterations SET started = ? WHERE iteration = 2", [now() - timedelta(seconds=ago)])
            if reason == "longer":
                database.execute("UPDATE campaigns SET updated = ?", [now() - timedelta(days=9)])
        text, found = looked()
    assert "of all iterations" not in text and found["time_left"] is None
    assert "now" in text and found["work"] is not None


def test_a_killed_run_is_not_at_work(campaign, looked):
    """Neither while nobody has the data root, nor in the moment in which the next run has taken it."""
    working = subprocess.Popen(
        [sys.executable, "-c", WORKING, str(campaign.settings.paths.data)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert working.stdout.readline() == "at work\n"
    text, found = looked()
    assert "now train of iteration 1 since" in text and found["work"]["step"] == "train"
    working.send_signal(signal.SIGKILL)
    working.communicate()
    text, found = looked()
    assert "now nobody is at work; train of iteration 1: interrupted" in text and "since" not in text
    assert found["work"] is None and found["running"] is None and found["last"]["error"] == "interrupted"
    with campaign.database() as database:  # whatever the clock's resolution
        database.execute("UPDATE steps SET started = started - INTERVAL 2 SECOND WHERE status = 'started'")
    with owned(campaign.settings.paths.data, campaign="mine"):
        _, found = looked()
        assert found["running"] is None and found["work"]["step"] is None
    with campaign.at_work():  # who takes note of it
        assert looked()[1]["last"]["error"] == "interrupted"


def test_how_the_last_run_ended_is_told(campaign, looked):
    assert "now nobody is at work, and no step is done yet" in looked()[0]
    with campaign.at_work():
        campaign.begin(1)
        with pytest.raises(OSError):
            campaign.step("select", 1, [], _full)
    text, found = looked()
    assert "now nobody is at work; select of iteration 1: failed: OSError: [31m] the disk [full]" in text
    assert found["last"]["status"] == "failed" and found["last"]["error"] == "OSError: [31m] the disk [full]"


def _full():
    raise OSError("[31m] the disk [full]")


def test_success_is_that_of_champion_and_base(agentloop, on_recorded, looked):
    text, found = looked()
    success = found["success"]
    assert "now complete: a run would find nothing left to do" in text
    champion, base, difference = (success[name] for name in ("champion", "base", "difference"))
    assert (
        f"the champion solves {100 * champion['estimate']:.1f} % [{100 * champion['low']:.1f}, {100 * champion['high']:.1f}], "
        f"the base model {100 * base['estimate']:.1f} % [{100 * base['low']:.1f}, {100 * base['high']:.1f}] of 80 held-out "
        f"tasks × 4: {100 * difference['estimate']:+.1f} percentage points" in text
    )
    agentloop("rollback", "base")
    text, found = looked()
    assert f"the base model, which is champion, solves {100 * base['estimate']:.1f} %" in text
    assert found["success"]["champion"] == found["success"]["base"]


def test_the_campaign_at_work_is_looked_at_before_a_newer_one(campaign, agentloop, looked):
    with campaign.database() as database:
        begin(database, "newer")
    assert looked()[1]["name"] == "newer"
    with campaign.at_work():
        assert looked()[1]["name"] == "mine" and looked("--campaign", "newer")[1]["name"] == "newer"
        found = json.loads(agentloop("status", "--json")[1])
    assert found["owner"]["process"] == os.getpid() and found["owner"]["campaign"] == "mine"
    assert [each["name"] for each in found["campaigns"]] == ["newer", "mine"]


def test_the_control_is_called_so(campaign, looked):
    with campaign.at_work():
        for iteration in (1, 2, 3):
            complete(campaign, iteration, seconds=10, collect=5)
        campaign.step("select", 3, ["random"], lambda: {"dataset": "data_2"})
        with campaign.database() as database:
            Ledger(database).start("step_9", campaign="mine", iteration=3, name="train")
        text, found = looked()
    assert "now train for the control since" in text and found["work"]["control"] is True
    assert found["complete"] is False and found["time_left"] is None
