"""What goes and what stays of a data root; who is asked for is the database, and nobody's file is touched."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from data_root import CHOSEN, EPISODES, Nights, old
from made_by_hand import episode, sum_task

from agentloop.campaign.prune import prune
from agentloop.errors import SettingError, StoreError
from agentloop.housekeeping import place, plan, usage
from agentloop.housekeeping.rules import ShardChoice
from agentloop.store import adapters, datasets, journal, lineage, pruned, training_runs
from agentloop.store.database import Database
from agentloop.store.shards import Footer

EVERYTHING = ShardChoice(campaign="nights")


def going(campaign: Nights, kind: str, **options) -> set[str]:
    (found,) = [each for each in plan.look(campaign.settings, **options).kinds if each.name == kind]
    return {str(each.path.relative_to(campaign.data)) for each in found.going}


def test_adapters_go_that_no_champion_descends_from(campaign):
    grandparent = campaign.pass_one()
    parent = campaign.pass_one(parent=grandparent.id)
    loser = campaign.pass_one()
    champion = campaign.pass_one(champion=True, parent=parent.id)
    later = [campaign.pass_one() for _ in range(3)]  # on rows that the champion produced
    campaign.age(4)
    assert going(campaign, "adapters") == set()
    campaign.age(2)
    assert going(campaign, "adapters") == {f"adapters/{loser.id}"}
    with campaign.database() as database:
        database.execute("UPDATE iterations SET finished = NULL WHERE iteration = 3")
    assert going(campaign, "adapters") == set()
    assert {champion.id, *(each.id for each in later)} <= {
        each.name for each in campaign.settings.paths.adapters.iterdir()
    }


def test_a_producer_of_a_champions_rows_stays(campaign):
    first = campaign.pass_one(champion=True)
    campaign.pass_one(champion=True)
    with campaign.database() as database:  # as if the first had never reigned, and only produced rows
        database.execute("DELETE FROM champions WHERE adapter = ?", [first.id])
        database.execute("UPDATE iterations SET champion = NULL")
    for _ in range(4):
        campaign.pass_one()
    campaign.age(6)
    assert f"adapters/{first.id}" not in going(campaign, "adapters")


def test_files_of_a_training_go_when_it_is_recorded(campaign):
    adapter = campaign.pass_one()
    checkpoint = campaign.settings.paths.checkpoints / f"{adapter.id}.safetensors"
    checkpoint.write_bytes(b"c")
    own = {f"checkpoints/{adapter.id}{end}" for end in (".json", ".metrics.jsonl", ".safetensors")}
    rows = f"datasets/{adapter.dataset}.safetensors"
    assert going(campaign, "training") == {*own, rows}
    with campaign.database() as database:
        # another adapter is being trained on the same rows
        training_runs.begin(
            database, "adapter_0123456789abcdef", campaign="nights", iteration=2, dataset=adapter.dataset
        )
    assert going(campaign, "training") == own
    with campaign.database() as database:
        database.execute("UPDATE training_runs SET finished = NULL")
    assert going(campaign, "training") == set()


def test_logs_go_by_age_and_by_size(campaign):
    for _ in range(3):
        campaign.pass_one()
        campaign.age(2)
    logs = going(campaign, "logs")
    assert len(logs) == 4 and all(
        "000001" in each or "adapter_" in each for each in logs
    )  # of the first night, 6 days ago
    retention = campaign.settings.retention.model_copy(update={"log_days": 100, "log_gib": 60_000 / 2**30})
    campaign.settings = campaign.settings.model_copy(update={"retention": retention})
    assert len(going(campaign, "logs")) > len(logs)
    assert not any("000003" in each for each in going(campaign, "logs"))


def test_what_a_process_has_open_stays(campaign):
    log = campaign.settings.paths.logs / "worlds.log"
    log.write_text("somebody writes here")
    old(log, 100)
    assert going(campaign, "logs") == {"logs/worlds.log"}
    with open(log, "a"):
        assert going(campaign, "logs") == set()


def test_the_log_of_a_running_server_loses_all_but_its_end(campaign):
    log = campaign.settings.paths.logs / "prefect-server.log"
    with open(log, "ab") as writer:
        writer.write(b"o" * (20 << 20) + b"newest\n")
        writer.flush()
        before = plan.look(campaign.settings).bytes
        done = prune(campaign.settings)
        writer.write(b"after\n")
    assert before > 15 << 20 and done["bytes"] > 15 << 20
    text = log.read_bytes()
    assert len(text) <= (1 << 20) + len(b"after\n") and text.endswith(b"newest\nafter\n")


def test_leftovers_of_dead_processes(campaign):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    half = campaign.settings.paths.shards / f".shard_1.parquet.agentloop.{dead.pid}.tmp"
    half.write_text("half")
    mine = campaign.settings.paths.shards / f".shard_2.parquet.agentloop.{os.getpid()}.tmp"
    mine.write_text("half")
    again = campaign.data / "reproduce-abcd1234"
    again.mkdir()
    assert going(campaign, "temporary") == {str(half.relative_to(campaign.data))}
    old(again, 2)
    prune(campaign.settings)
    assert not half.exists() and not again.exists() and mine.exists()


def test_derived_weights_go_when_their_base_is_gone(campaign):
    cache = campaign.settings.paths.cache
    from agentloop.model_directory.fingerprint import base_fingerprint

    there = base_fingerprint(campaign.settings.model_directory(), cache)
    for base in (there, "base_0123456789abcdef"):
        (cache / "dequantised" / f"{base}-1").mkdir(parents=True)
        (cache / "dequantised" / f"{base}-1" / "model.safetensors").write_text("w")
        (cache / "nf4").mkdir(exist_ok=True)
        (cache / "nf4" / f"{base}-1.safetensors").write_text("w")
    (cache / "inductor" / "ab").mkdir(parents=True)
    (cache / "inductor" / "ab" / "kernel.so").write_text("c")
    (cache / "made" / "textworld").mkdir(parents=True)
    (cache / "made" / "textworld" / "game_1.zip").write_text("g")
    (cache / "hf").mkdir()
    (cache / "hf" / "mine").write_text("a user's")

    def names() -> set[str]:
        (caches,) = [each for each in plan.look(campaign.settings).kinds if each.name == "caches"]
        return {str(each.path.relative_to(cache)) for each in caches.going}

    assert names() == set()
    old(cache, 31)
    gone = "base_0123456789abcdef-1"
    assert names() == {f"dequantised/{gone}", f"nf4/{gone}.safetensors", "inductor/ab", "made/textworld/game_1.zip"}


def test_others_files_are_left_alone_and_named(campaign, tmp_path):
    campaign.pass_one()
    (campaign.data / "notes.txt").write_text("mine")
    (campaign.settings.paths.logs / "thoughts.log").write_text("mine")
    (campaign.settings.paths.adapters / "adapter_0123456789abcdef").mkdir()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("mine")
    (campaign.data / "tensorboard" / "adapter_00112233445566ff").symlink_to(outside)
    before = campaign.files()
    old(campaign.data / "notes.txt", 1000)
    told = {path.name: reason for path, reason in plan.look(campaign.settings).left}
    assert told == {
        "notes.txt": "not agentloop's",
        "thoughts.log": "not agentloop's",
        "adapter_0123456789abcdef": "unknown to the database",
        "adapter_00112233445566ff": "a link, which is not followed",
    }
    prune(campaign.settings, shards=EVERYTHING)
    assert {"notes.txt", "logs/thoughts.log"} <= before.keys() & campaign.files().keys()
    assert (outside / "precious").read_text() == "mine"


def test_no_link_leads_out_of_the_data_root(campaign, tmp_path):
    adapter = campaign.pass_one()
    elsewhere = tmp_path / "elsewhere"
    campaign.settings.paths.checkpoints.rename(elsewhere)
    campaign.settings.paths.checkpoints.symlink_to(elsewhere)
    assert going(campaign, "training") == {f"datasets/{adapter.dataset}.safetensors"}
    prune(campaign.settings)
    assert (elsewhere / f"{adapter.id}.json").exists()


def test_what_became_another_one_since_is_not_removed(tmp_path):
    folder = tmp_path / "logs"
    folder.mkdir()
    (folder / "a.log").write_text("a")
    (entry,) = place.entries(tmp_path, "logs")
    (folder / "b.log").write_text("b")
    (folder / "b.log").replace(folder / "a.log")
    assert not place.remove(entry)
    (folder / "a.log").unlink()
    (folder / "a.log").symlink_to(tmp_path)
    assert not place.remove(entry) and tmp_path.is_dir()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file to another user")
def test_another_users_files_stay(campaign):
    adapter = campaign.pass_one()
    file = campaign.settings.paths.checkpoints / f"{adapter.id}.json"
    os.chown(file, 65534, 65534)
    assert f"checkpoints/{file.name}" not in going(campaign, "training")
    assert (file, "another user's, or holds what is") in plan.look(campaign.settings).left


def test_shards_keep_the_rows_that_datasets_hold(campaign):
    adapter = campaign.pass_one()
    campaign.pass_one()
    assert going(campaign, "shards") == set()
    with Database.open_snapshot(campaign.settings.paths.database) as database:
        before = [(row.trajectory, row.token_ids.tolist()) for row in datasets.rows(database, adapter.dataset)]
        measured = database.execute("SELECT id, success FROM evaluations ORDER BY id")
        solved = database.execute("FROM v_solved ORDER BY ALL")
    done = prune(campaign.settings, shards=EVERYTHING)
    assert {each["kind"]: each["entries"] for each in done["kinds"]}["shards"] == 2
    with Database.open_snapshot(campaign.settings.paths.database) as database:
        assert [(row.trajectory, row.token_ids.tolist()) for row in datasets.rows(database, adapter.dataset)] == before
        assert database.execute("SELECT id, success FROM evaluations ORDER BY id") == measured
        assert database.execute("FROM v_solved ORDER BY ALL") == solved
        ((left, shards),) = database.execute("SELECT count(*), count(DISTINCT shard) FROM v_tokens")
        assert (left, shards) == (2 * CHOSEN + 2 * 4, 4)
        assert all(Path(path).is_file() for (path,) in database.execute("SELECT DISTINCT shard FROM v_tokens"))
        rest = database.execute("SELECT id FROM trajectories WHERE id NOT IN (SELECT trajectory FROM v_tokens)")
        assert len(rest) == 2 * (EPISODES - CHOSEN)
        with pytest.raises(Exception, match="the file was pruned"):
            datasets.tokens(database, [rest[0][0]])
    assert going(campaign, "shards", shards=EVERYTHING) == set()  # nothing but chosen rows is left


def test_a_campaign_that_is_not_there(campaign):
    with pytest.raises(SettingError, match="no campaign named 'nosuch' .there are: nights"):
        plan.look(campaign.settings, shards=ShardChoice(campaign="nosuch"))


def test_while_a_run_is_at_work_nothing_is_removed(campaign):
    from agentloop.campaign.lock import owned

    adapter = campaign.pass_one()
    before = campaign.files()
    with (
        owned(campaign.data, campaign="nights"),
        pytest.raises(StoreError, match="owned by another run, campaign nights"),
    ):
        prune(campaign.settings, wait=False)
    assert before.keys() <= campaign.files().keys()
    assert f"checkpoints/{adapter.id}.json" in going(campaign, "training")  # to look is always possible


def test_lineage_tells_what_was_pruned_and_a_training_puts_it_back(campaign):
    loser = campaign.pass_one()
    for _ in range(3):
        campaign.pass_one()
    campaign.age(6)
    size = sum(each.stat().st_size for each in (campaign.settings.paths.adapters / loser.id).iterdir())
    prune(campaign.settings)
    with campaign.database() as database:
        told = lineage.lineage(database, loser.id)["pruned"]
        assert told["bytes"] >= size and len(told["digest"]) == 64
        with pytest.raises(Exception, match=f"`agentloop reproduce {loser.id}` makes them again"):
            adapters.weights(database, loser.id)
        assert training_runs.metrics(database, loser.id) == [{"step": 1, "loss": 0.5, "tokens": 7.0}]
        folder = campaign.settings.paths.adapters / loser.id
        folder.mkdir()
        adapters.save(database, loser, path=folder, campaign="other", iteration=1)
        assert pruned.adapters(database) == {} and adapters.weights(database, loser.id) == folder


def test_thirty_nights_are_bounded(campaign):
    """Shards and the database's rows are evidence and grow; everything else stays as it is from some night on."""
    seen = []
    campaign.pass_one(champion=True)
    for _ in range(29):
        campaign.age(1)
        campaign.pass_one()
        prune(campaign.settings)
        others = {
            name: size
            for name, size in campaign.files().items()
            if not name.startswith(("shards/", "agentloop.duckdb"))
        }
        others = {name: size for name, size in others.items() if not name.endswith(".snapshot")}
        seen.append((len(others), sum(others.values())))
    assert seen[-1][0] == seen[12][0] and seen[-1][1] == seen[12][1]
    names = campaign.files()
    assert len([name for name in names if name.endswith(".snapshot")]) <= 2
    assert (
        sum(name.endswith("adapter_model.safetensors") for name in names) == 6
    )  # 5 of the last days, and the champion
    with campaign.database() as database:
        assert database.execute("SELECT count(*) FROM adapters") == [(30,)]
        assert len(pruned.adapters(database)) == 24
    assert usage.of(campaign.settings).night > 0


def test_journals_go_that_nobody_goes_on_with(campaign):
    """Those of written shards, of finished iterations, and old ones; a killed collection's of last night stays."""
    campaign.pass_one()
    shards = campaign.settings.paths.shards
    there = next(shards.glob("shard_*.parquet"))
    episodes = [episode(sum_task(number)) for number in range(3)]
    names = [each.id for each in episodes]

    def killed(shard: str, iteration: int) -> str:
        about = Footer(shard, len(names), "nights", iteration, "collect")
        with journal.opened(shards / f"{shard}.parquet", about, names) as kept:
            kept.append(episodes[0])
        return f"shards/{shard}.journal"

    written = killed(there.stem, campaign.night + 1)
    finished = killed("shard_0123456789abcdef", campaign.night)
    pending = killed("shard_00112233445566ff", campaign.night + 1)
    damaged = shards / "shard_0123456789abcdef.journal.2.damaged"
    damaged.write_text("what it was")
    assert going(campaign, "journals") == {written, finished}
    with journal.opened(
        shards / "shard_0123456789abcdef.parquet", Footer("shard_0123456789abcdef", 3, "nights", 1, "collect"), names
    ):
        assert going(campaign, "journals") == {written}  # somebody is at work on it
    campaign.age(15)
    assert going(campaign, "journals") == {written, finished, pending, f"shards/{damaged.name}"}
    assert plan.look(campaign.settings).left == ()
    prune(campaign.settings)
    assert [each.suffix for each in shards.iterdir()] == [".parquet"] * 2
