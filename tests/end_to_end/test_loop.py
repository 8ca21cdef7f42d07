"""The whole loop, for real: what a campaign leaves behind, and what the second run of the same command does."""

import json
import pickle
import subprocess
import sys

import pytest
from home import SMALL

from agentloop import settings as configuration
from agentloop.campaign import collect
from agentloop.campaign.campaign import Campaign
from agentloop.store.shards import read_shard


def test_every_planned_trajectory_is_there_once(home):
    campaign = Campaign.open(home.settings())
    champions = dict(home.rows("SELECT iteration, champion FROM iterations"))
    planned = {
        trajectory
        for iteration in (1, 2)
        for shard in collect.plan_collection(campaign, iteration, champions[iteration])
        for trajectory in shard.trajectories
    }
    collected = [name for (name,) in home.rows("SELECT trajectory FROM collected WHERE purpose = 'collect'")]
    assert len(collected) == len(set(collected)) == 2 * 32 * 4
    assert set(collected) == planned


def test_tokens_are_stored_as_they_were_sampled(home):
    campaign = Campaign.open(home.settings())
    trajectories = [trajectory for path in (home.root / "shards").glob("*.parquet") for trajectory in read_shard(path)]
    assert trajectories
    for trajectory in trajectories:
        assert len(trajectory.token_ids) == len(trajectory.mask) == len(trajectory.logprobs)
        assert trajectory.turns[0].start == 0 and trajectory.turns[-1].end == len(trajectory.token_ids)
        for turn in trajectory.turns:
            assert all(produced == (turn.role == "model") for produced in trajectory.mask[turn.start : turn.end])
            if turn.role == "model":
                assert campaign.prompt.decode(trajectory.token_ids[turn.start : turn.end]) == turn.text
    assert any(turn.tool and turn.role == "tool" for trajectory in trajectories for turn in trajectory.turns)


def test_shards_of_a_collection_are_played_side_by_side(home):
    first, *_ = (
        run for run in home.flow_runs() if run["name"] == "demo · iteration 1" and run["parent_task_run_id"]
    )  # later ones collect what tests remove
    with home.prefect() as api:
        ours = {"limit": 200, "flow_runs": {"id": {"any_": [first["id"]]}}}
        runs = api.post("/task_runs/filter", json=ours).json()
    shards = sorted((run["start_time"], run["end_time"]) for run in runs if run["name"].startswith("collect "))
    assert len(shards) == 4
    assert all(after[0] < before[1] for before, after in zip(shards, shards[1:], strict=False))


ELSEWHERE = """
import asyncio, pickle, sys
from agentloop_flows import steps
arguments = pickle.load(sys.stdin.buffer)
print(asyncio.run(steps.run_episodes.fn(**arguments)))
"""


@pytest.mark.slow
def test_a_shard_is_collected_by_any_process(home, tmp_path):
    """One that has the settings, the plan and the store, and nothing of the run that planned it."""
    campaign = Campaign.open(home.settings())
    shard = collect.plan_collection(campaign, 1, None)[0]
    own = home.settings(f"paths.data={tmp_path}")
    arguments = {
        "title": "elsewhere",
        "what": "collect 1/1",
        "settings": own,
        "shard": shard,
        "adapter": None,
        "iteration": 1,
        "purpose": "collect",
    }
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE],
        input=pickle.dumps(arguments),
        env=home.environment,
        cwd=home.project,
        capture_output=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().splitlines()[-1] == shard.id
    here, there = (
        [(each.id, each.token_ids, each.answer) for each in read_shard(shard.path(settings.paths.shards))]
        for settings in (home.settings(), own)
    )
    assert there == here


def test_success_is_what_the_verifier_says(home):
    from agentloop import environments

    environment = environments.get("arithmetic")
    tasks = {task.id: task for split in ("train", "heldout") for task in environment.tasks(split, 64, 0)}
    rows = home.rows(
        "SELECT t.task, t.answer, s.value FROM trajectories t JOIN scores s ON s.trajectory = t.id AND s.scorer = 'success'"
    )
    evaluated = home.rows("SELECT count(DISTINCT policy) FROM evaluations")[0][0]
    assert len(rows) == 2 * 32 * 4 + 24 * 2 * evaluated
    assert all(value == environment.verify(tasks[task], answer) for task, answer, value in rows)
    assert {value for _, _, value in rows} == {0.0, 1.0}


def test_nothing_held_out_is_trained_on(home):
    assert home.rows("SELECT count(*) FROM dataset_rows")[0][0] > 0
    assert home.rows("""SELECT count(*) FROM dataset_rows r JOIN trajectories t ON t.id = r.trajectory JOIN tasks k ON k.id = t.task
                        WHERE k.split <> 'train'""") == [(0,)]


def test_the_canary_compared_every_adapter(home):
    adapters = home.rows("SELECT count(*) FROM adapters")[0][0]
    canaries = home.rows("SELECT passed, max_difference FROM canaries")
    assert adapters == 2 and len(canaries) >= 2
    assert all(passed and difference < 1e-3 for passed, difference in canaries)


def test_the_pointer_moves_only_on_a_verdict(home):
    promoted = home.rows("SELECT adapter FROM verdicts WHERE decision = 'promote' ORDER BY ALL")
    assert home.rows("SELECT adapter FROM champions WHERE adapter IS NOT NULL ORDER BY ALL") == promoted


def test_the_run_can_be_looked_at(home):
    # later ones are meant to fail
    first, *_ = (run for run in home.flow_runs() if run["name"].startswith("demo · iteration"))
    assert first["state"]["type"] == "COMPLETED" and {"demo", "tiny"} <= set(first["tags"])
    assert first["state"]["name"].startswith(("Promoted +", "Kept champion", "More data needed"))
    assert "demo: " in first["state"]["message"] and " → " in first["state"]["message"]
    report = home.root / "reports" / "demo.html"
    page = report.read_text()
    [(link, error)] = home.rows("SELECT link, error FROM runs ORDER BY number LIMIT 1")
    assert link.endswith(first["id"]) and error is None and f'href="{link}"' in page
    assert 'data-refresh="0"' in page and ">demo</a>" in report.with_name("index.html").read_text()
    status = home.run("status")
    assert "demo" in status
    answer = home.run("sql", "--json", "SELECT count(*) AS n FROM trajectories")
    assert json.loads(answer)["n"] == home.rows("SELECT count(*) FROM trajectories")[0][0]


def test_every_start_and_most_of_the_time_is_accounted_for(home):
    starts = dict(home.rows("SELECT process, count(*) FROM process_times WHERE action = 'start' GROUP BY process"))
    [(adapters,)] = home.rows("SELECT count(*) FROM adapters")
    assert starts["trainer"] >= adapters and starts["vllm"] >= 1
    rows = home.rows(
        """
        SELECT epoch(i.finished) - epoch(i.started), sum(t.seconds)
        FROM v_times t JOIN iterations i ON i.campaign = t.campaign AND i.iteration = t.iteration
        WHERE i.campaign = 'demo' AND i.iteration > 0 AND NOT t.control
        GROUP BY ALL
        """
    )
    assert len(rows) == 2
    assert all(known <= wall + 0.1 for wall, known in rows)


def test_the_same_command_again_has_nothing_to_do(home):
    before = home.rows("SELECT id FROM trajectories ORDER BY id"), home.rows("SELECT id FROM datasets ORDER BY id")
    logs = {path: path.stat().st_size for path in (home.root / "logs").glob("*vllm*")}
    output = home.improve(seconds=120)
    assert (
        home.rows("SELECT id FROM trajectories ORDER BY id"),
        home.rows("SELECT id FROM datasets ORDER BY id"),
    ) == before
    assert {path: path.stat().st_size for path in (home.root / "logs").glob("*vllm*")} == logs
    assert "Nothing to do('demo: all " in output


def test_evaluate_measures_the_champion(home):
    output = home.run("eval", "--profile", "demo", *SMALL)
    champion = home.rows("SELECT adapter FROM champions ORDER BY number DESC LIMIT 1") or [(None,)]
    assert (champion[0][0] or "base model") in output.splitlines()[-1] and "%" in output.splitlines()[-1]


def test_the_deployment_runs_by_hand(home):
    home.run("up")
    parameters = {
        "profile": "demo",
        "overrides": {
            **configuration.parse_overrides(SMALL),
            "paths": {"data": str(home.root), "cache": str(home.root / "cache")},
        },
    }
    before = home.rows("SELECT id FROM trajectories ORDER BY id")
    command = [
        sys.executable,
        "-m",
        "prefect",
        "deployment",
        "run",
        "self-improve/demo",
        "--watch",
        "--params",
        json.dumps(parameters),
    ]
    done = subprocess.run(
        command,
        env=home.environment,
        cwd=home.project,  # nothing is set by hand: `up` has written there how Prefect finds its server
        text=True,
        capture_output=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "finished successfully" in done.stdout
    assert home.rows("SELECT id FROM trajectories ORDER BY id") == before
