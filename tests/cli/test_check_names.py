"""`agentloop check`: which words are the task, and which are settings."""

import pytest
from typed import mistake


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["none.jsonl"], "environment: there is no file "),
        (["nothing"], "environment: there is no 'nothing'; there are: arithmetic, database"),
        (["arithmetic", "database"], "check takes one task, not 2: arithmetic database"),
        (["arithmetic", "nothing.at=1"], "nothing: unknown setting"),
        (["reasoning-gym:chain_sum,min_terms=3", "arithmetic"], "check takes one task, not 2: "),
    ],
)
def test_what_is_refused(agentloop, words, line):
    assert mistake(agentloop("check", *words)).startswith(line)


def test_an_environment_with_options_is_no_setting(agentloop):
    pytest.importorskip("reasoning_gym")
    few = ("--tasks", "30", "evaluate.tasks=5", "collect.tasks=5")
    code, output, errors = agentloop("check", "reasoning-gym:chain_sum,min_terms=3,max_terms=3", *few)
    assert (code, errors) == (0, ""), output
    assert "there are none: the model answers by itself" in output
    assert mistake(agentloop("check", "reasoning-gym:chain_sum,terms=3")).startswith(
        "environment: reasoning-gym:chain_sum,terms=3: chain_sum: TypeError"
    )
