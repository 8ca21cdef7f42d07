"""examples/own_task: collected, trained on and judged by the gate, in the folder as it is."""

import pytest

from agentloop.project import CHECKOUT
from agentloop.tools import ToolError
from agentloop.user_code import run_file


@pytest.mark.slow
def test_collect_train_gate(project):
    home = project("own_task")
    home.small_loop()
    assert home.rows("SELECT DISTINCT environment FROM tasks") == [("stockroom",)]
    families = {family for (family,) in home.rows("SELECT DISTINCT family FROM tasks")}
    assert families == {"sold", "found", "bought", "change"}
    assert home.rows("SELECT count(*) FROM adapters") == home.rows("SELECT count(*) FROM v_verdicts") == [(1,)]
    assert home.rows("SELECT bool_and(passed) FROM canaries") == [(True,)]

    stockroom = run_file(CHECKOUT / "examples" / "own_task" / "stockroom.py", about="example", error=AssertionError)
    environment = stockroom.Stockroom()
    tasks = {task.id: task for split in ("train", "heldout") for task in environment.stream(split, 0)}
    scored = home.rows(
        "SELECT t.task, t.answer, s.value FROM trajectories t JOIN scores s ON s.trajectory = t.id AND s.scorer = 'success'"
    )
    assert len(scored) == 24 * 4 + 2 * 16 * 2
    assert all(value == environment.verify(tasks[task], answer) for task, answer, value in scored)
    assert {value for _, _, value in scored} == {0.0, 1.0}, (
        "some are solved and some are not: there is something to learn"
    )

    tool = environment.tools(next(iter(tasks.values())))["calculate"]
    assert tool.call("7*20+8*52") == "556"
    with pytest.raises(ToolError, match="^-36 is no number of things$"):
        tool.call("12*2-60")
