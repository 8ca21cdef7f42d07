"""examples/own_agent: collected through the endpoint, trained on and judged by the gate, in the folder as it is."""

import pytest


@pytest.mark.slow
def test_collect_train_gate(project):
    pytest.importorskip("openai")
    home = project("own_agent")
    home.small_loop()
    assert home.rows("SELECT count(*) FROM v_verdicts") == [(1,)]
    assert home.rows("SELECT count(*) FROM v_failures") == [(0,)]
    [(prompts, agents)] = home.rows(
        "SELECT count(*), count(*) FILTER (prompt LIKE '%/agent\\_%' ESCAPE '\\') FROM policies"
    )
    assert prompts == agents >= 2  # base and challenger, in collection and evaluation
    assert home.rows("SELECT DISTINCT tool FROM turns WHERE role = 'tool' AND error IS NULL") == [("calculate",)]
    [(written, trainable)] = home.rows("SELECT sum(written), sum(trainable) FROM v_trainable")
    assert written == trainable > 0
