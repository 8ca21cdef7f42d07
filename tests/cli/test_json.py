"""--json: one document on standard output, the keys that docs/cli.md names, the exit code as without it."""

import json
import os
import re
from pathlib import Path

import pytest
from transformers import Gemma3TextConfig
from typed import mistake

from agentloop.campaign import served
from agentloop.campaign.served import Served
from agentloop.project import CHECKOUT
from agentloop.records import Interval
from agentloop.store import campaigns, champions
from agentloop.store.database import Database

DOCUMENTED = set(re.findall(r"`([a-z_0-9]+)`", (CHECKOUT / "docs" / "cli.md").read_text().partition("## JSON")[2]))
FREE = {"resident"}
"""Keys below which names are data."""


def keys(value, inside: str = "") -> set[str]:
    if isinstance(value, list):
        return set().union(*(keys(each, inside) for each in value)) if value else set()
    if not isinstance(value, dict) or inside in FREE:
        return set()
    own = set() if inside == "bases" else set(value)
    return own.union(*(keys(each, name) for name, each in value.items()))


def document(result: tuple[int, str, str]) -> dict:
    code, output, errors = result
    found = json.loads(output)  # of text behind it this complains
    assert isinstance(found, dict) and keys(found) <= DOCUMENTED, keys(found) - DOCUMENTED
    return found


@pytest.mark.parametrize(
    "words", [["status"], ["champion"], ["select", "--dry-run"], ["select"], ["doctor"], ["prune"]], ids=" ".join
)
def test_the_exit_code_is_the_same_and_all_keys_are_documented(agentloop, on_recorded, words):
    plain = agentloop(*words)
    with_json = agentloop(*words, "--json")
    document(with_json)
    assert with_json[0] == plain[0]
    with pytest.raises(ValueError):
        json.loads(plain[1])


def test_champion_tells_what_the_database_does(agentloop, on_recorded):
    found = document(agentloop("champion", "--json"))
    with Database.open_snapshot(on_recorded / "agentloop.duckdb") as database:
        moves = champions.moves(database, "recorded")
    assert found["champion"] == moves[-1].adapter and found["campaign"] == "recorded"
    assert [(each["number"], each["adapter"], each["by"], each["reason"]) for each in found["moves"]] == [
        (each.number, each.adapter, "gate", each.reason) for each in moves
    ]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", each["moved"]) for each in found["moves"])
    agentloop("rollback", "base", "--reason", 'it said "[no]"')
    found = document(agentloop("champion", "--json"))
    assert found["champion"] is None
    last = found["moves"][-1]
    assert (last["by"], last["verdict"], last["adapter"], last["reason"]) == ("rollback", None, None, 'it said "[no]"')
    # and in the table what looks like markup is not eaten
    assert 'it said "[no]"' in agentloop("champion")[1]


def test_select_tells_what_it_stored_and_wrote(agentloop, on_recorded, tmp_path):
    rows, plot = tmp_path / "rows.jsonl", tmp_path / "funnel.svg"
    dry = document(agentloop("select", "--json", "--dry-run", "selection.per_task=1"))
    assert dry["stored"] is False and dry["export"] is None and dry["plot"] is None
    found = document(agentloop("select", "--json", "selection.per_task=1", "--export", str(rows), "--plot", str(plot)))
    assert found["stored"] is True and found["dataset"] == dry["dataset"] and found["iteration"] == 3
    assert found["export"] == {"file": str(rows), "rows": found["rows"]} and found["plot"] == str(plot)
    assert len(rows.read_text().splitlines()) == found["rows"] > 0 and plot.is_file()
    assert found["funnel"][-1]["left"] == found["rows"] < found["funnel"][0]["left"]
    with Database.open_snapshot(on_recorded / "agentloop.duckdb") as database:
        assert database.execute("SELECT rows FROM datasets WHERE id = ?", [found["dataset"]]) == [(found["rows"],)]


def test_doctor_says_what_is_missing(agentloop, tmp_path):
    (tmp_path / "model").mkdir()
    code, output, _ = agentloop("doctor", "--json", f"model={tmp_path / 'model'}")
    found = document((code, output, ""))
    (model,) = [each for each in found["checks"] if each["what"] == "model"]
    assert code == 1 and found["ok"] is False and model["state"] == "missing" and "bootstrap" in model["remedy"]
    assert all(each["remedy"] is None for each in found["checks"] if each["state"] == "ok")


def test_doctor_tells_the_memory_of_a_training_step(agentloop, tmp_path):
    Gemma3TextConfig(num_hidden_layers=4, vocab_size=1000, layer_types=["full_attention"] * 4).save_pretrained(tmp_path)
    words = ["doctor", "--train", str(tmp_path), "--tokens", "2048", "--budget", "0.5"]
    code, output, _ = agentloop(*words, "--json")
    found = document((code, output, ""))
    budget, *cards = found["budgets"]
    assert code == 0 and found["tokens"] == 2048 and budget["where"] == "--budget" and budget["budget"] == 0.5
    assert [each["where"] for each in cards][:3] == ["a card of 8 GiB", "a card of 24 GiB", "a card of 80 GiB"]
    assert all(each["fits"] for each in cards) and cards[0]["process"] > 0
    assert found["bases"]["nf4"]["least"] < found["bases"]["none"]["least"]
    plain = agentloop(*words)[1]
    assert f"{cards[0]['process']:.2f}" in plain and "fits" in plain
    assert mistake(agentloop("doctor", "--json", "--tokens", "9")).startswith("--tokens: ")


def test_status_tells_success_from_the_stored_evaluations(agentloop, on_recorded):
    found = document(agentloop("status", "--json"))
    assert found["ui"] is None and found["owner"] is None
    (short,) = found["campaigns"]
    campaign = found["campaign"]
    assert short.items() <= campaign.items() and campaign["complete"] is True and campaign["work"] is None
    with Database.open_snapshot(on_recorded / "agentloop.duckdb") as database:
        shares = dict(
            database.execute(
                """
                SELECT coalesce(p.adapter, 'base'), avg(r.solved::INTEGER)
                FROM evaluation_results r JOIN evaluations e ON e.id = r.evaluation JOIN policies p ON p.id = e.policy
                GROUP BY 1
                """
            )
        )
        champion = champions.champion(database, "recorded")
    success = campaign["success"]
    assert campaign["champion"] == champion and success["tasks"] == 80 and success["samples"] == 4
    assert success["base"]["estimate"] == pytest.approx(shares["base"])
    assert success["champion"]["estimate"] == pytest.approx(shares[champion])
    for interval in (Interval(**success[name]) for name in ("base", "champion", "difference")):
        assert interval.low < interval.estimate < interval.high


def test_status_tells_what_is_served(agentloop, on_recorded):
    assert document(agentloop("status", "--json"))["served"] is None
    what = Served("agentloop serve", "recorded", url="http://127.0.0.1:8000")
    with served.held(on_recorded, what):
        found = document(agentloop("status", "--json"))["served"]
        plain = agentloop("status")[1]
    assert found == {"by": what.by, "campaign": "recorded", "process": os.getpid(), "url": what.url}
    expected = f"Served by agentloop serve (campaign recorded, process {os.getpid()}) at http://127.0.0.1:8000/v1\n"
    assert expected in plain


@pytest.mark.parametrize("command", ["status", "champion", "select"])
def test_a_mistake_leaves_standard_output_empty(agentloop, data, command):
    assert "no database here yet" in mistake(agentloop(command, "--json"))


def test_what_is_documented_is_there(agentloop, on_recorded, tmp_path):
    """The other way round: no key is named that nothing prints."""
    Gemma3TextConfig(num_hidden_layers=4, vocab_size=1000, layer_types=["full_attention"] * 4).save_pretrained(tmp_path)
    (on_recorded / "notes.txt").write_text("left alone by prune")
    seen = set()
    for words in (
        ["status"],
        ["champion"],
        ["select", "--dry-run", "--export", str(tmp_path / "rows.jsonl")],
        ["select", "--dry-run", "--recipe", "pairs", "--export", str(tmp_path / "pairs.jsonl")],
        ["doctor"],
        ["doctor", "--train", str(tmp_path)],
        ["prune"],
        ["prune", "--yes"],
    ):
        with served.held(on_recorded, Served("agentloop serve", "recorded")):
            seen |= keys(json.loads(agentloop(*words, "--json")[1]))
    named = set()
    text = (CHECKOUT / "docs" / "cli.md").read_text().partition("## JSON")[2].partition("## How a command")[0]
    for paragraph in text.split("\n\n"):
        if paragraph.startswith("**"):
            named |= set(re.findall(r"`([a-z_0-9]+)`", paragraph))
    of_a_run_at_work = {"since", "step", "control", "done", "of", "unit", "seconds_left", "like"}
    of_a_near_duplicate = {"trajectory", "earlier"}
    assert named - seen <= of_a_run_at_work | of_a_near_duplicate | {"error", "status", "started", "finished"}


def test_a_campaign_that_measured_nothing_has_nulls(agentloop, database, data):
    from agentloop import settings as configuration

    campaigns.register(database, configuration.load(["campaign=new"]))
    database.close()
    campaign = document(agentloop("status", "--json"))["campaign"]
    assert campaign["name"] == "new" and campaign["complete"] is False
    assert [campaign[name] for name in ("champion", "running", "last", "work", "success", "time_left")] == [None] * 6
    assert Path(data).is_dir()
