"""A real campaign whose disk was pruned: what is told of it stays true, nothing is done again, and it goes on."""

import json
import shutil

import pytest
from home import Home, free_port

MERCILESS = (
    "retention.adapter_days=0",
    "retention.adapter_iterations=1",
    "retention.log_days=0",
    "retention.cache_days=0",
)
NAMES = {
    "datasets": "SELECT id FROM datasets ORDER BY 1",
    "adapters": "SELECT id FROM adapters ORDER BY 1",
    "trajectories": "SELECT id FROM trajectories ORDER BY 1",
    "verdicts": "SELECT id, decision FROM verdicts ORDER BY 1",
    "evaluations": "SELECT id, success FROM evaluations ORDER BY 1",
}


@pytest.fixture(scope="module")
def pruned(home, tmp_path_factory):
    """A copy of the campaign, pruned without mercy. Beside it: what it was before, and what `prune` said."""
    root = tmp_path_factory.mktemp("pruned") / "data"
    shutil.copytree(home.root, root, ignore=shutil.ignore_patterns("prefect", "services"))
    copy = Home(root, free_port())
    names = {name: copy.rows(query) for name, query in NAMES.items()}
    words = ("prune", "--json", "--shards", "--campaign", "demo", *MERCILESS)
    planned, done = (json.loads(copy.run(*words, *more)) for more in ((), ("--yes",)))
    yield copy, names, planned, done
    copy.run("down")


def test_what_was_said_was_done(pruned):
    copy, names, planned, done = pruned
    entries = {each["kind"]: each["entries"] for each in done["kinds"]}
    assert {each["kind"]: len(each["entries"]) for each in planned["kinds"]} == entries
    assert entries["adapters"] == 1 and entries["training"] and entries["shards"]
    assert {name: copy.rows(query) for name, query in NAMES.items()} == names


def test_the_report_and_the_lineage_tell_it(pruned):
    copy, *_ = pruned
    ((gone,),) = copy.rows("SELECT adapter FROM pruned_adapters")
    told = f"`agentloop reproduce {gone}` makes them again"
    assert told in copy.run("lineage", gone)
    page = copy.run("report", "--campaign", "demo").strip()
    assert told in open(page, encoding="utf-8").read()
    assert told in copy.run("canary", gone, code=2)


@pytest.mark.slow
def test_it_is_made_again_and_the_campaign_goes_on(pruned):
    copy, names, *_ = pruned
    ((gone,),) = copy.rows("SELECT adapter FROM pruned_adapters")
    shards = {path.name for path in (copy.root / "shards").iterdir()}
    copy.improve()  # all of it is done already
    assert {path.name for path in (copy.root / "shards").iterdir()} == shards
    assert not (copy.root / "adapters" / gone).exists()
    assert "as those that were pruned" in copy.run("reproduce", gone)
    assert copy.rows("SELECT count(*) FROM pruned_adapters") == [(0,)]

    copy.improve("iterations=3")
    after = {name: copy.rows(query) for name, query in NAMES.items()}
    assert all(set(before) < set(after[name]) for name, before in names.items())
    assert copy.rows("SELECT count(*) FROM iterations WHERE finished IS NOT NULL") == [(3,)]
