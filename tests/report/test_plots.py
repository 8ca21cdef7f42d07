"""Figures: well-formed, with the database's numbers in them, and sane for odd data."""

import json
import math
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st
from recorded_campaign import CAMPAIGN, recorded  # noqa: F401  (a fixture)

from agentloop.campaign import results
from agentloop.records import Interval
from agentloop.report import plots, summary
from agentloop.report.summary import Row
from agentloop.report.svg import Canvas, ticks
from agentloop.store.database import Database

SVG = "{http://www.w3.org/2000/svg}"


def texts(figure: bytes) -> list[str]:
    return [element.text for element in ElementTree.fromstring(figure).iter(f"{SVG}text")]


def test_the_figures_for_prefect_hold_the_databases_numbers(recorded):
    with Database.open(recorded.database, read_only=True) as database:
        result = results.headline(database, CAMPAIGN)
        figures = plots.plots(database, CAMPAIGN, result)
        rows = summary.iterations(database, CAMPAIGN, result.control)
        ((funnel,),) = database.execute(
            "SELECT s.funnel FROM selections s JOIN v_iterations v ON v.dataset = s.dataset WHERE v.iteration = 3"
        )
    assert set(figures) == {"success", "selection"}
    shown = texts(figures["success"])
    for share in (rows[0].before, *(row.after for row in rows)):
        assert f"{100 * share.estimate:.0f}" in shown
    assert {"base", "1", "2", "3", "control"} <= set(shown)
    for rule, left in json.loads(funnel):
        assert rule in texts(figures["selection"]) and f"{left:,}" in texts(figures["selection"])


def test_many_iterations_do_not_crowd_the_axis():
    share = Interval(0.5, 0.4, 0.6)
    rows = [Row(number, False, 1, 1, share, share, share, 0.5, "keep", "adapter_0") for number in range(1, 61)]
    shown = texts(plots.success(rows).file())
    labels = [text for text in shown if text.isdigit() and text not in ("0", "25", "50", "75", "100")]
    assert 1 < len(labels) <= plots.CROWDED + 2


def test_long_curves_are_thinned_and_keep_their_mean():
    course = [(step, float(step % 7)) for step in range(1, 5001)]
    line = plots._thinned(course)
    assert len(line) <= plots.CURVE_POINTS and line[-1][0] == 5000
    means = [sum(value for _, value in points) / len(points) for points in (line, course)]
    assert math.isclose(*means, rel_tol=1e-2)


def test_a_single_length_and_a_single_step_can_be_drawn():
    lengths = plots.lengths([{"tokens": 90, "solved": True, "trajectories": 3}])
    losses = plots.curves([{"iteration": 1, "role": "challenger", "steps": [1], "values": [0.5]}], "Training loss")
    assert "90" in texts(lengths.file()) and "iteration 1" in texts(losses.file())


def test_text_is_escaped():
    canvas = Canvas('a "title" & more', 10)
    canvas.text(0, 0, "<script>alert(1)</script>")
    canvas.dot(0, 0, "now", "<b>")
    assert texts(canvas.file()) == ["<script>alert(1)</script>"]
    assert "<script" not in canvas.inline() and "<b>" not in canvas.inline()


@given(low=st.floats(-1e6, 1e6), span=st.floats(1e-3, 1e6))
def test_ticks_lie_inside_evenly_and_are_few(low, span):
    found = ticks(low, low + span)
    assert 1 <= len(found) <= 6
    assert all(low - 1e-6 * span <= tick <= low + span * (1 + 1e-6) for tick in found)
    steps = [after - before for before, after in zip(found, found[1:], strict=False)]
    assert all(math.isclose(step, steps[0], rel_tol=1e-3) for step in steps)


def test_durations_are_for_people():
    shown = [plots.duration(seconds) for seconds in (4.23, 59.9, 200, 7500)]
    assert shown == ["4.2 s", "59.9 s", "3 min 20 s", "2 h 05 min"]
