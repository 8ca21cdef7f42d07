"""The page against the database it was written from; in a browser as well where Chromium is installed."""

import dataclasses
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from browser import EXECUTABLE, Browser
from recorded_campaign import CAMPAIGN, HOSTILE, Recorder, decode, recorded  # noqa: F401  (a fixture)

from agentloop.campaign import results
from agentloop.errors import ShardError, StoreError
from agentloop.records import GuardResult, Interval
from agentloop.report import page, sample
from agentloop.report.comparison import Headline, percent, points
from agentloop.store import campaigns, champions, meetings, verdicts
from agentloop.store.database import Database
from agentloop.store.meetings import Meeting
from agentloop.store.shards import read_shard

VOID = {"meta", "input", "br", "link", "img", "hr"}


class Page(HTMLParser):
    """Elements, addresses and the texts of scripts; balance is checked on the way."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.scripts: dict[str | None, str] = {}
        self.words: list[str] = []
        self.policy = ""
        self.feed(self.source)
        self.close()
        assert not self.open, f"never closed: {self.open}"
        self.text = " ".join(" ".join(self.words).split())
        self.data = json.loads(self.scripts["data"])

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.ids += [values["id"]] if "id" in values else []
        self.links += [values[name] for name in ("src", "href", "data", "action") if name in values]
        if values.get("http-equiv") == "Content-Security-Policy":
            self.policy = values["content"]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self.current = values.get("id")
            self.scripts[self.current] = ""

    def handle_startendtag(self, tag, attributes):
        pass  # <path …/> of a figure: opens and closes nothing

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[self.current] += data
        elif self.open and self.open[-1] != "style":
            self.words.append(data)


def write(recorder: Recorder, output: Path, **options) -> Page:
    with Database.open(recorder.database, read_only=True) as database:
        return Page(
            page.write(
                database, CAMPAIGN, results.headline(database, CAMPAIGN), recorder.root / "shards", output, **options
            )
        )


@pytest.fixture(scope="module")
def written(recorded, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("page") / "recorded.html"
    write(recorded, path, decode=decode)
    return path


def test_the_page_is_whole_and_asks_nobody_for_anything(written):
    found = Page(written)
    assert len(found.ids) == len(set(found.ids))
    assert {link[1:] for link in found.links if link.startswith("#")} <= set(found.ids)
    assert all(link.startswith("#") for link in found.links)
    assert found.policy.startswith("default-src 'none'")
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org/2000/svg)", found.source)


def test_what_a_model_wrote_is_never_markup(written):
    found = Page(written)
    assert any(HOSTILE in turn["text"] for each in found.data["trajectories"] for turn in each["turns"])
    assert set(found.scripts) == {"data", None}
    assert HOSTILE not in found.source


def test_the_headline_and_the_iterations_are_the_databases(recorded, written):
    text = Page(written).text
    with Database.open(recorded.database, read_only=True) as database:
        rows = results.iterations(database, CAMPAIGN)
        (base,), (champion,) = database.execute(
            """
            SELECT avg(r.solved::INTEGER) FROM evaluation_results r JOIN evaluations e ON e.id = r.evaluation
            JOIN policies p ON p.id = e.policy
            WHERE p.adapter IS NULL OR p.adapter = (SELECT arg_max(adapter, number) FROM champions)
            GROUP BY p.adapter ORDER BY p.adapter NULLS FIRST
            """
        )
    assert f"Base model {percent(base)}" in text and f"Champion {percent(champion)}" in text
    assert f"Champion over base {points(champion - base)} points" in text
    for row in rows:
        assert row.adapter in text
        assert f"{percent(row.after.estimate)} ({100 * row.after.low:.1f} to {100 * row.after.high:.1f})" in text


def test_funnel_canaries_flips_and_settings_are_the_databases(recorded, written):
    text = Page(written).text
    with Database.open(recorded.database, read_only=True) as database:
        ((funnel,),) = database.execute(
            "SELECT s.funnel FROM selections s JOIN v_iterations v ON v.dataset = s.dataset WHERE v.iteration = 2"
        )
        flips = database.execute("SELECT flip, count(*) FROM v_flips WHERE iteration = 3 GROUP BY flip ORDER BY flip")
        datasets = database.execute("SELECT id FROM datasets")
    assert " → ".join(f"{left:,} {rule}" for rule, left in json.loads(funnel)) in text
    for flip, times in flips:
        assert f"iteration 3: {times} {flip}" in text
    for (dataset,) in datasets:
        assert dataset in text
    assert "training.learning_rate 0.0002" in text and "0.00041" in text


def test_the_embedded_trajectories_are_those_of_the_shards(recorded, written):
    data = Page(written).data
    stored = {each.id: each for shard in (recorded.root / "shards").glob("*.parquet") for each in read_shard(shard)}
    with Database.open(recorded.database, read_only=True) as database:
        success = dict(database.execute("SELECT trajectory, success FROM v_success"))
    assert len(data["trajectories"]) == sample.MOST_TRAJECTORIES < len(stored)
    for each in data["trajectories"]:
        trajectory = stored[each["id"]]
        assert each["success"] == success[each["id"]] and each["solved"] == (success[each["id"]] >= 0.5)
        assert each["ids"] == list(trajectory.token_ids)
        assert each["mask"] == "".join("01"[own] for own in trajectory.mask)
        logprobs = [value for value, own in zip(trajectory.logprobs, trajectory.mask, strict=True) if own]
        assert each["logprobs"] == pytest.approx([1000 * value for value in logprobs], abs=0.51)
        assert [turn["text"] for turn in each["turns"]] == [turn.text for turn in trajectory.turns]
        said = "".join(data["vocabulary"][str(token)] for token in each["ids"])
        assert all(turn.text in said for turn in trajectory.turns)


def test_flips_come_first_with_both_sides(recorded, written):
    data = Page(written).data
    by_id = {each["id"]: each for each in data["trajectories"]}
    assert len(data["flips"]) == sample.MOST_FLIPS
    for flip in data["flips"]:
        before, after = by_id[flip["champion"]], by_id[flip["challenger"]]
        assert (before["task"], before["sample"]) == (after["task"], after["sample"]) == (flip["task"], flip["sample"])
        assert (before["solved"], after["solved"]) == ((False, True) if flip["flip"] == "gained" else (True, False))
    assert {flip["iteration"] for flip in data["flips"]} == {1, 2, 3}


def test_the_sample_is_bounded_and_always_the_same(recorded, tmp_path):
    pages = [write(recorded, tmp_path / f"{name}.html", most_trajectories=40) for name in "ab"]
    assert pages[0].data == pages[1].data
    with Database.open(recorded.database, read_only=True) as database:
        ((total,),) = database.execute("SELECT count(DISTINCT trajectory) FROM collected")
    assert len(pages[0].data["trajectories"]) == 40
    assert f"40 of the campaign's {total:,} trajectories" in pages[0].text
    assert f"The other {total - 40:,}" in pages[0].text
    assert {each["solved"] for each in pages[0].data["trajectories"]} == {True, False}
    assert pages[0].data["vocabulary"] == {}


def test_tokens_are_bounded_too(recorded, tmp_path, monkeypatch):
    monkeypatch.setattr(sample, "MOST_TOKENS", 3000)
    kept = write(recorded, tmp_path / "a.html").data["trajectories"]
    assert 0 < sum(each["tokens"] for each in kept) <= 3000


def test_a_campaign_at_its_beginning_has_a_page(tmp_path):
    recorder = Recorder(tmp_path, training_tasks=4, heldout_tasks=4)
    with Database.open(recorder.database) as database:
        campaigns.register(database, recorder.settings)
    assert write(recorder, tmp_path / "registered.html").data["trajectories"] == []
    with Database.open(recorder.database) as database:
        campaigns.begin_iteration(database, CAMPAIGN, 1, champion=None)
        recorder.roll_out(database, None, recorder.heldout, 0.5, 1, "evaluate")
    found = write(recorder, tmp_path / "begun.html")
    assert "All 16 trajectories of the campaign." in found.text and "no gain can be stated" in found.text
    with Database.open(recorder.database, read_only=True) as database, pytest.raises(StoreError, match="no-such"):
        page.write(
            database, "no-such", Headline(None, None, None, None, (), None, None), tmp_path, tmp_path / "none.html"
        )
    assert not (tmp_path / "none.html").exists()


def test_shards_that_moved_are_found_and_lost_ones_left_out(tmp_path):
    recorder = Recorder(tmp_path / "data", training_tasks=4, heldout_tasks=4)
    with Database.open(recorder.database) as database:
        campaigns.register(database, recorder.settings)
        recorder.roll_out(database, None, recorder.heldout, 0.5, 1, "evaluate")
    shutil.move(recorder.root / "shards", tmp_path / "moved")
    assert not any("ids" in each for each in write(recorder, tmp_path / "lost.html").data["trajectories"])
    with Database.open(recorder.database, read_only=True) as database:
        found = Page(
            page.write(
                database, CAMPAIGN, results.headline(database, CAMPAIGN), tmp_path / "moved", tmp_path / "found.html"
            )
        )
        assert all(each["ids"] for each in found.data["trajectories"])
        (shard,) = (tmp_path / "moved").glob("*.parquet")
        shard.write_bytes(shard.read_bytes()[:-100])
        with pytest.raises(ShardError, match=shard.name):
            page.write(
                database, CAMPAIGN, results.headline(database, CAMPAIGN), tmp_path / "moved", tmp_path / "damaged.html"
            )
    assert not (tmp_path / "damaged.html").exists()


def test_looks_guards_and_rollbacks_are_shown_and_flips_counted_once(tmp_path):
    recorder = Recorder(tmp_path, training_tasks=6, heldout_tasks=8)
    recorder.record(iterations=1, control=False)
    with Database.open(recorder.database) as database:
        ((first, adapter),) = database.execute("SELECT id, adapter FROM verdicts")
        flips = database.execute("SELECT flip, count(*) FROM v_flips GROUP BY flip ORDER BY flip")
        guard = GuardResult("database", "eval_1", "eval_2", Interval(-0.01, -0.08, 0.06), -0.1, 0.05)
        about = {"campaign": CAMPAIGN, "iteration": 1}
        seen = dataclasses.replace(
            verdicts.load(database, first),
            decision="promote",
            look=2,
            looks=3,
            evidence=312.4,
            needed=100.0,
            guards=(guard,),
        )
        champions.promote(
            database, adapter=adapter, verdict=verdicts.save(database, seen, adapter=adapter, **about), **about
        )
        champions.rollback(database, CAMPAIGN, None, reason="it swears")
    text = write(recorder, tmp_path / "page.html").text
    assert "2 of 3" in text and "312, 100" in text.replace("\xa0", " ") and "database: over −10.0, asked −5.0" in text
    assert "at database it was only asked whether a challenger got worse" in text
    assert "The base model is champion because somebody went back to it: it swears." in text
    assert "Who was champion" in text and "rollback it swears" in text
    assert flips and all(f"iteration 1: {times} {flip}" in text for flip, times in flips)


def test_the_champions_meetings_are_shown_with_the_rate_of_false_promotions(tmp_path):
    recorder = Recorder(tmp_path, training_tasks=6, heldout_tasks=8)
    recorder.record(iterations=1, control=False)
    with Database.open(recorder.database) as database:
        ((before, after),) = database.execute("SELECT champion, challenger FROM verdicts")
        for kind, evidence in (("base", 0.02), ("itself", 3.0), ("itself", 104.0)):
            difference = Interval(-0.2, -0.3, -0.1)
            met = Meeting(1, kind, 2, after, before, difference, evidence, 100.0, evidence >= 100, "they met")
            meetings.save(database, CAMPAIGN, met)
    text = write(recorder, tmp_path / "page.html").text.replace("\xa0", " ")
    assert "base model 8 −20.0 (" in text and "0.02, 100 not better" in text and "104, 100 better" in text
    assert "The champion met itself 2 times; in 1 of them the evidence called it better than itself." in text


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if EXECUTABLE is None:
        pytest.skip("Chromium is not installed")
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


def button(text: str) -> str:
    return f"[...document.querySelectorAll('button')].find(each => each.textContent.startsWith({json.dumps(text)}))"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 420])
def test_it_opens_without_a_fault_and_fits(browser, written, width, scheme):
    browser.faults.clear()
    browser.open(written.as_uri(), width, scheme=scheme)
    assert browser.run("document.title") == f"{CAMPAIGN}: agentloop report"
    browser.run("document.querySelectorAll('details').forEach(each => each.open = true)")
    browser.run(f"{button('Next flip')}.click(), {button('Tokens')}.click()")
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run("document.querySelectorAll('.pane').length") == 2
    assert (
        browser.run(
            """[...document.querySelectorAll('main *')].filter(each => {
            const box = each.getBoundingClientRect();
            const outside = box.right > innerWidth + 1 || box.left < -1;
            return box.width && outside && !each.closest('.scroll') && !each.closest('svg');
        }).map(each => each.outerHTML.slice(0, 80))"""
        )
        == []
    )
    assert browser.faults == []


def test_the_viewer_filters_searches_and_compares(browser, written):
    data = Page(written).data
    browser.faults.clear()
    browser.open(written.as_uri(), 1280)
    shown = "document.querySelectorAll('.list button').length"
    assert browser.run(shown) == len(data["trajectories"])

    def choose(label: str, value: str) -> None:
        browser.run(f"""(() => {{
            const select = [...document.querySelectorAll('.filters label')]
                .find(each => each.firstChild.textContent === {json.dumps(label)}).querySelector('select');
            select.value = {json.dumps(value)}; select.dispatchEvent(new Event('change'));
        }})()""")

    choose("Outcome", "true")
    choose("Purpose", "collect")
    wanted = [each for each in data["trajectories"] if each["solved"] and each["purpose"] == "collect"]
    assert 0 < browser.run(shown) == len(wanted)
    choose("Outcome", "")
    choose("Purpose", "")
    browser.run("document.querySelector('input[type=checkbox]').click()")
    assert 0 < browser.run(shown) == sum(each["tool_errors"] > 0 for each in data["trajectories"])
    browser.run("document.querySelector('input[type=checkbox]').click()")
    browser.run("""(() => {
        const search = document.querySelector('input[type=search]');
        search.value = 'EGGS alert-never-said'; search.dispatchEvent(new Event('input'));
    })()""")
    assert browser.run(shown) == 0
    browser.run("""(() => {
        const search = document.querySelector('input[type=search]');
        search.value = 'EGGS'; search.dispatchEvent(new Event('input'));
    })()""")
    assert 0 < browser.run(shown) < len(data["trajectories"])

    flip = data["flips"][0]
    browser.open(f"{written.as_uri()}#trajectory={flip['champion']}&beside={flip['challenger']}", 1280)
    ids = browser.run("[...document.querySelectorAll('.pane .id')].map(each => each.textContent)")
    assert ids == [flip["champion"], flip["challenger"]]
    browser.run(f"{button('Close this side')}.click()")
    assert browser.run("document.querySelectorAll('.pane').length") == 1
    assert browser.faults == []


def test_the_viewer_obeys_the_keyboard_and_tells_a_tokens_values(browser, written):
    data = Page(written).data
    browser.faults.clear()
    browser.open(written.as_uri(), 420)
    browser.run("document.querySelector('.list button').focus()")
    browser.press("ArrowDown")
    second = browser.run("document.querySelectorAll('.list button')[1].dataset.id")
    assert browser.run("document.querySelector('.pane .id').textContent") == second
    browser.run(f"{button('Tokens')}.click()")
    browser.run("document.querySelector('.turn.model .tokens').focus()")
    browser.press("ArrowRight")
    each = next(each for each in data["trajectories"] if each["id"] == second)
    first = each["mask"].index("1")
    hint = browser.run("document.getElementById('hint').textContent")
    assert f"id {each['ids'][first]}, position {first}" in hint and f"logprob {each['logprobs'][0] / 1000:.3f}" in hint
    assert browser.run("document.querySelector('.turn.model .tokens').textContent").startswith("<start_of_turn>model")
    assert browser.faults == []
