"""Proofs side by side: ratios where the card is the same, and what is not the same is named."""

import copy
import json

import pytest
from command_line import call, refusal

from agentloop.errors import SettingError
from agentloop.project import CHECKOUT
from agentloop.proof import comparison, figures
from agentloop.proof.proof import at, read
from agentloop.proof.sizes import merged

COMMITTED = sorted((CHECKOUT / "docs" / "proofs").glob("*.json"))


def ratios(one, other) -> dict[str, str]:
    return {(section, name): ratio for section, name, *_, ratio in comparison.rows(one, other)}


@pytest.mark.parametrize("file", COMMITTED, ids=lambda file: file.stem)
def test_committed_proofs_can_be_read_and_compared(file):
    proof = read(file)
    assert comparison.differences(proof, proof) == []
    assert set(ratios(proof, proof).values()) <= {"1.00", ""}


def test_a_ratio_is_the_second_over_the_first(tiny):
    faster = copy.deepcopy(tiny)
    faster["training"]["tokens_per_second"] *= 1.5
    found = ratios(tiny, faster)
    assert found["Training", "tokens per second, whole epoch"] == "1.50"
    assert found["Training", "whole epoch"] == "1.00"
    assert found["Training", "batches"] == ""  # a count, of which a ratio would say nothing


def test_no_ratio_across_cards(tiny, on_a_card):
    assert not comparison.same_card(tiny, on_a_card)
    assert set(ratios(tiny, on_a_card).values()) == {""}
    two = copy.deepcopy(on_a_card)
    two["machine"]["cards"] *= 2
    assert not comparison.same_card(on_a_card, two)
    newer_driver = copy.deepcopy(on_a_card)
    newer_driver["machine"] |= {"driver": "590.2", "cpu": "another", "cores": 64}
    assert comparison.same_card(on_a_card, newer_driver)
    other_processor = copy.deepcopy(tiny)
    other_processor["machine"]["cores"] = 64
    assert not comparison.same_card(tiny, other_processor)


def test_a_figure_that_one_lacks_is_shown_without_a_ratio(on_a_card):
    without = on_a_card | {"sleep": None}
    found = {(section, name): texts for section, name, *texts in comparison.rows(without, on_a_card)}
    first, second, ratio = found["Swap, vLLM asleep", "new adapter answers after"]
    assert (first, ratio) == ("–", "") and second.endswith(" s")


def test_what_differs_is_named(tiny):
    other = copy.deepcopy(tiny)
    other["settings"]["training"]["rank"] = 64
    other["model"]["name"] = "another"
    other["training"]["rows"]["source"] = "stored trajectories"
    assert comparison.differences(tiny, other) == [
        "model.name: tiny | another",
        "settings.training.rank: 16 | 64",
        "training.rows.source: synthetic token ids | stored trajectories",
    ]


def test_every_figure_has_a_place_in_a_proof_and_a_text(on_a_card):
    for _, listed in figures.SECTIONS:
        for figure in listed:
            if not figure.place.startswith("campaign."):
                assert at(on_a_card, figure.place) is not None or figure.place in (
                    "restart.held_while_training_gib",
                    "sleep.held_while_training_gib",
                ), figure.place
            assert figure.text(on_a_card)


def test_merged_settings():
    assert merged({"gate": {"alpha": 0.1, "control": True}, "seed": 1}, {"gate": {"control": False}, "seed": 2}) == {
        "gate": {"alpha": 0.1, "control": False},
        "seed": 2,
    }


def test_what_is_no_proof(tmp_path, tiny):
    file = tmp_path / "proof.json"
    for text, complaint in (
        ("{", "not to be read"),
        ("[1]", "not a JSON object"),
        ('{"format": 99}', "not a proof of format 1"),
        (json.dumps({name: value for name, value in tiny.items() if name != "serving"}), "a proof without serving"),
    ):
        file.write_text(text)
        with pytest.raises(SettingError, match=complaint) as raised:
            read(file)
        assert str(raised.value).startswith(f"{file}: ")


def test_refusals_of_the_command(tmp_path):
    data, file = tmp_path / "data", COMMITTED[0]
    assert refusal("proof", "one", "two", data=data) == "error: two: one model is measured at a time"
    assert "no such file" in refusal("proof", "--compare", tmp_path / "none.json", "--output", tmp_path, data=data)
    assert refusal("proof", "--compare", file, data=data) == (
        f"error: --compare: there is no proof in {data / 'proofs' / 'tiny'} yet; agentloop proof makes it"
    )
    assert refusal("proof", "nowhere", data=data).startswith("error: model: 'nowhere' is not a model directory")
    assert refusal("proof", "training.rnk=8", data=data) == "error: training.rnk: unknown setting"
    assert not (data / "proofs").exists()


def test_a_run_at_work_is_not_disturbed(tmp_path):
    from agentloop.campaign.lock import owned

    data = tmp_path / "data"
    data.mkdir()
    with owned(data, campaign="nightly"):
        line = refusal("proof", "--profile", "demo", data=data)
    assert line.startswith(f"error: {data}: owned by another run, campaign nightly")


def test_two_files_beside_each_other(tmp_path, on_a_card):
    (tmp_path / "proof.json").write_text(json.dumps(on_a_card))
    output = call("proof", "--compare", COMMITTED[0], "--output", tmp_path, data=tmp_path / "data")
    assert "No ratios: the card is not the same." in output
    assert any(line.startswith("B: tiny,") and "NVIDIA X, 24 GiB, driver 580.1" in line for line in output)
