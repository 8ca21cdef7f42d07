"""`agentloop run --dry-run` says what would happen, and does nothing of it."""

import pytest
from made_by_hand import episode, sum_task
from test_status import SETTINGS, at, complete, play

from agentloop.campaign.lock import owned
from agentloop.store import campaigns, champions
from agentloop.store.database import Database
from agentloop.store.ingest import ingest
from agentloop.store.shards import write_shard

RUN = ("run", "--dry-run", *SETTINGS, "evaluate.tasks=3", "evaluate.samples=2")


@pytest.fixture
def campaign(data):
    return at(data)


@pytest.fixture
def begun(campaign):
    """Registered, and nothing more."""
    campaign.settings.export()
    with campaign.database() as database:
        campaigns.register(database, campaign.settings)
    return campaign


@pytest.fixture
def foretold(agentloop):
    """The last lines of a dry run, behind settings and outline."""

    def foretell(*words: str) -> str:
        code, output, errors = agentloop(*RUN, *words)
        assert code == 0, errors
        head, _, said = output.partition("  control   ")
        assert '"rank": ' in head and "  train     sft, LoRA rank" in head
        return said.partition("\n")[2].rstrip("\n")

    return foretell


def collected(campaign, iteration=1):
    """Episodes of the campaign in its database."""
    path = campaign.settings.paths.shards / f"{iteration}.parquet"
    write_shard(path, [episode(sum_task(iteration))], purpose="collect", campaign=campaign.name, iteration=iteration)
    with campaign.database() as database:
        ingest(database, [path])


def test_before_anything_is_there(foretold, data):
    assert foretold() == f"It begins: there is no database at {data / 'agentloop.duckdb'} yet."
    assert not data.exists()  # and nothing was made


def test_a_new_campaign_beside_others(foretold, begun):
    assert foretold("campaign=another") == "It begins: there is no campaign another yet, but mine."
    assert foretold() == "It begins with iteration 1, by the base model."
    with Database.open_snapshot(begun.settings.paths.database) as database:
        assert campaigns.names(database) == ["mine"]


def test_where_it_continues(foretold, begun):
    expected = ["collect", "train", "canary", "evaluate", "evaluate", "decide", "decide"]
    steps = ["begin", "select", "train", "canary", "measure", "measure", "decide"]
    for number, (name, said) in enumerate(zip(steps, expected, strict=True)):
        if name == "begin":
            begun.begin(1)
        else:
            begun.step(name, 1, [number], lambda: {"decision": "keep"})
        assert foretold() == f"It continues at iteration 1, step {said}."
    begun.finish(1)
    assert foretold() == "It continues with iteration 2, by the base model."


def test_episodes_that_are_there_are_counted(foretold, begun):
    begun.begin(1)
    for number in range(3):
        play(begun, number, iteration=1)
    assert foretold() == "It continues at iteration 1, step collect (3 of 4 shards of episodes are there)."


def test_more_data_is_asked_for(foretold, begun):
    begun.begin(1)
    for number, name in enumerate(["select", "train", "canary", "measure", "measure"]):
        begun.step(name, 1, [number], lambda: {})
    begun.step("decide", 1, [], lambda: {"decision": "needs_more_data"})
    assert foretold("gate.max_tasks=6", "gate.control=false").startswith("It begins again: gate.max_tasks changed")
    assert foretold() == "It continues at iteration 1, step evaluate."


def test_after_a_rollback_the_iteration_begins_again(foretold, begun):
    begun.begin(1)
    begun.step("select", 1, [], lambda: {})
    assert foretold() == "It continues at iteration 1, step train."
    with begun.database() as database:
        database.execute("INSERT INTO champions VALUES ('mine', 1, 1, 'adapter_7', NULL, 'by hand', now()::TIMESTAMP)")
        assert champions.champion(database, "mine") == "adapter_7"
    assert foretold() == "It begins with iteration 1, by adapter_7."


def test_complete_with_nothing_to_do(foretold, begun):
    for iteration in (1, 2, 3):
        complete(begun, iteration, seconds=10, collect=5)
    assert foretold() == "It continues at the control, step select."
    assert foretold("gate.control=false") == (
        "Complete, nothing to do: all 3 iterations are there; the report is written again."
    )
    begun.step("select", 3, ["random"], lambda: {})
    assert foretold() == "It continues at the control, step train."
    assert foretold("iterations=4") == "It continues with iteration 4, by the base model."
    with begun.database() as database:
        database.execute("INSERT INTO evaluation_uses VALUES ('mine', 3, 'control', 'heldout', 'eval_1')")
    assert foretold() == (
        "Complete, nothing to do: all 3 iterations and the control are there; the report is written again."
    )


def test_the_recorded_campaign_is_complete(agentloop, on_recorded):
    code, output, _ = agentloop("run", "--dry-run", "campaign=recorded")
    assert code == 0 and output.splitlines()[-1].startswith("Complete, nothing to do: all 3 iterations and the control")


def test_other_settings_are_refused_as_the_run_would_and_all_are_named(agentloop, begun):
    collected(begun)
    changed = ("training.rank=32", "seed=5", "agent.max_turns=3")
    code, output, errors = agentloop(*RUN, *changed)
    assert code == 2 and "LoRA rank 32" in output and "It " not in output
    assert errors == (
        "error: agent.max_turns: campaign 'mine' began with 6, now it is 3 (seed, training.rank changed as well); set it "
        "back or choose another campaign name\n"
    )
    with begun.database() as database, pytest.raises(Exception) as refused:
        changed_settings = at_with(begun, *changed)
        campaigns.register(database, changed_settings)
    assert errors == f"error: {refused.value}\n"
    # what may change may change
    assert agentloop(*RUN, "serving.port=4321", "collect.concurrency=3")[0] == 0


def at_with(campaign, *words):
    from agentloop import settings as configuration

    paths = campaign.settings.paths
    own = [
        *SETTINGS,
        "evaluate.tasks=3",
        "evaluate.samples=2",
        f"paths.data={paths.data}",
        f"paths.cache={paths.cache}",
    ]
    return configuration.load([*own, *words])


def test_other_settings_before_anything_is_collected_begin_again(foretold, begun):
    begun.begin(1)
    said = foretold("seed=5", "training.rank=32")
    assert (
        said
        == "It begins again: seed, training.rank changed, and nothing has been collected with the earlier settings."
    )


def test_a_run_at_work_is_waited_for(foretold, begun):
    with owned(begun.settings.paths.data, campaign="other", wait=False):
        said = foretold().splitlines()
    assert said[0] == "It begins with iteration 1, by the base model."
    assert said[1].startswith("It waits first: campaign other (process ")


def test_a_base_that_was_judged_broken_is_refused(agentloop, begun):
    judged = {"quantization": "nf4", "bytes": 1, "bytes_in_16bit": 4, "kl": 0.5, "same_choice": 0.5, "tokens": 9}
    half = {"estimate": 0.5, "low": 0.4, "high": 0.6}
    begun.step("judge", 0, [], lambda: judged)
    solved = {"original": half, "quantised": half | {"estimate": 0.1}, "surely_lost": 0.3, "tasks": 9, "samples": 2}
    begun.step("compare", 0, [], lambda: solved)
    code, _, errors = agentloop(*RUN)
    assert code == 2 and errors.startswith("error: training.quantization: nf4 breaks this base: ")
    assert agentloop(*RUN, "training.max_quantization_loss=0.5")[0] == 0


def test_nothing_is_written(agentloop, begun):
    collected(begun)
    data = begun.settings.paths.data
    before = {file: file.read_bytes() for file in data.rglob("*") if file.is_file() and ".snapshot" not in file.name}
    assert agentloop(*RUN)[0] == 0 and agentloop("eval", "--dry-run", *RUN[2:])[0] == 0
    after = {file: file.read_bytes() for file in data.rglob("*") if file.is_file() and ".snapshot" not in file.name}
    locks = {data / "agentloop.duckdb.lock", data / "agentloop.duckdb.turn"}
    assert {name: each for name, each in after.items() if name not in locks} == {
        name: each for name, each in before.items() if name not in locks
    }


def test_an_evaluation_says_whom_it_would_measure(agentloop, on_recorded):
    code, output, errors = agentloop("eval", "--dry-run", "campaign=recorded", "--unseen")
    with Database.open_snapshot(on_recorded / "agentloop.duckdb") as database:
        champion = champions.champion(database, "recorded")
    assert code == 0, errors
    assert output.splitlines()[-1] == (
        f"Measure {champion} and the base model of campaign recorded on 200 unseen tasks x 4 episodes."
    )
