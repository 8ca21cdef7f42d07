"""A sample of tests/worlds/fuzz_outputs.py."""

from fuzz_outputs import fuzz


def test_nothing_that_is_said_is_lost(tmp_path):
    ended = fuzz(tmp_path, outputs=4000, seed=1)
    assert ended["outputs"] >= 4000
    assert {"answered", "malformed", "turn_limit", "failed"} <= ended.keys()
