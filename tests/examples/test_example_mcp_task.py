"""examples/mcp_task: collected over an MCP server, trained on and judged by the gate, in the folder as it is."""

import psutil
import pytest


@pytest.mark.slow
def test_collect_train_gate(project):
    home = project("mcp_task")
    home.small_loop()
    assert home.rows("SELECT DISTINCT environment FROM tasks") == [("counting",)]
    assert home.rows("SELECT count(*) FROM v_verdicts") == [(1,)]
    assert home.rows("SELECT count(*) FROM v_failures") == [(0,)]
    answered = home.rows(
        "SELECT count(*) FROM turns WHERE role = 'tool' AND tool = 'calculate' AND error IS NULL AND text SIMILAR TO '[0-9]+'"
    )
    assert answered[0][0] > 50
    assert {value for (value,) in home.rows("SELECT DISTINCT value FROM scores WHERE scorer = 'success'")} == {0.0, 1.0}
    server = str(home.project / "server.py")
    assert not [each for each in psutil.process_iter(["cmdline"]) if server in (each.info["cmdline"] or ())]
