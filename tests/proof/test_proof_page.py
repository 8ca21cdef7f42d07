"""The page of a proof against the proof; in a browser as well where Chromium is installed."""

import copy
import html
import re

import pytest
from browser import EXECUTABLE, Browser

from agentloop.proof import figures, page
from agentloop.proof.short_campaign import NOTHING_TO_LEARN, SOLVED_NOTHING


def text_of(proof, tmp_path) -> str:
    source = page.write(proof, tmp_path / "proof.html").read_text()
    assert not re.search(r"""(src|href)\s*=|url\(|<script""", source)
    body = source.partition("<body>")[2]
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def test_every_figure_is_on_it(on_a_card, tmp_path):
    text = text_of(on_a_card, tmp_path)
    listed = [figure for _, each in figures.measured(on_a_card) for figure in each]
    assert len(listed) > 50
    for figure in listed:
        assert f"{figure.name} {figure.text(on_a_card)} {figure.about}" in text
    for fact in (figures.machine(on_a_card), figures.model(on_a_card), *on_a_card["software"].values()):
        assert fact in text


def test_remarks_come_first(tiny, tmp_path):
    proof = copy.deepcopy(tiny)
    assert "For speed only" not in text_of(proof, tmp_path)
    proof["serving"] |= {"random_weights": True, "answers_nats_per_token": 12.3, "uniform_nats_per_token": 12.5}
    proof["restart"]["canary"] |= {"passed": False, "fault": "<b>off</b>"}
    proof["campaign"] |= {"outcome": SOLVED_NOTHING, "collected": 512, "solved": 0}
    text = text_of(proof, tmp_path)
    for words in (
        "For speed only: the model has random weights",
        "solved none of 512 episodes",
        "agentloop teach",
        "Canary (restart): what is served is not what was trained: <b>off</b>.",
    ):
        assert text.index(words) < text.index("Figures")
    assert not figures.passed(proof) and figures.passed(tiny)


def test_a_base_that_leaves_nothing_to_learn(tiny, tmp_path):
    proof = copy.deepcopy(tiny)
    proof["campaign"] |= {"outcome": NOTHING_TO_LEARN, "collected": 512, "solved": 512}
    assert "Of 512 episodes 512 were solved" in text_of(proof, tmp_path)


def test_without_a_campaign(tiny, tmp_path):
    text = text_of(tiny | {"campaign": None}, tmp_path)
    assert "No campaign was run." in text and "Verdict" not in text and "McNemar" not in text


@pytest.mark.skipif(EXECUTABLE is None, reason="no Chromium here")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 420])
def test_it_opens_without_a_fault_and_fits(on_a_card, tmp_path, width, scheme):
    written = page.write(on_a_card, tmp_path / "proof.html")
    with Browser(tmp_path / "profile") as browser:
        browser.open(written.as_uri(), width, scheme=scheme)
        assert browser.run("document.title") == "tiny: agentloop proof"
        assert browser.run("document.documentElement.scrollWidth") <= width
        assert browser.faults == []
