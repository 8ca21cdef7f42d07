"""Which campaign a command is about, said in each of the ways in which it can be said."""

import json
import os
import tomllib

import pytest
from typed import begin, mistake

from agentloop import settings as configuration
from agentloop.cli import choosing
from agentloop.store import campaigns
from agentloop.store.database import Database


@pytest.fixture
def both(database):
    """Two campaigns, of which `second` is newer; the default, main, is neither."""
    begin(database, "first", "second")
    database.close()


def champion_of(result) -> str:
    code, output, errors = result
    assert code == 0, errors
    return json.loads(output)["campaign"]


@pytest.mark.parametrize(
    ("words", "variables", "file", "chosen"),
    [
        ([], {}, None, "second"),
        (["--campaign", "first"], {}, None, "first"),
        (["campaign=first"], {}, None, "first"),
        (["--campaign", "first", "campaign=first"], {}, None, "first"),
        ([], {"AGENTLOOP_CAMPAIGN": "first"}, None, "first"),
        ([], {}, 'campaign = "first"', "first"),
        (["--campaign", "second"], {"AGENTLOOP_CAMPAIGN": "first"}, 'campaign = "first"', "second"),
        (["campaign=second"], {"AGENTLOOP_CAMPAIGN": "first"}, None, "second"),
    ],
)
def test_the_one_that_is_named_else_the_newest(agentloop, both, tmp_path, monkeypatch, words, variables, file, chosen):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if file:
        (tmp_path / "mine.toml").write_text(file)
        monkeypatch.setenv("AGENTLOOP_CONFIG", str(tmp_path / "mine.toml"))
    assert champion_of(agentloop("champion", "--json", *words)) == chosen


@pytest.mark.parametrize("how", ["word", "variable", "file"])
def test_the_default_that_somebody_names_is_meant(agentloop, database, tmp_path, monkeypatch, how):
    """`main` is what the setting says where nobody says anything."""
    begin(database, "main", "newer")
    database.close()
    assert champion_of(agentloop("champion", "--json")) == "newer"
    if how == "variable":
        monkeypatch.setenv("AGENTLOOP_CAMPAIGN", "main")
    if how == "file":
        (tmp_path / "mine.toml").write_text('campaign = "main"\n')
        monkeypatch.setenv("AGENTLOOP_CONFIG", str(tmp_path / "mine.toml"))
    words = ["campaign=main"] if how == "word" else []
    assert champion_of(agentloop("champion", "--json", *words)) == "main"


def test_what_was_chosen_among_several_is_said_beside_the_output(agentloop, both):
    _, output, errors = agentloop("champion", "--json")
    assert errors == "campaign second, the newest of 2; --campaign NAME looks at another\n"
    assert json.loads(output)["campaign"] == "second"
    assert agentloop("champion", "--campaign", "first")[2] == ""


def test_the_only_one_is_taken_without_a_word(agentloop, database):
    begin(database, "alone")
    database.close()
    code, output, errors = agentloop("champion")
    assert (code, errors) == (0, "") and "campaign alone" in output


@pytest.mark.parametrize(
    "words",
    [
        ["champion"],
        ["status"],
        ["report"],
        ["rollback"],
        ["select", "--dry-run"],
        ["eval", "--dry-run"],
        ["lineage", "adapter_1"],
        ["rescore"],
        ["forget", "--reason", "x", "--task", "task_1"],
    ],
    ids=lambda words: words[0],
)
def test_an_unknown_one_is_one_line_that_names_those_that_exist(agentloop, both, words):
    assert mistake(agentloop(*words, "--campaign", "third")).endswith(
        "no campaign named 'third' (there are: second, first)"
    )


@pytest.mark.parametrize("words", [["champion"], ["report"], ["rollback"], ["status"]], ids=lambda words: words[0])
def test_an_unknown_word_is_as_well(agentloop, both, words):
    assert "no campaign named 'third' (there are: second, first)" in mistake(agentloop(*words, "campaign=third"))


def test_two_names_are_one_too_many(agentloop, both):
    for command in (["champion"], ["eval", "--dry-run"]):
        assert mistake(agentloop(*command, "--campaign", "first", "campaign=second")) == (
            "--campaign: first, and campaign=second as well; name one"
        )


def test_a_database_without_campaigns(agentloop, database):
    database.close()
    assert "no campaign named 'main' (there are: none)" in mistake(agentloop("champion"))


def test_status_goes_by_a_file_that_names_what_is_still_to_come(agentloop, both, monkeypatch):
    monkeypatch.setenv("AGENTLOOP_CAMPAIGN", "planned")
    code, output, _ = agentloop("status", "--json")
    assert code == 0 and json.loads(output)["campaign"]["name"] == "second"
    assert "no campaign named 'planned'" in mistake(agentloop("champion"))


def test_a_bare_report_after_one_campaign(agentloop, on_recorded):
    code, output, errors = agentloop("report")
    assert (code, output, errors) == (0, f"{on_recorded / 'reports' / 'recorded.html'}\n", "")
    assert "recorded" in (on_recorded / "reports" / "recorded.html").read_text()


def test_a_report_reads_tokens_with_the_model_of_its_campaign(agentloop, on_recorded):
    """Whatever model the settings name: another one would say other words."""
    assert agentloop("report", "--profile", "rtx3090", "campaign=recorded")[0] == 0
    assert "model: 'nothing' is not a model directory" in mistake(agentloop("report", "model=nothing"))


def test_a_campaign_is_measured_with_the_settings_that_define_it(agentloop, database, data, monkeypatch):
    own = configuration.load(
        [
            "campaign=own",
            "training.rank=64",
            "agent.describe_tools=false",
            "training.targets=['q_proj', 'v_proj']",
            "evaluate.tasks=7",
            "selection.recipe=replay",
            "gate.guards.database.tasks=9",
            "gate.max_tasks=14",
            "training.learning_rate=1e-05",
        ]
    )
    campaigns.register(database, own)
    database.close()
    with Database.open_snapshot(database.path) as snapshot:
        words = choosing.as_it_was_run(snapshot, "own")
    again = configuration.load(words)
    assert campaigns.defining_settings(again) == campaigns.defining_settings(own)
    assert again.campaign == "own"
    # where nothing is asked for, the settings decide, as for a run
    _, output, _ = agentloop("eval", "--dry-run", "evaluate.tasks=5")
    assert "Measure the base model of campaign main on 5 held-out tasks" in output
    monkeypatch.setenv("AGENTLOOP_SERVING__PORT", "4321")  # may change while a campaign lasts
    code, output, errors = agentloop("eval", "--dry-run", "--campaign", "own")
    assert code == 0 and "Measure the base model of campaign own on 7 held-out tasks x 4 episodes." in output, errors
    assert '"port": 4321' in output and '"rank": 64' in output


def test_profiles_that_name_a_campaign_do_so(agentloop, both):
    named = {
        name: tomllib.loads((configuration.PROFILES / f"{name}.toml").read_text()).get("campaign")
        for name in ("demo", "rtx3090")
    }
    for profile, campaign in named.items():
        assert f"no campaign named '{campaign}'" in mistake(agentloop("champion", "--profile", profile))


def test_only_what_a_campaign_collected_is_scored_again(agentloop, database, collected):
    begin(database, "main", "other")
    database.close()
    _, output, _ = agentloop("rescore", "closeness", "--campaign", "other")
    assert output.splitlines()[1].split()[:3] == ["closeness", "1", "0"]
    _, output, _ = agentloop("rescore", "closeness", "--campaign", "main")
    assert output.splitlines()[1].split()[:3] == ["closeness", "1", "20"]


def test_the_environment_is_left_as_it_was():
    assert not any(name.startswith("AGENTLOOP_CAMPAIGN") for name in os.environ)
