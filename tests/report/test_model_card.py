"""The card of an exported adapter: a header that the hub reads, and figures that are the store's."""

import json
import re
import shutil
from dataclasses import replace

import pytest
from huggingface_hub import ModelCard
from recorded_campaign import ARITHMETIC, CAMPAIGN, recorded, tokenizer  # noqa: F401

from agentloop.campaign import export, results
from agentloop.campaign.campaign import Campaign
from agentloop.project import CHECKOUT
from agentloop.records import NF4
from agentloop.report import model_card
from agentloop.rollout.prompt import PromptFormat
from agentloop.settings import Settings
from agentloop.store import adapters, campaigns, champions
from agentloop.store.database import Database


@pytest.fixture
def origin(recorded, tmp_path):  # noqa: F811
    """Everything about an adapter of the recorded campaign; of the champion by default."""
    model = tmp_path / "gemma-3n-E2B-it"
    shutil.copytree(CHECKOUT / "models" / "tiny", model)
    (model / "recipe.json").unlink()

    def make(chosen=None, repository="google/gemma-3n-E2B-it"):
        with Database.open(recorded.database, read_only=True) as database:
            stored = campaigns.settings_json(database, CAMPAIGN)
            settings = Settings(**stored | {"model": "tiny", "selection": {"benchmarks": "/home/somebody/prompts.txt"}})
            campaign = Campaign(settings, ARITHMETIC, model, "base_0123456789abcdef", given=NF4)
            campaign.__dict__["prompt"] = PromptFormat(tokenizer(), describe_tools=True)
            adapter = chosen(database) if chosen else champions.champion(database, CAMPAIGN)
            return export.origin_of(database, campaign, adapters.load(database, adapter), repository)

    return make


def read(text):
    card = ModelCard(text)
    return card.data, card.text


def test_the_hub_reads_the_header(origin):
    for merged in (False, True):
        data, _ = read(model_card.text(origin(), form="merged" if merged else "adapter"))
        assert (data.base_model, data.license) == ("google/gemma-3n-E2B-it", "gemma")
        assert data.library_name == ("transformers" if merged else "peft")
        assert data.base_model_relation == ("finetune" if merged else "adapter")
        [result] = data.eval_results
        assert (result.dataset_name, result.metric_name) == ("arithmetic", "success")


def test_the_figures_are_those_of_the_report(origin, recorded):  # noqa: F811
    made = origin()
    data, text = read(model_card.text(made, form="adapter"))
    with Database.open(recorded.database, read_only=True) as database:
        gain = results.headline(database, CAMPAIGN).gain
        verdicts = database.execute("SELECT reason FROM verdicts WHERE adapter = ?", [made.adapter])
    assert data.eval_results[0].metric_value == round(gain.after_success.estimate, 4)
    shown = re.search(r"\| this \| ([\d.]+) % \| ([\d.]+) % to ([\d.]+) % \|", text)
    expected = (gain.after_success.estimate, gain.after_success.low, gain.after_success.high)
    assert [float(figure) for figure in shown.groups()] == pytest.approx([100 * each for each in expected], abs=0.051)
    assert f"{len(gain.after.tasks)} tasks × 4 episodes" in text
    assert verdicts and all(reason in text for (reason,) in verdicts)
    assert "A control trained on as many randomly chosen episodes" in text
    assert "It is the champion of the campaign `recorded`." in text


def test_data_and_lineage_are_told(origin):
    made = origin()
    _, text = read(model_card.text(made, form="adapter"))
    story = made.lineage
    for told in (
        story["base"],
        story["dataset"]["id"],
        f"{story['dataset']['rows']:,} episodes",
        "version 1",
        *story["ancestors"],
    ):
        assert told in text
    assert story["ancestors"], "a campaign of several iterations learns of its own earlier episodes"
    assert "`recorded`, iteration 3, as challenger" in text
    assert "agentloop reproduce adapter_" in text
    assert "````text\n{question}\n````" in text


def test_no_folder_of_this_machine_is_told(origin, tmp_path):
    text = model_card.text(origin(), form="adapter")
    assert "selection.benchmarks=prompts.txt" in text
    assert "/home/somebody" not in text and str(tmp_path) not in text


def test_one_that_is_no_champion_says_so(origin):
    def control(database):
        return database.execute("SELECT adapter FROM candidates WHERE role = 'control'")[0][0]

    def kept(database):
        promoted = "SELECT adapter FROM champions WHERE adapter IS NOT NULL"
        return database.execute(
            f"SELECT adapter FROM candidates WHERE role = 'challenger' AND adapter NOT IN ({promoted})"
        )[0][0]

    assert "It is a control: trained on randomly chosen episodes" in model_card.text(origin(control), form="adapter")
    assert "It was never promoted." in model_card.text(origin(kept), form="adapter")


def test_without_a_repository_there_is_none_in_the_header(origin):
    data, text = read(model_card.text(origin(repository=None), form="adapter"))
    assert data.base_model is None
    assert "is on no hub that is known here" in text


def test_our_own_weights_are_under_no_terms_of_googles(origin):
    data, text = read(model_card.text(replace(origin(), gemma=False), form="adapter"))
    assert data.license is None and "Terms of Use" not in text
    _, text = read(model_card.text(origin(), form="merged"))
    assert model_card.TERMS in text


def test_what_was_not_measured_is_not_stated(origin):
    unmeasured = replace(origin(), gain=None, families=(), over_control=None)
    data, text = read(model_card.text(unmeasured, form="adapter"))
    assert data.eval_results is None
    assert "no gain can be stated" in text
    assert json.dumps(None) not in text
