from crash_store import run


def test_killed_writers_lose_nothing_that_they_acknowledged(tmp_path):
    outcome = run(tmp_path, kills=2, seconds=2, writers=2, seed=2)
    assert outcome.lost == () and outcome.repeated == 0 and not outcome.reader_failed
    # Else the test shows nothing.
    assert (
        outcome.acknowledged > 0 and outcome.reads > 0 and outcome.kills["ingest"] > 0 and outcome.kills["writer"] > 0
    )
