"""The page against the database it was written from; in a browser as well where Chromium is installed."""

import base64
import dataclasses
import gzip
import json
import re
import shutil
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
from browser import EXECUTABLE, Browser
from recorded_campaign import CAMPAIGN, HOSTILE, Recorder, decode, recorded  # noqa: F401  (a fixture)

from agentloop.campaign import results
from agentloop.errors import ShardError, StoreError
from agentloop.evaluation.statistics import mcnemar
from agentloop.records import GuardResult, Interval
from agentloop.report import overview, page
from agentloop.report.comparison import Headline, percent, points
from agentloop.report.page import Sources
from agentloop.store import campaigns, champions, evaluations, meetings, verdicts
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
        self.index = self.unpacked("index")

    def unpacked(self, name: str):
        return json.loads(gzip.decompress(base64.b64decode(self.scripts[name])))

    @property
    def trajectories(self) -> list[dict]:
        """As the viewer puts them together, with what was said and the tokens."""
        index = self.index
        chunks = [self.unpacked(name) for name in self.scripts if name and name.startswith("chunk-")]
        found = []
        for values in zip(*index["rows"].values(), strict=True):
            each = dict(zip(index["rows"], values, strict=True))
            each |= {name: names[each[name]] for name, names in index["names"].items()}
            each |= chunks[each["chunk"]][each["place"]] | {"task": index["tasks"][each["task"]]["id"]}
            found.append(each | {"solved": each["success"] >= 0.5})
        return found

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


def write(recorder: Recorder, output: Path, *, shards: Path | None = None, decode=None, cache=None, **options) -> Page:
    sources = Sources(shards or recorder.root / "shards", decode, cache)
    with Database.open(recorder.database, read_only=True) as database:
        return Page(page.write(database, CAMPAIGN, results.headline(database, CAMPAIGN), sources, output, **options))


@pytest.fixture(scope="module")
def written(recorded, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("page") / "recorded.html"
    write(recorded, path, decode=decode)
    return path


def test_the_page_is_whole_and_asks_nobody_for_anything(written):
    found = Page(written)
    assert len(found.ids) == len(set(found.ids))
    assert {link[1:] for link in found.links if link.startswith("#")} <= set(found.ids)
    assert {link for link in found.links if not link.startswith("#")} == set()
    assert found.policy.startswith("default-src 'none'")
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org/2000/svg)", found.source)


def test_what_a_model_wrote_is_never_markup(written):
    found = Page(written)
    assert any(HOSTILE in turn["text"] for each in found.trajectories for turn in each["turns"])
    assert {name for name in found.scripts if name is None or not name.startswith("chunk-")} == {"index", None}
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
        ((reason,),) = database.execute("SELECT reason FROM v_verdicts WHERE iteration = 3")
        changed = counted(database)[3]
        datasets = database.execute("SELECT id FROM datasets")
    assert " → ".join(f"{left:,} {rule}" for rule, left in json.loads(funnel)) in text
    assert reason in text
    assert f"iteration 3: {changed['gained']} gained" in text and f"iteration 3: {changed['lost']} lost" in text
    for (dataset,) in datasets:
        assert dataset in text
    assert "training.learning_rate 0.0002" in text and "0.00041" in text


def test_every_trajectory_is_there_as_the_shards_have_it(recorded, written):
    found = Page(written)
    stored = {each.id: each for shard in (recorded.root / "shards").glob("*.parquet") for each in read_shard(shard)}
    with Database.open(recorded.database, read_only=True) as database:
        success = dict(database.execute("SELECT trajectory, success FROM v_success"))
    trajectories = found.trajectories
    assert {each["id"] for each in trajectories} == set(stored) and len(trajectories) > 1000
    assert f"All {len(stored):,} trajectories of the campaign." in found.text
    for each in trajectories:
        trajectory = stored[each["id"]]
        assert each["success"] == success[each["id"]] and each["task"] == trajectory.task.id
        assert each["ids"] == list(trajectory.token_ids)
        assert each["mask"] == "".join("01"[own] for own in trajectory.mask)
        logprobs = [value for value, own in zip(trajectory.logprobs, trajectory.mask, strict=True) if own]
        assert each["logprobs"] == pytest.approx([1000 * value for value in logprobs], abs=0.51)
        assert [turn["text"] for turn in each["turns"]] == [turn.text for turn in trajectory.turns]
        said = "".join(found.index["vocabulary"][str(token)] for token in each["ids"])
        assert all(turn.text in said for turn in trajectory.turns)


def counted(database: Database) -> dict[int, dict[str, int]]:
    """Tasks gained and lost by iteration, as the gate's own test counts them."""
    found = {}
    for iteration, *pair in database.execute("SELECT iteration, champion, challenger FROM v_verdicts"):
        test = mcnemar(*(evaluations.load(database, each).successes for each in pair))
        found[iteration] = {"gained": test.gained, "lost": test.lost}
    return found


def test_a_flip_is_a_task_that_the_verdict_counts(recorded, written):
    found = Page(written)
    by_id = {each["id"]: each for each in found.trajectories}
    with Database.open(recorded.database, read_only=True) as database:
        judged = counted(database)
    assert set(judged) == {1, 2, 3}
    for iteration, changed in judged.items():
        own = [flip for flip in found.index["flips"] if flip["iteration"] == iteration]
        assert changed == {kind: sum(flip["flip"] == kind for flip in own) for kind in ("gained", "lost")}
        assert len({flip["task"] for flip in own}) == len(own)
    for flip in found.index["flips"]:
        before, after = by_id[flip["champion"]], by_id[flip["challenger"]]
        assert (before["task"], before["sample"]) == (after["task"], after["sample"])
        assert (before["solved"], after["solved"]) == ((False, True) if flip["flip"] == "gained" else (True, False))


def test_a_live_page_has_the_newest_trajectories_and_reads_itself_anew(recorded, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "LIVE_BYTES", 200_000)
    whole, live = write(recorded, tmp_path / "a.html"), write(recorded, tmp_path / "b.html", refresh=7)
    assert "http-equiv" in live.source and '<body data-refresh="7"' in live.source
    assert '<body data-refresh="0"' in whole.source and 'http-equiv="refresh"' not in whole.source
    assert 0 < len(live.trajectories) < len(whole.trajectories)
    assert f"The newest {len(live.trajectories):,} of the campaign's {len(whole.trajectories):,}" in live.text
    ids = {each["id"] for each in live.trajectories}
    assert all({flip["champion"], flip["challenger"]} <= ids for flip in live.index["flips"])


def test_a_page_holds_what_a_browser_opens_at_once_or_the_iterations_that_are_asked_for(
    recorded, tmp_path, monkeypatch
):
    whole = write(recorded, tmp_path / "a.html")
    monkeypatch.setattr(page, "PAGE_BYTES", 200_000)
    newest, first = write(recorded, tmp_path / "b.html"), write(recorded, tmp_path / "c.html", iterations=range(1, 3))
    everything = {each["id"]: each for each in whole.trajectories}
    assert 0 < len(newest.trajectories) < len(everything)
    assert f"The newest {len(newest.trajectories):,} of the campaign's {len(everything):,}" in newest.text
    assert f"The {len(first.trajectories):,} trajectories of iteration 1 to 2, of the" in first.text
    early = {name for name, each in everything.items() if each["iteration"] in (1, 2)}
    assert early <= {each["id"] for each in first.trajectories} < set(everything)
    assert "agentloop report --iterations" in newest.text


def test_what_was_packed_once_is_taken_from_the_cache(recorded, tmp_path):
    first = write(recorded, tmp_path / "a.html", cache=tmp_path / "cache", decode=decode)
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").iterdir()}
    again = write(recorded, tmp_path / "b.html", cache=tmp_path / "cache", decode=decode)
    assert len(kept) == sum((name or "").startswith("chunk-") for name in first.scripts)
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    assert again.scripts == first.scripts


def test_a_campaign_at_its_beginning_has_a_page(tmp_path):
    recorder = Recorder(tmp_path, training_tasks=4, heldout_tasks=4)
    with Database.open(recorder.database) as database:
        campaigns.register(database, recorder.settings)
    assert write(recorder, tmp_path / "registered.html").trajectories == []
    with Database.open(recorder.database) as database:
        campaigns.begin_iteration(database, CAMPAIGN, 1, champion=None)
        recorder.roll_out(database, None, recorder.heldout, 0.5, 1, "evaluate")
    found = write(recorder, tmp_path / "begun.html")
    assert "All 16 trajectories of the campaign." in found.text and "no gain can be stated" in found.text
    with Database.open(recorder.database, read_only=True) as database, pytest.raises(StoreError, match="no-such"):
        nothing = Headline(None, None, None, None, (), None, None)
        page.write(database, "no-such", nothing, Sources(tmp_path), tmp_path / "none.html")
    assert not (tmp_path / "none.html").exists()


def test_shards_that_moved_are_found_and_lost_ones_left_out(tmp_path):
    recorder = Recorder(tmp_path / "data", training_tasks=4, heldout_tasks=4)
    with Database.open(recorder.database) as database:
        campaigns.register(database, recorder.settings)
        recorder.roll_out(database, None, recorder.heldout, 0.5, 1, "evaluate")
    shutil.move(recorder.root / "shards", tmp_path / "moved")
    assert not any("ids" in each for each in write(recorder, tmp_path / "lost.html").trajectories)
    moved = tmp_path / "moved"
    assert all(each["ids"] for each in write(recorder, tmp_path / "found.html", shards=moved).trajectories)
    (shard,) = moved.glob("*.parquet")
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(ShardError, match=shard.name):
        write(recorder, tmp_path / "damaged.html", shards=moved)
    assert not (tmp_path / "damaged.html").exists()


def test_looks_guards_and_rollbacks_are_shown_and_flips_counted_once(tmp_path):
    recorder = Recorder(tmp_path, training_tasks=6, heldout_tasks=8)
    recorder.record(iterations=1, control=False)
    with Database.open(recorder.database) as database:
        ((first, adapter),) = database.execute("SELECT id, adapter FROM verdicts")
        flips = database.execute("SELECT flip, count(*) FROM v_task_flips GROUP BY flip ORDER BY flip")
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


def opened(browser: Browser, address: str, width: int, **options) -> None:
    browser.faults.clear()
    browser.open(address, width, **options)
    until(browser, "document.body?.dataset.ready === 'true'")


def until(browser: Browser, condition: str) -> None:
    """Wait for what the viewer does when it has unpacked something."""
    deadline = time.monotonic() + 30
    while not browser.run(condition):
        assert time.monotonic() < deadline, condition
        time.sleep(0.02)


def shows(browser: Browser, *ids: str) -> None:
    until(browser, f"document.querySelector('.panes').dataset.shown === {json.dumps(' '.join(ids))}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_it_opens_without_a_fault_and_fits(browser, written, width, scheme):
    flip = Page(written).index["flips"][0]
    opened(browser, written.as_uri(), width, scheme=scheme)
    assert browser.run("document.title") == f"{CAMPAIGN}: agentloop report"
    browser.run("document.querySelectorAll('details').forEach(each => each.open = true)")
    browser.run(f"{button('Tokens')}.click(), {button('Next flip')}.click()")
    shows(browser, flip["champion"], flip["challenger"])
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run("document.querySelectorAll('.pane').length") == 2
    assert (
        browser.run(
            """[...document.querySelectorAll('main *')].filter(each => {
            const box = each.getBoundingClientRect();
            const outside = box.right > innerWidth + 1 || box.left < -1;
            return box.width && outside && !each.closest('.scroll') && !each.closest('.related') && !each.closest('svg');
        }).map(each => each.outerHTML.slice(0, 80))"""
        )
        == []
    )
    assert browser.faults == []


def test_after_and_verdict_are_in_sight_on_a_phone(browser, written):
    opened(browser, written.as_uri(), 400)
    table = "[...document.querySelectorAll('caption')].find(each => each.textContent === 'Iterations').closest('table')"
    right = f"(name => [...{table}.querySelectorAll('th')].find(each => each.textContent === name).getBoundingClientRect().right)"
    assert browser.run(f"{right}('After')") < browser.run(f"{right}('Verdict')") <= 400


def test_the_index_fits_a_phone_with_success_verdict_and_state_in_sight(browser, recorded, tmp_path):
    with Database.open(recorded.database, read_only=True) as database:
        index = overview.write(database, tmp_path)
    browser.faults.clear()
    browser.open(index.as_uri(), 400)
    assert browser.run("document.documentElement.scrollWidth") <= 400
    edges = browser.run("[...document.querySelectorAll('tbody td')].map(each => each.getBoundingClientRect().right)")
    assert all(right <= 400 for right in edges[:4])
    assert browser.faults == []


def test_the_panes_line_up_and_mark_where_they_part(browser, written):
    found = Page(written)
    by_id = {each["id"]: each for each in found.trajectories}
    opened(browser, written.as_uri(), 1280)
    for flip in found.index["flips"][:6]:
        browser.run(f"{button('Next flip')}.click()")
        shows(browser, flip["champion"], flip["challenger"])
        tops = browser.run(
            """[...document.querySelectorAll('.pane')].map(pane => [...pane.querySelectorAll('.turn')]
            .map(turn => Math.round(turn.getBoundingClientRect().top)))"""
        )
        shared = min(map(len, tops))
        assert shared > 1 and tops[0][:shared] == tops[1][:shared]
        before, after = (by_id[flip[side]] for side in ("champion", "challenger"))
        token = next(
            place for place, pair in enumerate(zip(before["ids"], after["ids"], strict=False)) if pair[0] != pair[1]
        )
        turn = next(place for place, each in enumerate(before["turns"]) if each["token_end"] > token)
        marked = browser.run(
            """[...document.querySelectorAll('.pane')].map(pane =>
            [...pane.querySelectorAll('.turn')].findIndex(turn => turn.classList.contains('parting')))"""
        )
        assert marked == [turn, turn]
        assert f"The same until turn {turn + 1}" in browser.run("document.querySelector('.difference').textContent")
        assert f"token {token}." in browser.run("document.querySelector('.difference').textContent")
    browser.run(f"{button('Previous flip')}.click()")
    flip = found.index["flips"][4]
    shows(browser, flip["champion"], flip["challenger"])
    assert browser.faults == []


def test_the_viewer_filters_searches_and_compares(browser, written):
    found = Page(written)
    trajectories = found.trajectories
    opened(browser, written.as_uri(), 1280)
    count = "document.querySelector('.count').textContent"

    def counts(wanted: int) -> None:
        until(browser, f"{count} === '{wanted:,} of {len(trajectories):,} trajectories'")

    def choose(label: str, value: str) -> None:
        browser.run(f"""(() => {{
            const select = [...document.querySelectorAll('.filters label')]
                .find(each => each.firstChild.textContent === {json.dumps(label)}).querySelector('select');
            select.value = {json.dumps(value)}; select.dispatchEvent(new Event('change'));
        }})()""")

    def look_for(words: str) -> None:
        browser.run(f"""(() => {{
            const search = document.querySelector('input[type=search]');
            search.value = {json.dumps(words)}; search.dispatchEvent(new Event('input'));
        }})()""")

    counts(len(trajectories))
    assert 0 < browser.run("document.querySelectorAll('.list button').length") < 60
    choose("Outcome", "true")
    choose("Purpose", "collect")
    counts(sum(each["solved"] and each["purpose"] == "collect" for each in trajectories))
    choose("Outcome", "")
    choose("Purpose", "")
    choose("Error", "tool")
    counts(sum(each["tool_errors"] > 0 for each in trajectories))
    choose("Error", "")
    look_for("EGGS alert-never-said")
    counts(0)
    said = trajectories[-1]["turns"][1]["text"].split()[-1]
    look_for(said)
    counts(
        sum(
            said.lower() in json.dumps([each["id"], each["turns"], each["answer"]], ensure_ascii=False).lower()
            for each in trajectories
        )
    )
    look_for("")
    counts(len(trajectories))
    browser.run(
        "(list => { list.scrollTop = list.scrollHeight; list.dispatchEvent(new Event('scroll')); })(document.querySelector('.list'))"
    )
    last = found.index["rows"]["id"][-1]
    until(browser, f"[...document.querySelectorAll('.list button')].at(-1).dataset.id === '{last}'")

    flip = found.index["flips"][0]
    opened(browser, f"{written.as_uri()}#trajectory={flip['champion']}&beside={flip['challenger']}", 1280)
    ids = browser.run("[...document.querySelectorAll('.pane .id')].map(each => each.textContent)")
    assert ids == [flip["champion"], flip["challenger"]]
    browser.run(f"{button('Close this side')}.click()")
    shows(browser, flip["champion"])
    assert browser.faults == []


def test_a_page_that_reads_itself_anew_goes_on_where_it_was(browser, recorded, tmp_path):
    path = tmp_path / "live.html"
    flip = write(recorded, path, refresh=4).index["flips"][2]
    opened(browser, f"{path.as_uri()}#trajectory={flip['champion']}&beside={flip['challenger']}", 1280)
    browser.run("""(() => {
        const search = document.querySelector('input[type=search]');
        search.value = 'total'; search.dispatchEvent(new Event('input'));
    })()""")
    browser.run("scrollTo({ top: 900, behavior: 'instant' }), document.activeElement.blur(), window.before = true")
    until(browser, "window.before !== true && document.body?.dataset.ready === 'true'")
    assert abs(browser.run("scrollY") - 900) < 50
    assert browser.run("document.querySelector('input[type=search]').value") == "total"
    ids = browser.run("[...document.querySelectorAll('.pane .id')].map(each => each.textContent)")
    assert ids == [flip["champion"], flip["challenger"]]
    path.write_text(re.sub(r'data-written="[^"]+"', 'data-written="2020-01-01T00:00:00Z"', path.read_text()))
    opened(browser, path.as_uri(), 1280)
    assert not browser.run("document.getElementById('silent').hidden")


def test_the_viewer_obeys_the_keyboard_and_tells_a_tokens_values(browser, written):
    found = Page(written)
    opened(browser, written.as_uri(), 400)
    second = found.index["rows"]["id"][1]
    browser.run("document.querySelector('.list button').focus()")
    browser.press("ArrowDown")
    shows(browser, second)
    assert browser.run("document.activeElement.dataset.id") == second
    browser.run(f"{button('Tokens')}.click()")
    until(browser, "document.querySelector('.turn.model .tokens') !== null")
    browser.run("document.querySelector('.turn.model .tokens').focus()")
    browser.press("ArrowRight")
    each = next(each for each in found.trajectories if each["id"] == second)
    first = each["mask"].index("1")
    hint = browser.run("document.getElementById('hint').textContent")
    assert f"id {each['ids'][first]}, position {first}" in hint and f"logprob {each['logprobs'][0] / 1000:.3f}" in hint
    assert browser.run("document.querySelector('.turn.model .tokens').textContent").startswith("<start_of_turn>model")
    assert browser.faults == []
