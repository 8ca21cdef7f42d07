"""A sample of crash_campaign.py: SIGKILL in the middle of a campaign, which ends as the undisturbed one all the same."""

import pytest
from crash_campaign import Campaign, Kill, NotedHome, differences, prepare
from home import free_port


@pytest.mark.parametrize(
    ("origin", "kills"),
    [
        # test_killed_shard.py kills a collection
        ("cli", [Kill("trainer", "train", True, 1.5), Kill("vllm", "evaluate")]),
        pytest.param("prefect", [Kill("everything", "ingest")], marks=pytest.mark.slow),
    ],
)
def test_a_campaign_that_is_killed_ends_as_the_undisturbed_one(home, tmp_path, origin, kills):
    undisturbed = NotedHome(home.root, home.port, iterations=2)
    killed = prepare(NotedHome(tmp_path, free_port(), iterations=2), like=undisturbed)
    outcome = Campaign(killed, origin, kills).run()
    assert outcome.faults == []
    assert [kill for kill, _ in outcome.kills] == kills
    assert differences(undisturbed, killed) == []
