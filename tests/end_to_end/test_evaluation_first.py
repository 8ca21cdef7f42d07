"""`agentloop eval` before the first run, as the documentation says, and then other settings."""

import pytest
from home import Home, free_port

from agentloop.store.database import Database


@pytest.fixture
def home(tmp_path):
    """A data root of its own: what other tests count is in the one that they share."""
    home = Home(tmp_path / "home", free_port())
    yield home
    home.run("down")


def evaluations(home: Home) -> set[str]:
    with Database.open_snapshot(home.root / "agentloop.duckdb") as database:
        return {
            name
            for (name,) in database.execute(
                "SELECT DISTINCT evaluation FROM evaluation_uses WHERE campaign = 'early' AND suite = 'heldout'"
            )
        }


@pytest.mark.slow
def test_what_was_measured_before_belongs_to_no_campaign_of_other_settings(home):
    home.run("eval", "--profile", "demo", "campaign=early", "evaluate.tasks=8", "evaluate.samples=1", "seed=4")
    (first,) = evaluations(home)
    home.improve("campaign=early", "iterations=1", "seed=5")
    measured = evaluations(home)
    assert len(measured) == 2 and first not in measured
    message = home.improve("campaign=early", "iterations=1", "seed=4", code=2).splitlines()[-1]
    assert message == (
        "error: seed: campaign 'early' began with 5, now it is 4; set it back or choose another campaign name"
    )
